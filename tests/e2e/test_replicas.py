"""Three processes over one catalog and one Qdrant server: any of them may be asked, stopped or killed.

The catalog is on PostgreSQL where that can be started, else it is one SQLite file, which processes of
one machine can share as well.
"""

import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache

import httpx
import pytest
from sqlalchemy import select

from service.bundle import Bundle
from service.catalog import Catalog, schema
from service.encoder import Encoder
from tests import postgres, qdrant_server
from tests.e2e.process import ServiceProcess
from tests.tiny_bundle import build_tiny_bundle

pytestmark = pytest.mark.slow

PODS = "abc"
WORDS = ["river", "mountain", "bread", "window", "music", "winter", "garden", "letter"]
DOCUMENTS = 40
WITHIN_S = 90
"""A slow machine may take so long for what takes a second or two on one that is quiet."""
SETTINGS = {
    "bundle": "tiny/1",
    "threads": "1",
    "gate_samples_per_language": "4",
    "gate_latency_ratio": "1000",  # the machine of a test may be busy
    "visible_timeout_s": "60",
    "laggards_s": "3",
    "soak_s": "600",
}


class Pods:
    """The processes by their ids, and the catalog that they share."""

    def __init__(self, processes, catalog, encoders):
        self.processes = processes
        self.catalog = catalog
        self.encoders = encoders
        self.model = cache(lambda generation: catalog.generations.get(generation).model)

    def ask(self, pod, method, path, **options):
        return httpx.request(method, self.processes[pod].url + path, timeout=WITHIN_S, **options)

    def put(self, pod, *documents, collection="default"):
        body = {"collection": collection, "documents": list(documents), "wait": "visible"}
        answer = self.ask(pod, "POST", "/documents", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["visible"]

    def search(self, pod, query, **options):
        answer = self.ask(pod, "POST", "/search", json={"query": query, **options})
        assert answer.status_code == 200, (pod, answer.text)
        return answer.json()

    def names(self, pod, query="anything", **options):
        return {hit["document"] for hit in self.search(pod, query, limit=500, **options)["hits"]}

    def activate(self, pod, **options):
        answer = self.ask(pod, "POST", "/models/tiny/2/activate", json=options)
        assert answer.status_code == 202, answer.text
        return answer.json()["generation"]

    def step(self, pod, generation, step):
        answer = self.ask(pod, "POST", f"/migrations/{generation}/{step}")
        assert answer.status_code == 202, answer.text

    def reach(self, pod, generation, *states):
        def reached():
            seen = self.ask(pod, "GET", f"/migrations/{generation}").json()
            assert seen["state"] not in {"failed", "aborted"}, seen["error"]
            return seen if seen["state"] in states else None

        return until(reached)

    def answer_from(self, generation, pods=PODS):
        """Wait until all of them do, which they find out by themselves."""
        until(lambda: {self.search(pod, "river")["generation"] for pod in pods} == {generation})

    def owner(self, lease):
        columns = schema.leases.c
        with self.catalog._database.read() as connection:
            return connection.scalar(select(columns.owner).where(columns.name == lease))

    def applied(self, pod):
        """The passages that a process has written to indexes."""
        name = 'isogloss_index_applied_passages_total{operation="upsert"}'
        lines = self.ask(pod, "GET", "/metrics").text.splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)

    def right(self, query, answer):
        """Whether generation, space and scores of an answer belong together."""
        encoder = self.encoders[answer["bundle"]]
        assert answer["space"] == encoder.space
        assert answer["bundle"] == self.model(answer["generation"])
        [asked] = encoder.infer(encoder.tokenize([query], "query"))
        for hit in answer["hits"]:
            [stored] = encoder.infer(encoder.tokenize([hit["text"]], "passage"))
            assert hit["score"] == pytest.approx(float(asked @ stored), abs=0.01)

    @contextmanager
    def searched(self, pods=PODS):
        """Ask these processes all the time; every answer is checked, and all are there."""
        stop, seen = threading.Event(), {pod: Counter() for pod in pods}

        def ask(pod):
            number = 0
            while not stop.wait(0.02):
                number += 1
                query = f"{WORDS[number % 8]} {number}"
                answer = self.search(pod, query, limit=5)
                self.right(query, answer)
                assert answer["hits"]
                seen[pod][answer["generation"]] += 1

        with ThreadPoolExecutor(len(pods)) as pool:
            asking = [pool.submit(ask, pod) for pod in pods]
            try:
                yield seen
            finally:
                stop.set()
        for each in asking:
            each.result()


