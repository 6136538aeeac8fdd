"""The server adapter against a loopback server that answers badly; the contract suite has the rest."""

import asyncio
import json
import socket
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from qdrant_client import models

from service.errors import (
    ConfigurationError,
    IndexCorrupt,
    IndexUnavailable,
    InvalidInput,
    NotFound,
    StorageFull,
)
from service.metrics import Metrics
from service.vectors.backend import IndexSpec, Point, Query
from service.vectors.qdrant import QdrantBackend
from service.vectors.qdrant_calls import Patience

IMPATIENT = Patience(read_s=1, write_s=1, attempts_max=3, pause_min_s=0.01, settle_s=0.01)
SPEC = IndexSpec("g1-c1", "space-a", 4, {"year": "integer", "ok": "boolean"})
COLLECTION = "/collections/isogloss-g1-c1"
VECTOR = np.array([1, 0, 0, 0], dtype=np.float32)
POINT = Point(1, VECTOR, 1, 1, "en", {"year": 2024, "ok": True})
DONE = {"operation_id": 1, "status": "completed"}
IDLE = {
    "summary": {
        "queued_optimizations": 0,
        "queued_segments": 0,
        "queued_points": 0,
        "idle_segments": 1,
    },
    "running": [],
}
METADATA = {
    "created_by": "isogloss",
    "format": 1,
    "space": "space-a",
    "dimension": 4,
    "datatype": "float32",
    "fields": {"year": "integer", "ok": "boolean"},
}
INFO = {
    "status": "green",
    "optimizer_status": "ok",
    "segments_count": 1,
    "payload_schema": {
        key: {"data_type": kind, "points": 0}
        for key, kind in {
            "language": "keyword",
            "document": "integer",
            "rev": "integer",
            "m_year": "integer",
            "m_ok": "integer",
        }.items()
    },
    "config": {
        "params": {"vectors": {"size": 4, "distance": "Cosine"}},
        "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
        "optimizer_config": {
            "deleted_threshold": 0.2,
            "vacuum_min_vector_number": 1000,
            "default_segment_number": 0,
            "flush_interval_sec": 5,
        },
        "metadata": METADATA,
    },
}
ANSWERS = {
    ("GET", "/"): {"title": "qdrant", "version": "1.20.0"},
    ("GET", f"{COLLECTION}/exists"): {"exists": True},
    ("GET", COLLECTION): INFO,
    ("PUT", COLLECTION): True,
    ("DELETE", COLLECTION): False,
    ("PUT", f"{COLLECTION}/index"): DONE,
    ("PUT", f"{COLLECTION}/points"): DONE,
    ("POST", f"{COLLECTION}/points/delete"): DONE,
    ("POST", f"{COLLECTION}/points/query/batch"): [
        {"points": [{"id": number, "version": 1, "score": 0.5} for number in (9, 2, 7)]}
    ],
    ("POST", f"{COLLECTION}/points/count"): {"count": 3},
    ("GET", f"{COLLECTION}/optimizations"): IDLE,
    ("PATCH", COLLECTION): True,
}
WRITE, SEARCH, EXISTS, OPTIMIZATIONS, NUDGE = (
    ("PUT", f"{COLLECTION}/points"),
    ("POST", f"{COLLECTION}/points/query/batch"),
    ("GET", f"{COLLECTION}/exists"),
    ("GET", f"{COLLECTION}/optimizations"),
    ("PATCH", COLLECTION),
)


class Server:
    """A Qdrant server of few words: for each route the planned failures first, then its answer."""

    def __init__(self, url):
        self.url = url
        self.requests = []
        self.plan = defaultdict(list)

    def fail(self, route, *failures):
        self.plan[route] += failures

    def sent(self, route):
        return [body for asked, body in self.requests if asked == route]


@contextmanager
def serving():
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            size = int(self.headers.get("content-length", 0))
            route = (self.command, self.path.partition("?")[0])
            server.requests.append((route, json.loads(self.rfile.read(size) or "null")))
            planned = server.plan[route].pop(0) if server.plan[route] else {}
            time.sleep(planned.get("late_s", 0))
            result = planned.get("result", ANSWERS.get(route))
            whole = result if route[1] == "/" else {"result": result, "status": "ok", "time": 0.1}
            body = json.dumps(planned.get("body", whole)).encode()
            self.send_response(planned.get("status", 200))
            for name, value in planned.get("headers", {}).items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

        def handle_one_request(self):
            try:
                super().handle_one_request()
            except ConnectionError:
                self.close_connection = True

    for verb in ("GET", "PUT", "POST", "PATCH", "DELETE"):
        setattr(Handler, f"do_{verb}", Handler.answer)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server = Server(f"http://127.0.0.1:{http.server_port}")
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
async def backend(server, metrics):
    async with QdrantBackend.connect(server.url, metrics=metrics, patience=IMPATIENT) as backend:
        yield backend


