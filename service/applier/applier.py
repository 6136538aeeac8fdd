"""The one loop by which an index follows the catalog: read, embed, apply, flush, advance the cursor.

First load, live writes, deletions, resumption after a crash and rebuilding are all this loop with
different starting cursors. While one batch is applied the next is read and embedded, so the
encoder need not wait for the index; a batch that was read from a position at which the index no
longer stands is thrown away, so nothing is ever applied out of order. A collection that fails is
put off with growing pauses and holds up no other.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self, TypeAlias

import structlog
from anyio import to_thread

from service.applier.batch import Batches, Compose, Embed
from service.applier.progress import Progress, measure
from service.applier.shelf import Shelf
from service.applier.writer import Writer
from service.catalog import Catalog, Collection, Generation
from service.errors import IndexCorrupt, IndexUnavailable, NotFound, ServiceError, Unavailable
from service.metrics import Metrics
from service.vectors.backend import VectorBackend, VectorIndex

log = structlog.get_logger(__name__)

Work: TypeAlias = Callable[[], Awaitable[None]]

POLL_S = 1.0
"""How often the catalog is asked without a `notify`: another replica may have written."""
REPORT_S = 5.0


@dataclass(frozen=True, slots=True)
class _Job:
    """Something to be done to an index; nothing is read ahead for it meanwhile if `alone`."""

    shelf: Shelf
    work: Work
    alone: bool


class Applier:
    """Keeps the indexes of a generation in step with the catalog, for as long as it is entered."""

    def __init__(
        self,
        generation: Generation,
        catalog: Catalog,
        backend: VectorBackend,
        embed: Embed,
        *,
        compose: Compose,
        batch_passages: int,
        flush_interval_s: float,
        flush_passages: int,
        metrics: Metrics,
    ) -> None:
        self._generation = generation
        self._catalog = catalog
        self._batches = Batches(catalog, embed, compose=compose, batch_passages=batch_passages)
        self._writer = Writer(
            generation, catalog, backend, flush_passages=flush_passages, metrics=metrics
        )
        self._flush_interval_s = flush_interval_s
        self._lag = metrics.index_lag_passages
        self._log = log.bind(generation=generation.id)
        self._shelves: dict[int, Shelf] = {}
        self._served = 0  # the collection whose turn was last
        self._reported_at = 0.0
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._writing = asyncio.Lock()
        self._loop: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        collections = await to_thread.run_sync(self._catalog.collections.list)
        cursors = await to_thread.run_sync(self._catalog.generations.cursors, self._generation.id)
        for collection in collections:
            self._place(collection, cursors.get(collection.id, 0))
        for shelf in list(self._shelves.values()):
            await self._attempt(_Job(shelf, partial(self._writer.open, shelf), alone=True))
            if shelf.index is None:
                break  # the loop opens it, and the others, as soon as that is possible
        else:
            await self._tidy()
        self._loop = asyncio.create_task(self._run(), name=f"applier {self._generation.id}")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._loop is not None:
            await self._loop
        for shelf in self._shelves.values():
            if shelf.flush_by < float("inf"):
                await self._attempt(_Job(shelf, partial(self._writer.flush, shelf), alone=False))

    def notify(self) -> None:
        """Say that something was written; from the event loop, and at no cost."""
        self._wake.set()

    def index(self, collection: int) -> VectorIndex:
        """The index of a collection; `IndexUnavailable` until it was found equal to the catalog.

        An index that is being rebuilt, or that was opened and not compared yet, would answer, but
        with a part of what there is.
        """
        shelf = self._shelf(collection)
        if shelf.index is None or not shelf.verified:
            doing = "opened" if shelf.index is None else "brought in step with the catalog"
            raise IndexUnavailable(
                f"the index of collection {shelf.collection.name!r} is being {doing}"
                + (f": {shelf.error}" if shelf.error else "")
            )
        return shelf.index

    def applied(self, collection: int) -> int:
        """The revision up to which searches see the collection."""
        return self._shelf(collection).applied

    async def wait_visible(self, collection: int, revision: int, *, timeout_s: float) -> bool:
        """Wait until searches are answered and see the revision; False if that takes longer."""
        self.notify()
        try:
            async with asyncio.timeout(timeout_s):
                while not (shelf := self._shelf(collection)).shows(revision):
                    await shelf.moved.wait()
        except TimeoutError:
            return False
        return True

    async def attach(self, collection: Collection) -> None:
        """Follow a collection from now on; returns when its index is open, or cannot be for now."""
        if collection.id not in self._shelves:
            shelf = self._place(collection, 0)
            await self._attempt(_Job(shelf, partial(self._writer.open, shelf), alone=True))

    async def detach(self, collection: int) -> None:
        """Follow a collection no longer, and drop its index."""
        shelf = self._shelves.pop(collection, None)
        if shelf is not None:
            shelf.wake()
            try:
                async with self._writing:
                    await self._writer.drop(shelf.name)
            except Unavailable as error:
                # The catalog has forgotten it already; the next start drops what is left over.
                self._log.warning("index is left over", index=shelf.name, error=error.detail)

    def suspect(self, collection: int) -> None:
        """Have an index compared with the catalog again: a search found something wrong with it."""
        self._shelf(collection).verified = False
        self.notify()

    async def progress(self) -> list[Progress]:
        """How far each collection has come."""
        return [await self._measure(shelf) for shelf in list(self._shelves.values())]

    def _measure(self, shelf: Shelf) -> Awaitable[Progress]:
        return measure(self._catalog, self._generation.id, shelf)

    async def _tidy(self) -> None:
        """Drop the indexes of this generation whose collection was deleted while nobody listened."""
        wanted = {shelf.name for shelf in self._shelves.values()}
        try:
            for name in await self._writer.names():
                if name not in wanted:
                    await self._writer.drop(name)
        except Unavailable as error:
            self._log.warning("indexes may be left over", error=error.detail)

    def _place(self, collection: Collection, durable: int) -> Shelf:
        shelf = Shelf(collection, self._writer.name(collection.id), durable)
        self._shelves[collection.id] = shelf
        return shelf

    def _shelf(self, collection: int) -> Shelf:
        shelf = self._shelves.get(collection)
        if shelf is None:
            raise NotFound(f"collection {collection} is not here, or was deleted")
        return shelf

    async def _run(self) -> None:
        stop = asyncio.create_task(self._stop.wait())
        ahead = asyncio.create_task(self._prepare())
        try:
            while not stop.done():
                await asyncio.wait(
                    {stop, ahead}, timeout=self._until_flush(), return_when=asyncio.FIRST_COMPLETED
                )
                if ahead.done() and not stop.done():
                    job = ahead.result()
                    job.shelf.busy = job.alone
                    ahead = asyncio.create_task(self._prepare())
                    await self._attempt(job)
                await self._flush_due()
        finally:
            for task in (stop, ahead):
                task.cancel()
            await asyncio.wait({stop, ahead})

    async def _attempt(self, job: _Job) -> None:
        """Do something to an index; whatever goes wrong is the misfortune of its shelf alone."""
        shelf = job.shelf
        shelf.busy = job.alone
        try:
            async with self._writing:
                if self._shelves.get(shelf.collection.id) is shelf:
                    await job.work()
            shelf.recovered()
        except (NotFound, IndexCorrupt) as error:
            shelf.condemn("missing" if isinstance(error, NotFound) else "corrupt")
            self._put_off(shelf, error.detail)
        except ServiceError as error:
            self._put_off(shelf, error.detail)
        except Exception as error:
            log.exception("a bug holds up indexing", collection=shelf.collection.id)
            self._put_off(shelf, repr(error))
        finally:
            shelf.busy = False
            self.notify()

    def _put_off(self, shelf: Shelf, error: str) -> None:
        if shelf.error != error:  # one line when it begins, not one for every attempt
            self._log.warning("indexing is held up", collection=shelf.collection.id, error=error)
        shelf.put_off(error, self._now())

    async def _prepare(self) -> _Job:
        """The next thing to do, with its passages embedded; waits until there is one."""
        while True:
            self._wake.clear()
            job = await self._next(await self._heads())
            if job is not None:
                return job
            await self._rest()

    async def _heads(self) -> Mapping[int, int]:
        try:
            heads = await to_thread.run_sync(self._catalog.passages.heads)
            await self._report(heads)
        except ServiceError as error:
            self._log.warning("the catalog cannot be read", error=error.detail)
        except Exception:
            log.exception("a bug keeps the catalog from being read")
        else:
            return heads
        return {}

    async def _next(self, heads: Mapping[int, int]) -> _Job | None:
        """The first shelf that needs something, beginning after the one that was served last."""
        order = sorted(self._shelves, key=lambda number: (number <= self._served, number))
        for number in order:
            shelf = self._shelves.get(number)
            if shelf is None or number not in heads:
                continue
            self._served = number
            need = shelf.need(heads[number], self._now())
            if need == "open":
                return _Job(shelf, partial(self._writer.open, shelf), alone=True)
            if need == "verify":
                return _Job(shelf, partial(self._writer.verify, shelf), alone=True)
            if need == "batch" and (apply := await self._read(shelf)):
                return _Job(shelf, apply, alone=False)
        return None

    async def _rest(self) -> None:
        now = self._now()
        waits = [shelf.retry_at - now for shelf in self._shelves.values() if shelf.retry_at > now]
        with suppress(TimeoutError):
            async with asyncio.timeout(min([POLL_S, *waits])):
                await self._wake.wait()

    async def _read(self, shelf: Shelf) -> Work | None:
        """The application of what comes next in a collection; None if nothing does for now."""
        after = shelf.read
        try:
            batch = await self._batches.read(shelf.collection.id, after=after)
        except ServiceError as error:
            self._put_off(shelf, error.detail)
            return None
        except Exception as error:
            log.exception("a bug holds up indexing", collection=shelf.collection.id)
            self._put_off(shelf, repr(error))
            return None
        if batch is None or shelf.read != after:
            return None  # the shelf was set back meanwhile
        shelf.read = batch.last
        by = self._now() + self._flush_interval_s
        return partial(self._writer.apply, shelf, batch, flush_by=by)

    async def _flush_due(self) -> None:
        for shelf in list(self._shelves.values()):
            if max(shelf.flush_by, shelf.retry_at) <= self._now():
                await self._attempt(_Job(shelf, partial(self._writer.flush, shelf), alone=False))

    def _until_flush(self) -> float | None:
        due = min(
            (max(shelf.flush_by, shelf.retry_at) for shelf in self._shelves.values()),
            default=float("inf"),
        )
        return None if due == float("inf") else max(0.0, due - self._now())

    async def _report(self, heads: Mapping[int, int]) -> None:
        """Set the lag, and log it now and then while there is one."""
        lagging = [
            shelf
            for shelf in self._shelves.values()
            if heads.get(shelf.collection.id, 0) > shelf.applied
        ]
        if not lagging:
            self._lag.set(0)
        elif self._now() >= self._reported_at + REPORT_S:
            self._reported_at = self._now()
            progress = [await self._measure(shelf) for shelf in lagging]
            self._lag.set(sum(each.total - each.applied for each in progress))
            for each in progress:
                self._log.info(
                    "indexing",
                    collection=each.collection.id,
                    applied=each.applied,
                    total=each.total,
                )

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
