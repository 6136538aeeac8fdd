"""The embedded index: the service's side of the index host, and its supervisor.

The host (`edge_host`) is a child process. If it ends, calls in flight fail with
`IndexUnavailable`, it is started again with a growing pause, and an index is opened again by the
first call that needs it. After too many ends in a minute it stays down for a while: a shard that
kills its host must not burn the machine.
"""

import asyncio
import math
import os
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

import anyio.to_thread
import numpy as np

from service.errors import IndexCorrupt, IndexUnavailable, InvalidInput, ServiceError
from service.filters import Filter
from service.metrics import Metrics
from service.vectors.backend import IndexSpec, Match, Point, Query
from service.vectors.calls import measured
from service.vectors.edge_process import HostGone, HostProcess, NotOpen
from service.vectors.payload import condition, disjoint, matrix, payload, sought

FRAME_POINTS = 32
"""Points in one write: about 1.5 ms of the host's time, which is the longest a query waits."""
OPEN_S = 600.0
"""Opening may replay a long log."""
OPEN_DEATHS_MAX = 2
PAUSE_MIN_S, PAUSE_MAX_S = 0.05, 1.0
CRASH_WINDOW_S = 60.0
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class EdgeBackend:
    """The indexes of one folder, served by one host; made by `start`."""

    def __init__(
        self,
        folder: Path,
        *,
        metrics: Metrics,
        call_timeout_s: float,
        restart_wait_s: float,
        crashes_max: int,
        cooldown_s: float,
        lock_wait_s: float,
        free_bytes_min: int,
    ) -> None:
        self._folder = folder.absolute()
        self._metrics = metrics
        self._call_timeout_s = call_timeout_s
        self._restart_wait_s = restart_wait_s
        self._crashes_max = crashes_max
        self._cooldown_s = cooldown_s
        self._lock_wait_s = lock_wait_s
        self._free_bytes_min = free_bytes_min
        self._host: HostProcess | None = None
        self._up = asyncio.Event()
        self._down_until_s = 0.0
        self._opening = asyncio.Lock()
        self._deaths_in_open: dict[str, int] = {}

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        folder: Path,
        *,
        metrics: Metrics,
        call_timeout_s: float = 30.0,
        restart_wait_s: float = 5.0,
        crashes_max: int = 5,
        cooldown_s: float = 30.0,
        lock_wait_s: float = 5.0,
        free_bytes_min: int = 128 * 2**20,
    ) -> AsyncGenerator[Self]:
        """Start a host on the folder, supervise it, and close it at the end."""
        backend = cls(
            folder,
            metrics=metrics,
            call_timeout_s=call_timeout_s,
            restart_wait_s=restart_wait_s,
            crashes_max=crashes_max,
            cooldown_s=cooldown_s,
            lock_wait_s=lock_wait_s,
            free_bytes_min=free_bytes_min,
        )
        await backend._begin()
        supervisor = asyncio.create_task(backend._supervise(), name="index host supervisor")
        try:
            yield backend
        finally:
            supervisor.cancel()
            with suppress(asyncio.CancelledError):
                await supervisor
            if backend._host is not None:
                await backend._host.close()

    @property
    def pid(self) -> int | None:
        """The process id of the host, or None while it is down."""
        return self._host.pid if self._host is not None else None

    async def create(self, spec: IndexSpec) -> "EdgeIndex":
        """Make an index if it is not there, and open it."""
        await self._open(spec, create=True)
        return EdgeIndex(self, spec, log=self._folder / spec.name / "shard" / "wal")

    async def open(self, spec: IndexSpec) -> "EdgeIndex":
        """Open an index; `NotFound`, `IndexCorrupt`."""
        await self._open(spec, create=False)
        return EdgeIndex(self, spec, log=self._folder / spec.name / "shard" / "wal")

    async def drop(self, name: str) -> None:
        """Destroy an index and its files; idempotent."""
        await self._ask("drop", name=_checked(name))
        self._deaths_in_open.pop(name, None)

    async def list(self) -> Sequence[str]:
        """The names of the indexes in the folder."""
        names: list[str] = await self._ask("list")
        return names

    async def ping(self) -> None:
        """Return if the host answers."""
        await self._ask("ping")

    async def ask_index(self, spec: IndexSpec, operation: str, **arguments: Any) -> Any:
        """Ask about an open index; a host that was started since then opens it first."""
        try:
            return await self._ask(operation, name=spec.name, **arguments)
        except NotOpen:
            await self._open(spec, create=False)
            return await self._ask(operation, name=spec.name, **arguments)

    async def _open(self, spec: IndexSpec, *, create: bool) -> None:
        name = _checked(spec.name)
        if self._deaths_in_open.get(name, 0) >= OPEN_DEATHS_MAX:
            raise IndexCorrupt(
                f"index {name!r}: the index host ended {OPEN_DEATHS_MAX} times while opening it"
            )
        async with self._opening:  # one at a time: if the host ends, it is known which it was
            try:
                await self._ask(
                    "open",
                    timeout_s=OPEN_S,
                    name=name,
                    space=spec.space,
                    dimension=spec.dimension,
                    fields=dict(spec.fields),
                    create=create,
                )
            except HostGone:
                self._deaths_in_open[name] = self._deaths_in_open.get(name, 0) + 1
                raise
        self._deaths_in_open.pop(name, None)

    async def _ask(
        self, operation: str, *, timeout_s: float | None = None, **arguments: Any
    ) -> Any:
        with measured(self._metrics, operation):
            host = await self._running()
            return await host.ask(
                operation, timeout_s=timeout_s or self._call_timeout_s, **arguments
            )

    async def _running(self) -> HostProcess:
        if self._host is not None:
            if self._host.alive:
                return self._host
            self._up.clear()  # it has just died, and the supervisor has not seen it
        remaining_s = self._down_until_s - time.perf_counter()
        if remaining_s > self._restart_wait_s:
            raise IndexUnavailable(
                f"the index host ended more than {self._crashes_max} times within"
                f" {CRASH_WINDOW_S:g} s and is started again in {math.ceil(remaining_s)} s",
                retry_after_s=math.ceil(remaining_s),
            )
        try:
            async with asyncio.timeout(self._restart_wait_s):
                await self._up.wait()
        except TimeoutError as error:
            raise IndexUnavailable("the index host is being started again") from error
        if self._host is None:
            raise IndexUnavailable("the index host ended again")
        return self._host

    async def _begin(self) -> None:
        self._host = await HostProcess.start(
            self._folder, lock_wait_s=self._lock_wait_s, free_bytes_min=self._free_bytes_min
        )
        self._up.set()

    async def _supervise(self) -> None:
        crashes: deque[float] = deque()
        while True:
            if self._host is not None:
                await self._host.gone()
            self._host = None
            self._up.clear()
            now_s = time.perf_counter()
            crashes.append(now_s)
            while crashes[0] < now_s - CRASH_WINDOW_S:
                crashes.popleft()
            pause_s = min(PAUSE_MIN_S * 2 ** (len(crashes) - 1), PAUSE_MAX_S)
            if len(crashes) > self._crashes_max:
                pause_s = self._cooldown_s
            self._down_until_s = now_s + pause_s
            await asyncio.sleep(pause_s)
            self._metrics.index_restarts.inc()
            with suppress(ServiceError, OSError, TimeoutError):
                await self._begin()


