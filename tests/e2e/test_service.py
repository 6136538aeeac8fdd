"""The service as a process: what it keeps through restarts, kills and signals."""

import signal

import httpx
import pytest

from tests.e2e import kills
from tests.e2e.process import ServiceProcess
from tests.tiny_bundle import build_tiny_bundle

pytestmark = pytest.mark.slow


@pytest.fixture
def service(tmp_path):
    build_tiny_bundle(tmp_path / "models" / "tiny" / "1")
    process = ServiceProcess(data=tmp_path / "data", models=tmp_path / "models", bundle="tiny")
    with process:
        yield process


def put(service, *texts):
    documents = [{"id": text.split()[0], "text": text} for text in texts]
    answer = httpx.post(
        service.url + "/documents", json={"documents": documents, "wait": "visible"}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def found(service, query="anything", **options):
    answer = httpx.post(service.url + "/search", json={"query": query, **options}, timeout=30)
    assert answer.status_code == 200, answer.text
    return [hit["document"] for hit in answer.json()["hits"]]


def test_documents_are_found_again_after_a_restart(service):
    put(service, "bread is baked", "rivers flow")
    assert sorted(found(service)) == ["bread", "rivers"]
    assert service.stop() in (0, -signal.SIGTERM)
    service.start()
    assert sorted(found(service)) == ["bread", "rivers"]


def test_no_acknowledged_document_is_lost_and_no_deleted_one_returns_through_kills(tmp_path):
    acknowledged, alive, violations = kills.run(tmp_path, kills=4, seed=1)
    assert acknowledged > 20, "the writers hardly wrote: the kills prove nothing"
    assert alive > 0
    assert violations == []


def test_a_killed_index_host_is_replaced_and_searches_go_on(service):
    put(service, "bread is baked")
    service.kill_index_host()
    answers = [
        httpx.post(service.url + "/search", json={"query": "bread"}, timeout=30) for _ in range(3)
    ]
    assert answers[-1].status_code == 200
    for answer in answers:
        assert answer.status_code == 200 or (
            answer.status_code == 503
            and answer.json()["code"] == "index_unavailable"
            and int(answer.headers["retry-after"]) >= 1
        )
    assert found(service) == ["bread"]


def test_a_damaged_shard_is_rebuilt_from_the_catalog(service):
    put(service, *(f"{word} and more" for word in kills.WORDS))
    service.stop()
    shards = sorted((service.data / "index").glob("g*-c*"))
    assert shards, "the embedded index keeps a folder for each index"
    for shard in shards:
        for file in shard.rglob("*"):
            if file.is_file():
                file.write_bytes(b"damaged")
    service.start()
    assert sorted(found(service, limit=50)) == sorted(kills.WORDS)


def test_a_sigterm_ends_the_service_within_seconds_and_keeps_everything(service):
    put(service, "bread is baked")
    assert service.stop(within_s=15) in (0, -signal.SIGTERM)
    assert "Traceback" not in service.log


def test_readiness_falls_before_service_ends(tmp_path):
    build_tiny_bundle(tmp_path / "models" / "tiny" / "1")
    process = ServiceProcess(
        data=tmp_path / "data", models=tmp_path / "models", bundle="tiny", drain_s="2"
    )
    with process:
        process.signal(signal.SIGTERM)
        statuses = set()
        while not statuses & {503}:
            statuses.add(httpx.get(process.url + "/readyz").status_code)
        assert httpx.get(process.url + "/livez").status_code == 200
        assert httpx.post(process.url + "/embed", json={"inputs": "x"}).status_code == 200
        assert process.stop() in (0, -signal.SIGTERM)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"bundle": "missing"}, "no bundle missing"),
        ({"bundle": "tiny", "device": "cuda"}, "ISOGLOSS_DEVICE"),
        ({"bundle": "tiny", "max_itmes": "1"}, "ISOGLOSS_MAX_ITMES is not a setting"),
        ({"bundle": "tiny", "qdrant_url": "ftp://nowhere"}, "ISOGLOSS_QDRANT_URL"),
    ],
)
def test_a_service_that_cannot_start_says_why_in_one_line(tmp_path, settings, complaint):
    build_tiny_bundle(tmp_path / "models" / "tiny" / "1")
    process = ServiceProcess(data=tmp_path / "data", models=tmp_path / "models", **settings)
    with pytest.raises(AssertionError, match="the service ended with 2"):
        process.start()
    assert complaint in process.log.splitlines()[-1]