@pytest.fixture
async def index(backend):
    return await backend.open(SPEC)


def outcomes(metrics, operation):
    return {
        sample.labels["outcome"]: sample.value
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "isogloss_index_requests_total"
        and sample.labels["operation"] == operation
    }


def busy(seconds):
    return {"status": 429, "headers": {"Retry-After": str(seconds)}}


async def test_payload_indexes_are_made_before_there_is_data(backend, server):
    server.fail(EXISTS, {"result": {"exists": False}})
    bare = {**INFO, "payload_schema": {"language": {"data_type": "keyword", "points": 0}}}
    server.fail(("GET", COLLECTION), {"result": bare})
    index = await backend.create(SPEC)
    await index.apply([POINT], [])
    routes = [f"{verb} {path.removeprefix(COLLECTION)}" for (verb, path), _ in server.requests]
    writes = [route for route in routes if route.startswith("PUT")]
    assert writes == ["PUT ", *["PUT /index"] * 4, "PUT /points"]
    (made,) = server.sent(("PUT", COLLECTION))
    assert made["metadata"] == METADATA
    assert made["vectors"] == {"size": 4, "distance": "Cosine", "datatype": "float32"}
    assert [
        (made["field_name"], made["field_schema"])
        for made in server.sent(("PUT", f"{COLLECTION}/index"))
    ] == [("document", "integer"), ("rev", "integer"), ("m_year", "integer"), ("m_ok", "integer")]
    (written,) = server.sent(WRITE)
    assert written["batch"]["payloads"] == [
        {"language": "en", "document": 1, "rev": 1, "m_year": 2024, "m_ok": 1}
    ]


async def test_a_collection_that_another_replica_made_meanwhile_is_opened(backend, server):
    server.fail(EXISTS, {"result": {"exists": False}})
    server.fail(("PUT", COLLECTION), {"status": 409})
    assert (await backend.create(SPEC)).spec == SPEC


async def test_a_collection_that_cannot_be_made_is_an_error(backend, server):
    server.fail(EXISTS, *[{"result": {"exists": False}}] * 2)
    server.fail(("PUT", COLLECTION), {"status": 400, "body": {"status": {"error": "bad size"}}})
    with pytest.raises(InvalidInput, match="bad size"):
        await backend.create(SPEC)


async def test_a_collection_that_somebody_else_made_is_not_opened(backend, server):
    foreign = {**INFO, "config": {**INFO["config"], "metadata": None}}
    server.fail(("GET", COLLECTION), {"result": foreign})
    with pytest.raises(IndexCorrupt, match="created_by is None"):
        await backend.open(SPEC)


async def test_an_old_server_is_refused_with_the_version_that_is_needed(backend, server):
    server.fail(("GET", "/"), {"result": {"title": "qdrant", "version": "1.17.3"}})
    with pytest.raises(ConfigurationError, match=r"1\.17\.3; 1\.18 is the least"):
        await backend.open(SPEC)
    await backend.open(SPEC)
    await backend.open(SPEC)
    assert len(server.sent(("GET", "/"))) == 2


async def test_dropping_what_is_not_there_is_fine(backend, server):
    await backend.drop("g1-c1")
    assert len(server.sent(("DELETE", COLLECTION))) == 1


async def test_a_write_is_repeated_until_the_server_takes_it(index, server, metrics):
    server.fail(WRITE, {"status": 503}, {"status": 500})
    await index.apply([POINT], [])
    first, second, third = server.sent(WRITE)
    assert first == second == third
    assert outcomes(metrics, "apply") == {"ok": 1}


async def test_a_write_is_not_repeated_forever(index, server, metrics):
    server.fail(WRITE, *[{"status": 503}] * 9)
    with pytest.raises(IndexUnavailable, match="ISOGLOSS_QDRANT_URL"):
        await index.apply([POINT], [])
    assert len(server.sent(WRITE)) == 3
    assert outcomes(metrics, "apply") == {"index_unavailable": 1}


async def test_a_write_whose_answer_was_late_is_repeated(index, server):
    server.fail(WRITE, {"late_s": 1.5})
    await index.apply([POINT], [])
    assert len(server.sent(WRITE)) == 2


@pytest.mark.parametrize("status", [429, 503])
async def test_a_write_waits_as_long_as_the_server_asks(index, server, status):
    server.fail(WRITE, {**busy(1), "status": status})
    await index.apply([POINT], [])
    assert len(server.sent(WRITE)) == 2


async def test_a_pause_that_is_too_long_is_left_to_the_caller(index, server):
    server.fail(WRITE, busy(3600))
    with pytest.raises(IndexUnavailable) as refused:
        await index.apply([POINT], [])
    assert refused.value.retry_after_s == 3600
    assert len(server.sent(WRITE)) == 1