def until(holds):
    """Wait for something that nobody announces."""
    end = time.monotonic() + WITHIN_S
    while not (found := holds()):
        assert time.monotonic() < end, f"not within {WITHIN_S} s"
        time.sleep(0.05)
    return found


def documents(count, first=0):
    return [
        {"id": f"d{n}", "text": f"{WORDS[n % 8]} {WORDS[n // 8 % 8]} {n}", "language": "en"}
        for n in range(first, first + count)
    ]


@contextmanager
def catalog_url(request, folder):
    if postgres.why_not() is None:
        with postgres.schema(request.getfixturevalue("postgres_server")) as url:
            yield url
    else:
        yield f"sqlite:///{folder / 'catalog.db'}"


@pytest.fixture
def pods(request, tmp_path):
    """Three processes that began at the same moment, with nothing there."""
    lease_ttl_s = getattr(request, "param", "10")
    models = tmp_path / "models"
    for version, seed in (("1", 0), ("2", 7)):
        build_tiny_bundle(models / "tiny" / version, version=version, seed=seed)
    encoders = {
        f"tiny/{folder.name}": Encoder.open(Bundle.open(folder), precision="fp32", threads=1)
        for folder in (models / "tiny").iterdir()
    }
    with ExitStack() as stack:
        url = stack.enter_context(catalog_url(request, tmp_path))
        qdrant = stack.enter_context(qdrant_server.serving())
        processes = {
            pod: ServiceProcess(
                data=tmp_path / pod,
                models=models,
                pod_id=pod,
                catalog_url=url,
                qdrant_url=qdrant,
                lease_ttl_s=lease_ttl_s,
                **SETTINGS,
            )
            for pod in PODS
        }
        for process in processes.values():
            stack.callback(kill, process)
        with ThreadPoolExecutor(len(PODS)) as pool:
            begun = [pool.submit(each.start, within_s=WITHIN_S) for each in processes.values()]
        for each in begun:
            each.result()
        yield Pods(processes, stack.enter_context(Catalog(url)), encoders)


def kill(process):
    if process._process is not None:
        process.kill()


def test_what_is_written_through_one_process_is_found_through_the_others(pods):
    assert [each.id for each in pods.catalog.generations.list()] == [1]
    for number, pod in enumerate(PODS):
        pods.put(pod, *documents(5, first=5 * number))
        expected = {f"d{n}" for n in range(5 * number + 5)}
        assert [pods.names(each) for each in PODS if each == pod] == [expected]
        for other in PODS:
            until(lambda other=other, expected=expected: pods.names(other) == expected)
    made = pods.ask("a", "POST", "/collections", json={"name": "news", "fields": {}})
    assert made.status_code == 201, made.text
    for number, pod in enumerate("bca"):
        pods.put(pod, *documents(1, first=number), collection="news")
    for pod in PODS:
        until(lambda pod=pod: pods.names(pod, collection="news") == {"d0", "d1", "d2"})
    gone = pods.ask("c", "POST", "/documents/delete", json={"ids": ["d0"], "wait": "visible"})
    assert gone.status_code == 200, gone.text
    assert all("d0" not in pods.names(pod) for pod in PODS)
    assert sorted(map(pods.applied, PODS)) == [0, 0, 18]  # one of them writes


