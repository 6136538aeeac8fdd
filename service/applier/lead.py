"""The one loop by which an index follows the catalog: read, embed, apply, flush, advance the cursor.

First load, live writes, deletions, resumption after a crash and rebuilding are all this loop with
different starting cursors. While one batch is applied the next is read and embedded, so the
encoder need not wait for the index; a batch that was read from a position at which the index no
longer stands is thrown away, so nothing is ever applied out of order. A collection that fails is
put off with growing pauses and holds up no other.

It runs in the process that holds the lease. What it has read ahead, and whatever it is doing to an
index, ends with the lease.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import structlog
from anyio import to_thread

from service.applier.batch import Batches
from service.applier.follow import NOWHERE
from service.applier.lag import Lag
from service.applier.leftovers import Leftovers
from service.applier.shelf import Shelf
from service.applier.shelves import Shelves
from service.applier.throttle import Paused, Throttle
from service.applier.writer import Writer
from service.catalog import Catalog, Generation
from service.errors import ServiceError

log = structlog.get_logger(__name__)

Work: TypeAlias = Callable[[], Awaitable[None]]

POLL_S = 1.0
"""How often the catalog is asked without a `notify`: another replica may have written."""
POLL_FOREIGN_S = 0.1
FLUSH_FOREIGN_S = 0.1
FOREIGN_S = 10.0
"""So long after another replica wrote, it is looked for often and its writes are flushed soon: that
replica sees what is durable, and nothing else."""


@dataclass(frozen=True, slots=True)
class _Job:
    """Something to be done to an index; nothing is read ahead for it meanwhile if `alone`."""

    shelf: Shelf
    work: Work
    alone: bool


class Leader:
    """Fills the indexes of a generation for as long as this process holds the lease for it."""

    def __init__(
        self,
        generation: Generation,
        catalog: Catalog,
        shelves: Shelves,
        *,
        writer: Writer,
        leftovers: Leftovers,
        batches: Batches,
        throttle: Throttle,
        flush_interval_s: float,
        lag: Lag,
    ) -> None:
        self.leads = False
        """Whether the indexes are ours to fill: the lease was there, and is not known to be lost."""
        self._generation = generation
        self._catalog = catalog
        self._shelves = shelves
        self._writer = writer
        self._leftovers = leftovers
        self._batches = batches
        self._keeper = writer.keeper
        self._throttle = throttle
        self._flush_interval_s = flush_interval_s
        self._lag = lag
        self._log = log.bind(generation=generation.id)
        self._served = 0  # the collection whose turn was last
        self._polled = False  # whether nobody said that something was written
        self._foreign_until = 0.0
        self._hurried = 0
        self._nudged = asyncio.Event()  # the flushes are to be looked at again

    async def begin(self) -> None:
        """Take over: every index is opened again and is to be compared, leftovers are dropped.

        Searches are answered meanwhile from what was found equal before. Errors: the catalog's.
        """
        self._keeper.begin()
        await self._shelves.census()
        positions = self._catalog.generations.positions
        found = await to_thread.run_sync(positions, self._generation.indexes)
        for shelf in self._shelves:
            shelf.take_over(found.get(shelf.collection.id, NOWHERE))
        self.leads = True
        for shelf in self._shelves:
            await self.open(shelf)
            if not shelf.ours:
                return  # the loop opens it, and the others, as soon as that is possible
        await self._leftovers.find()
        await self._leftovers.drop(until=self._now())

    async def begun(self) -> bool:
        """Take over, if the catalog answers."""
        try:
            await self.begin()
        except ServiceError as error:
            self._log.warning("the catalog cannot be read", error=error.detail)
        except Exception:
            log.exception("a bug keeps the indexes from being taken over")
        return self.leads

    async def open(self, shelf: Shelf) -> None:
        """Open an index, or make it."""
        await self._shelves.attempt(shelf, partial(self._writer.open, shelf))

    async def drop(self, shelf: Shelf) -> None:
        """Drop the index of a collection that is gone."""
        self._leftovers.add(shelf.name)
        await self._leftovers.drop(until=self._now())

    async def end(self) -> None:
        """Flush and drop what there is, so that the next to begin has nothing to repeat."""
        if self.leads:
            await self._leftovers.drop(until=math.inf)
            for shelf in self._shelves:
                if shelf.flush_by < math.inf:
                    await self._shelves.attempt(shelf, partial(self._writer.flush, shelf))

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Embed without rest and flush at once for as long as somebody waits for the end of it."""
        self._hurried += 1
        self._nudged.set()
        try:
            with self._throttle.waived():
                yield
        finally:
            self._hurried -= 1

    async def run(self, stop: asyncio.Event) -> None:
        """Lead until `stop` is set or the lease is lost; then the shelves stand at what is durable."""
        stopping = asyncio.create_task(stop.wait())
        lost = asyncio.create_task(self._keeper.lost())
        nudged = asyncio.create_task(self._nudged.wait())
        self._polled = False
        ahead = asyncio.create_task(self._prepare())
        try:
            while not stopping.done() and not lost.done():
                await asyncio.wait(
                    {stopping, lost, nudged, ahead},
                    timeout=self._until_flush(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if nudged.done():
                    self._nudged.clear()
                    nudged = asyncio.create_task(self._nudged.wait())
                if ahead.done() and not stopping.done() and not lost.done():
                    job = ahead.result()
                    job.shelf.busy = job.alone
                    ahead = asyncio.create_task(self._prepare())
                    await self._do(job, lost)
                await self._flush_due(lost)
                await self._leftovers.drop(until=self._now())
        finally:
            for task in (stopping, lost, nudged, ahead):
                task.cancel()
            await asyncio.wait({stopping, lost, nudged, ahead})
            if not stop.is_set():
                self.step_down()

    def step_down(self) -> None:
        """The indexes are another process's to fill."""
        self.leads = False
        self._leftovers.forget()
        for shelf in self._shelves:
            shelf.give_up()

    async def _do(self, job: _Job, lost: asyncio.Task[None]) -> None:
        """Do it, but no longer than the lease is held: a write that is repeated must end then."""
        attempt = self._shelves.attempt(job.shelf, job.work, alone=job.alone)
        task = asyncio.create_task(attempt)
        try:
            await asyncio.wait({task, lost}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _prepare(self) -> _Job:
        """The next thing to do, with its passages embedded; waits until there is one."""
        while True:
            self._shelves.stirred.clear()
            job = await self._next(await self._heads())
            if job is not None:
                return job
            await self._rest()

    async def _heads(self) -> Mapping[int, int]:
        try:
            heads, gone = await self._shelves.census()
            for shelf in gone:
                self._leftovers.add(shelf.name)
                self._nudged.set()
            await self._lag.report(heads)
        except ServiceError as error:
            self._log.warning("the catalog cannot be read", error=error.detail)
        except Exception:
            log.exception("a bug keeps the catalog from being read")
        else:
            return heads
        return {}

    async def _next(self, heads: Mapping[int, int]) -> _Job | None:
        """The first shelf that needs something, beginning after the one that was served last."""
        order = sorted(heads, key=lambda number: (number <= self._served, number))
        for number in order:
            shelf = self._shelves.get(number)
            if shelf is None:
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
        poll_s = POLL_FOREIGN_S if now < self._foreign_until else POLL_S
        waits = [shelf.retry_at - now for shelf in self._shelves if shelf.retry_at > now]
        self._polled = False
        try:
            async with asyncio.timeout(min([poll_s, *waits])):
                await self._shelves.stirred.wait()
        except TimeoutError:
            self._polled = not waits

    async def _read(self, shelf: Shelf) -> Work | None:
        """The application of what comes next in a collection; None if nothing does for now."""
        if self._throttle.paused:
            return None
        after = shelf.read
        if self._polled:
            self._foreign_until = self._now() + FOREIGN_S
        try:
            batch = await self._batches.read(shelf.collection.id, after=after)
        except Paused:
            return None
        except ServiceError as error:
            self._shelves.put_off(shelf, error.detail)
            return None
        except Exception as error:
            log.exception("a bug holds up indexing", collection=shelf.collection.id)
            self._shelves.put_off(shelf, repr(error))
            return None
        if batch is None or shelf.read != after:
            return None  # the shelf was set back meanwhile
        shelf.read = batch.last
        now = self._now()
        soon_s = FLUSH_FOREIGN_S if now < self._foreign_until else self._flush_interval_s
        by = now + min(soon_s, self._flush_interval_s)
        return partial(self._writer.apply, shelf, batch, flush_by=by)

    async def _flush_due(self, lost: asyncio.Task[None]) -> None:
        for shelf in self._shelves:
            if self._flush_at(shelf) <= self._now() and not lost.done():
                await self._do(_Job(shelf, partial(self._writer.flush, shelf), alone=False), lost)

    def _flush_at(self, shelf: Shelf) -> float:
        hurried = self._hurried and shelf.unflushed
        return max(0.0 if hurried else shelf.flush_by, shelf.retry_at)

    def _until_flush(self) -> float | None:
        due = min([self._leftovers.due, *(self._flush_at(shelf) for shelf in self._shelves)])
        return None if due == math.inf else max(0.0, due - self._now())

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
