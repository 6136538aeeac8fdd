"""A Qdrant server of one process for tests: the routes that the adapter uses, over the client's local mode.

What a search finds is thus decided by the client's own code and not by ours. Like a server, it lets
many clients in, and it keeps nothing when it ends. `python -m tests.qdrant_server PORT` runs it.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from pydantic import BaseModel, TypeAdapter
from qdrant_client import AsyncQdrantClient, models
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.e2e.process import free_port

VERSION = {"title": "qdrant", "version": "1.20.0"}
IDLE = {
    "summary": {
        "queued_optimizations": 0,
        "queued_segments": 0,
        "queued_points": 0,
        "idle_segments": 1,
    },
    "running": [],
}
DONE = {"operation_id": 1, "status": "completed"}
STARTED_WITHIN_S = 60


class Server:
    """The answers, one for each route; what they are given and give back are the client's models."""

    def __init__(self) -> None:
        self._client = AsyncQdrantClient(":memory:")

    def application(self) -> Starlette:
        one = "/collections/{name}"
        routes = [
            ("GET", "/", self.version),
            ("GET", "/collections", self.listed),
            ("GET", f"{one}/exists", self.exists),
            ("GET", f"{one}/optimizations", self.optimized),
            ("GET", one, self.described),
            ("PUT", one, self.made),
            ("DELETE", one, self.dropped),
            ("PATCH", one, self.nudged),
            ("PUT", f"{one}/index", self.indexed),
            ("PUT", f"{one}/points", self.upserted),
            ("POST", f"{one}/points/delete", self.deleted),
            ("POST", f"{one}/points/scroll", self.scrolled),
            ("POST", f"{one}/points/count", self.counted),
            ("POST", f"{one}/points/query/batch", self.queried),
            ("POST", f"{one}/points/query/groups", self.grouped),
        ]
        return Starlette(
            routes=[Route(path, answer, methods=[verb]) for verb, path, answer in routes],
            exception_handlers={ValueError: _refused},
        )

    async def version(self, _request: Request) -> JSONResponse:
        return JSONResponse(VERSION)

    async def listed(self, _request: Request) -> JSONResponse:
        return _answer(await self._client.get_collections())

    async def exists(self, request: Request) -> JSONResponse:
        found = await self._client.collection_exists(request.path_params["name"])
        return _answer({"exists": found})

    async def described(self, request: Request) -> JSONResponse:
        return _answer(await self._client.get_collection(request.path_params["name"]))

    async def made(self, request: Request) -> JSONResponse:
        name = request.path_params["name"]
        wanted = await _body(request, models.CreateCollection)
        if await self._client.collection_exists(name):
            return _refusal(409, f"Collection `{name}` already exists!")
        return _answer(
            await self._client.create_collection(
                name, vectors_config=wanted.vectors, metadata=wanted.metadata
            )
        )

    async def dropped(self, request: Request) -> JSONResponse:
        name = request.path_params["name"]
        there = await self._client.collection_exists(name)
        return _answer(await self._client.delete_collection(name) if there else False)

    async def nudged(self, request: Request) -> JSONResponse:
        return _answer(await self._client.collection_exists(request.path_params["name"]))

    async def indexed(self, request: Request) -> JSONResponse:
        await self._client.get_collection(
            request.path_params["name"]
        )  # the local mode needs no index
        return _answer(DONE)

    async def upserted(self, request: Request) -> JSONResponse:
        points = await _body(request, models.PointsBatch)
        return _answer(await self._client.upsert(request.path_params["name"], points=points.batch))

    async def deleted(self, request: Request) -> JSONResponse:
        which = await _body(request, models.PointIdsList)
        return _answer(
            await self._client.delete(request.path_params["name"], points_selector=which)
        )

    async def scrolled(self, request: Request) -> JSONResponse:
        asked = await _body(request, models.ScrollRequest)
        points, after = await self._client.scroll(
            request.path_params["name"],
            scroll_filter=asked.filter,
            limit=asked.limit or 10,
            offset=asked.offset,
            with_payload=asked.with_payload,
        )
        return _answer({"points": _plain(points), "next_page_offset": after})

    async def counted(self, request: Request) -> JSONResponse:
        asked = await _body(request, models.CountRequest)
        return _answer(
            await self._client.count(request.path_params["name"], count_filter=asked.filter)
        )

    async def queried(self, request: Request) -> JSONResponse:
        asked = await _body(request, models.QueryRequestBatch)
        name = request.path_params["name"]
        return _answer(await self._client.query_batch_points(name, requests=asked.searches))

    async def grouped(self, request: Request) -> JSONResponse:
        asked = await _body(request, models.QueryGroupsRequest)
        return _answer(
            await self._client.query_points_groups(
                request.path_params["name"],
                group_by=asked.group_by,
                query=asked.query,
                limit=asked.limit,
                group_size=asked.group_size,
                query_filter=asked.filter,
                score_threshold=asked.score_threshold,
                with_vectors=asked.with_vector,
                with_payload=asked.with_payload,
            )
        )

    async def optimized(self, _request: Request) -> JSONResponse:
        return _answer(IDLE)


@contextmanager
def serving() -> Iterator[str]:
    """The URL of a server in a process of its own."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "tests.qdrant_server", str(port)])
    try:
        url = f"http://127.0.0.1:{port}"
        _await(url, process)
        yield url
    finally:
        process.kill()
        process.wait()


def _await(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + STARTED_WITHIN_S
    while True:
        try:
            httpx.get(url).raise_for_status()
        except httpx.TransportError:
            assert process.poll() is None, f"it ended with {process.returncode}"
            assert time.monotonic() < until, f"not up within {STARTED_WITHIN_S} s"
            time.sleep(0.05)
        else:
            return


async def _body(request: Request, kind: Any) -> Any:
    return TypeAdapter(kind).validate_json(await request.body())


def _answer(result: Any) -> JSONResponse:
    return JSONResponse({"result": _plain(result), "status": "ok", "time": 0.0})


def _refusal(status: int, error: str) -> JSONResponse:
    return JSONResponse({"status": {"error": error}, "time": 0.0}, status)


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    missing = "not found" in str(error)  # the word of the local mode for a collection
    return _refusal(404 if missing else 400, str(error))


def _plain(result: Any) -> Any:
    if isinstance(result, BaseModel):
        return result.model_dump(mode="json")
    return [_plain(each) for each in result] if isinstance(result, list) else result


if __name__ == "__main__":
    uvicorn.run(Server().application(), port=int(sys.argv[1]), log_level="warning")