async def test_a_write_that_is_wrong_is_not_repeated(index, server):
    server.fail(WRITE, {"status": 400, "body": {"status": {"error": "Wrong input"}}})
    with pytest.raises(InvalidInput, match="Wrong input"):
        await index.apply([POINT], [])
    assert len(server.sent(WRITE)) == 1


async def test_a_full_disk_of_the_server_is_told_apart(index, server):
    error = {"status": {"error": "Service internal error: No space left on device"}}
    server.fail(WRITE, {"status": 500, "body": error})
    with pytest.raises(StorageFull):
        await index.apply([POINT], [])
    assert len(server.sent(WRITE)) == 1


async def test_a_large_batch_goes_in_chunks_and_deletes_follow(index, server):
    points = [Point(number, VECTOR, 1, 1, "en", {}) for number in range(150)]
    await index.apply(points, list(range(1000, 2500)))
    assert [len(body["batch"]["ids"]) for body in server.sent(WRITE)] == [64, 64, 22]
    deleted = server.sent(("POST", f"{COLLECTION}/points/delete"))
    assert [len(body["points"]) for body in deleted] == [1000, 500]


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        ({"status": 503}, IndexUnavailable),
        (busy(7), IndexUnavailable),
        ({"status": 429}, IndexUnavailable),
        (busy("soon"), IndexUnavailable),
        ({"status": 404}, NotFound),
        ({"status": 401}, ConfigurationError),
        ({"status": 403}, ConfigurationError),
        ({"late_s": 1.5}, IndexUnavailable),
        ({"body": {"half": "an answer"}}, IndexUnavailable),
    ],
)
async def test_a_read_fails_at_once(index, server, metrics, failure, error):
    server.fail(SEARCH, failure)
    with pytest.raises(error) as failed:
        await index.search([Query(VECTOR, 3)])
    assert len(server.sent(SEARCH)) == 1
    assert outcomes(metrics, "search") == {failed.value.code: 1}
    assert [match.id for match in (await index.search([Query(VECTOR, 3)]))[0]] == [2, 7, 9]


@pytest.mark.parametrize("prefer_grpc", [False, True])
async def test_a_server_that_is_not_there_is_unavailable(prefer_grpc):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        async with QdrantBackend.connect(
            f"http://127.0.0.1:{port}",
            metrics=Metrics(),
            prefer_grpc=prefer_grpc,
            grpc_port=port,
            patience=IMPATIENT,
        ) as backend:
            for call in (backend.ping, backend.list, lambda: backend.drop("a")):
                with pytest.raises(IndexUnavailable):
                    await call()
            with pytest.raises(IndexUnavailable):
                await backend.create(SPEC)


async def test_a_stored_datatype_may_be_asked_for(server):
    async with QdrantBackend.connect(server.url, metrics=Metrics(), datatype="turbo8") as backend:
        server.fail(EXISTS, {"result": {"exists": False}})
        with pytest.raises(IndexCorrupt, match="datatype is 'float32', not 'turbo8'"):
            await backend.create(SPEC)
    (made,) = server.sent(("PUT", COLLECTION))
    assert made["vectors"]["datatype"] == models.Datatype.TURBO8


def info(status, **rest):
    return {"result": {**INFO, "status": status, **rest}}


async def test_an_index_is_settled_when_it_is_green_and_nothing_is_left_to_optimise(index, server):
    looks = len(server.sent(("GET", COLLECTION)))
    server.fail(("GET", COLLECTION), info("yellow"), info("yellow"))
    queued = {**IDLE["summary"], "queued_optimizations": 2}
    server.fail(OPTIMIZATIONS, {"result": {**IDLE, "summary": queued}})
    await index.settle()
    assert len(server.sent(("GET", COLLECTION))) == looks + 4
    assert len(server.sent(OPTIMIZATIONS)) == 2
    assert server.sent(NUDGE) == []


async def test_a_grey_index_gets_an_update_that_changes_nothing(index, server):
    server.fail(("GET", COLLECTION), info("grey"), info("yellow"))
    server.fail(NUDGE, {"status": 503})
    await index.settle()
    assert server.sent(NUDGE) == [{"optimizers_config": {}}] * 2


async def test_an_index_that_cannot_be_optimised_is_not_waited_for(index, server):
    server.fail(("GET", COLLECTION), info("red", optimizer_status={"error": "No space left"}))
    with pytest.raises(IndexUnavailable, match=r"cannot be optimised: .*No space left"):
        await index.settle()


async def test_settling_takes_as_long_as_its_caller_lets_it(index, server):
    server.fail(("GET", COLLECTION), *[info("yellow")] * 1000)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await index.settle()