class EdgeIndex:
    """One index of an `EdgeBackend`."""

    def __init__(self, backend: EdgeBackend, spec: IndexSpec, *, log: Path) -> None:
        self._backend = backend
        self._spec = spec
        self._log = log

    @property
    def spec(self) -> IndexSpec:
        """What the index is."""
        return self._spec

    async def apply(self, upserts: Sequence[Point], deletes: Sequence[int]) -> None:
        """Write and delete; the batch is checked whole, then sent in frames."""
        disjoint(upserts, deletes)
        rows = matrix(upserts, self._spec)
        payloads = [payload(point, self._spec.fields) for point in upserts]
        ids = [point.id for point in upserts]
        for start in range(0, max(len(ids), len(deletes)), FRAME_POINTS):
            part = slice(start, start + FRAME_POINTS)
            await self._ask(
                "apply",
                ids=ids[part],
                vectors=rows[part].tobytes(),
                payloads=payloads[part],
                deletes=list(deletes[part]),
            )

    async def flush(self) -> None:
        """Sync the host's log, from here: what is acknowledged is in its files already.

        Why not the engine's own flush: it stops every query for tens of milliseconds. The host
        does that when it is idle, and cuts the log short.
        """
        await anyio.to_thread.run_sync(_sync_files, self._log)

    async def settle(self) -> None:
        """Nothing to do: the index is flat, and every point is found as it is written."""

    async def search(self, queries: Sequence[Query]) -> list[list[Match]]:
        """Matches for each query; equal scores by ascending id, also at the cut (see `TIES_MAX`)."""
        asked = [
            [
                sought(query.vector, self._spec).tobytes(),
                query.limit,
                query.offset,
                condition(query.where, self._spec.fields),
                query.score_threshold,
                query.group_by,
                query.group_size,
                query.with_vector,
            ]
            for query in queries
        ]
        answers = await self._ask("search", queries=asked) if asked else []
        return [
            self._matches(*answer, with_vector=query.with_vector)
            for answer, query in zip(answers, queries, strict=True)
        ]

    async def scan(self, *, page: int = 10_000) -> AsyncIterator[Sequence[tuple[int, int]]]:
        """Pages of (id, rev) in ascending id order."""
        after = None
        while True:
            ids, revs = await self._ask("scan", after=after, page=page)
            rows = list(
                zip(
                    np.frombuffer(ids, "<u8").tolist(),
                    np.frombuffer(revs, "<i8").tolist(),
                    strict=True,
                )
            )
            if rows:
                yield rows
                after = rows[-1][0]
            if len(rows) < page:
                return

    async def count(self, where: Filter | None = None) -> int:
        """The exact number of points that satisfy the filter."""
        counted: int = await self._ask("count", where=condition(where, self._spec.fields))
        return counted

    async def _ask(self, operation: str, **arguments: Any) -> Any:
        return await self._backend.ask_index(self._spec, operation, **arguments)

    def _matches(
        self, ids: list[int], scores: list[float], vectors: bytes | None, *, with_vector: bool
    ) -> list[Match]:
        if not with_vector:
            return [Match(*found) for found in zip(ids, scores, strict=True)]
        rows = np.frombuffer(vectors or b"", "<f4").reshape(len(ids), self._spec.dimension)
        return [Match(*found) for found in zip(ids, scores, rows, strict=True)]


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} is no name for an index; it needs to match {NAME.pattern}")
    return name


def _sync_files(folder: Path) -> None:
    with suppress(FileNotFoundError):  # dropped meanwhile
        for path in [*folder.iterdir(), folder]:
            _sync_file(path)


def _sync_file(path: Path) -> None:
    with suppress(FileNotFoundError):  # the host has just cut it off
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