def test_a_migration_asked_of_one_process_moves_all_and_so_does_its_rollback(pods):
    pods.put("a", *documents(DOCUMENTS))
    pods.answer_from(1)
    with pods.searched() as seen:
        generation = pods.activate("b")
        late = 0
        while pods.catalog.generations.get(generation).state != "active":
            pods.put(PODS[late % 3], *documents(1, first=DOCUMENTS + late))
            late += 1
        pods.reach("c", generation, "active")
        pods.answer_from(generation)
        epochs = pods.ask("a", "GET", f"/migrations/{generation}").json()["pods"]
        until(lambda: {each.epoch for each in pods.catalog.pods.list(fresh_s=60)} == {2})
        assert {each["id"] for each in epochs} == set(PODS)
        other = next(pod for pod in PODS if pod != pods.owner("migration"))
        pods.step(other, generation, "rollback")
        pods.answer_from(1)
        until(lambda: {each.epoch for each in pods.catalog.pods.list(fresh_s=60)} == {3})
    assert all(set(each) == {1, generation} for each in seen.values())
    expected = {each["id"] for each in documents(DOCUMENTS + late)}
    for pod in PODS:
        assert pods.names(pod) == expected
    # Each passage was written once for each generation: no two processes did the same.
    assert sum(map(pods.applied, PODS)) == 2 * (DOCUMENTS + late)


@pytest.mark.parametrize("pods", ["2"], indirect=True)
@pytest.mark.parametrize("lease", ["migration", "writer-2"])
def test_a_process_that_is_stopped_in_the_middle_is_left_behind_and_follows_later(pods, lease):
    pods.put("a", *documents(DOCUMENTS))
    pods.answer_from(1)
    generation = pods.activate("a", hold=True)
    pods.reach("a", generation, "ready")
    stopped = until(lambda: pods.owner(lease))
    one, two = (pod for pod in PODS if pod != stopped)
    late = {"documents": documents(20, first=DOCUMENTS), "wait": "stored"}
    assert pods.ask(one, "POST", "/documents", json=late).status_code == 200
    pods.processes[stopped].signal(signal.SIGSTOP)
    try:
        until(lambda: pods.owner(lease) not in {stopped, ""})
        with pods.searched((one, two)):
            pods.step(one, generation, "cut-over")
            pods.reach(two, generation, "active")
            pods.answer_from(generation, (one, two))
            pods.put(two, *documents(1, first=DOCUMENTS + 20))
    finally:
        pods.processes[stopped].signal(signal.SIGCONT)
    expected = {each["id"] for each in documents(DOCUMENTS + 21)}
    with pods.searched():
        pods.answer_from(generation)
        until(lambda: pods.names(stopped) == expected)
        pods.put(stopped, *documents(1, first=DOCUMENTS + 21))
    for pod in PODS:
        until(lambda pod=pod: pods.names(pod) == expected | {f"d{DOCUMENTS + 21}"})
    assert pods.catalog.generations.route().epoch == 2
    assert pods.owner(lease) != stopped
    if lease != "migration":
        until(lambda: "writing is somebody else's" in pods.processes[stopped].log)


@pytest.mark.parametrize("pods", ["2"], indirect=True)
def test_a_leader_that_is_killed_in_the_middle_is_replaced_and_the_migration_ends(pods):
    pods.put("a", *documents(DOCUMENTS))
    pods.answer_from(1)
    generation = pods.activate("a", hold=True)
    until(lambda: pods.catalog.generations.get(generation).state != "registered")
    killed = until(lambda: pods.owner("migration"))
    one, two = (pod for pod in PODS if pod != killed)
    pods.processes[killed].kill()
    with pods.searched((one, two)):
        pods.step(one, generation, "cut-over")
        pods.reach(two, generation, "active")
        pods.answer_from(generation, (one, two))
        pods.put(one, *documents(1, first=DOCUMENTS))
    expected = {each["id"] for each in documents(DOCUMENTS + 1)}
    for pod in (one, two):
        until(lambda pod=pod: pods.names(pod) == expected)
    pods.processes[killed].start(within_s=WITHIN_S)
    pods.answer_from(generation)
    until(lambda: pods.names(killed) == expected)
