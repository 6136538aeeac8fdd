"""The applier of a generation: its indexes in this process, filled by it or by another, and searched.

One process of all that have a generation open fills its indexes, the holder of the lease for it
(`lead`); the others answer from them, as far as the catalog says that they have come (`follow`).
The lease, the cursors and the names of the indexes belong to `generation.indexes`: two generations
of one space share one index, one cursor and one writer, and in one process one applier.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from anyio import to_thread

from service.applier.batch import Batches, Compose, Embed
from service.applier.follow import Follower
from service.applier.lag import Lag
from service.applier.lead import Leader
from service.applier.lease import LeaseKeeper
from service.applier.leftovers import Leftovers
from service.applier.progress import Progress, measure
from service.applier.shelf import Shelf
from service.applier.shelves import Shelves
from service.applier.throttle import Throttle
from service.applier.writer import Writer
from service.catalog import Catalog, Collection, Generation
from service.errors import IndexUnavailable, NotFound, Unavailable
from service.metrics import Metrics
from service.vectors.backend import VectorBackend, VectorIndex

DRAIN_POLL_S = 0.02


class Applier:
    """Keeps the indexes of a generation in step with the catalog, for as long as it is entered.

    `owner` is this process among all; one that keeps its name over a restart has its lease back at
    once, others wait until it has run out. `takeover_grace_s` is how long a write of another owner
    may still be in flight: 0 where the backend itself lets one process in, as the embedded one does.
    """

    def __init__(  # noqa: PLR0913 - each is one decision of who starts it
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
        owner: str,
        lease_ttl_s: float = 10.0,
        takeover_grace_s: float = 5.0,
        throttle: Throttle | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.throttle = throttle or Throttle(None, lambda: False)
        """Pause it, or change its rate, at any time."""
        self._generation = generation
        self._catalog = catalog
        self._keeper = LeaseKeeper(
            catalog,
            f"writer-{generation.indexes}",
            owner,
            ttl_s=lease_ttl_s,
            grace_s=takeover_grace_s,
            clock=clock,
        )
        self._shelves = Shelves(catalog, generation=generation.indexes, fenced=self._keeper.lose)
        lag = Lag(generation.indexes, catalog, self._shelves, metrics=metrics)
        self._follower = Follower(generation, catalog, backend, self._shelves, lag=lag)
        writer = Writer(
            generation,
            catalog,
            backend,
            keeper=self._keeper,
            flush_passages=flush_passages,
            metrics=metrics,
        )
        self._leader = Leader(
            generation,
            catalog,
            self._shelves,
            writer=writer,
            leftovers=Leftovers(catalog, backend, self._shelves, writer=writer),
            batches=Batches(
                catalog, self.throttle.around(embed), compose=compose, batch_passages=batch_passages
            ),
            throttle=self.throttle,
            flush_interval_s=flush_interval_s,
            lag=lag,
        )
        self._stop = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._keeper.release)
            await self._keeper.ask()
            if self._keeper.ready:
                await self._leader.begin()
            else:
                await self._shelves.census()
                await self._follower.look()
            undo.pop_all()
        name = f"applier {self._generation.id}"
        self._keeping = asyncio.create_task(self._keeper.keep(), name=f"lease of {name}")
        self._loop = asyncio.create_task(self._run(), name=name)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._follower.stir()
        try:
            if self._loop is not None:
                await self._loop
            await self._leader.end()
        finally:
            self._keeper.stop()
            if self._keeping is not None:
                await self._keeping
            await self._keeper.release()

    @property
    def leads(self) -> bool:
        """Whether this process fills the indexes, as far as it knows."""
        return self._leader.leads

    def notify(self) -> None:
        """Say that something was written; from the event loop, and at no cost."""
        self._shelves.stirred.set()

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
                    with self._follower.watched():
                        await shelf.moved.wait()
        except TimeoutError:
            return False
        return True

    async def drain(self, *, timeout_s: float) -> bool:
        """Whether every index becomes durable up to the head, as the catalog has both, in this time.

        The caller sees to it that nobody writes. Where another process fills the indexes, that one
        is waited for; a paused throttle is not resumed.
        """
        self.notify()
        try:
            with self._leader.hurried():
                async with asyncio.timeout(timeout_s):
                    while True:
                        if await self._drained():
                            return True
                        await asyncio.sleep(DRAIN_POLL_S)
        except TimeoutError:
            return False

    async def settle(self) -> None:
        """Return when every index that is open searches as well and as fast as it will."""
        for shelf in self._shelves:
            if shelf.index is not None:
                await shelf.index.settle()

    async def attach(self, collection: Collection) -> None:
        """Follow a collection from now on; returns when its index is open, or cannot be for now.

        The loop finds it by itself within a second; this is for who wants to write to it at once.
        """
        if self._shelves.get(collection.id) is None:
            shelf = self._shelves.place(collection)
            if self.leads:
                await self._leader.open(shelf)
            else:
                await self._follower.open(shelf)

    async def detach(self, collection: int) -> None:
        """Follow a collection no longer; who fills its index drops it."""
        shelf = self._shelves.remove(collection)
        if shelf is not None and self.leads:
            await self._leader.drop(shelf)

    def suspect(self, collection: int) -> None:
        """Have an index compared with the catalog again: a search found something wrong with it."""
        self._shelf(collection).suspect()
        self.notify()
        self._follower.stir()

    async def progress(self) -> list[Progress]:
        """How far each collection has come."""
        indexes = self._generation.indexes
        return [await measure(self._catalog, indexes, shelf) for shelf in self._shelves]

    def _shelf(self, collection: int) -> Shelf:
        shelf = self._shelves.get(collection)
        if shelf is None:
            raise NotFound(f"collection {collection} is not here, or was deleted")
        return shelf

    async def _drained(self) -> bool:
        try:
            heads = await to_thread.run_sync(self._catalog.passages.heads)
            cursors = await to_thread.run_sync(
                self._catalog.generations.cursors, self._generation.indexes
            )
        except Unavailable:
            return False
        # A head falls back when the last tombstones are purged; a cursor never does.
        return all(cursors.get(collection, 0) >= head for collection, head in heads.items())

    async def _run(self) -> None:
        while not self._stop.is_set():
            if self.leads:
                await self._leader.run(self._stop)
            elif not self._keeper.ready or not await self._leader.begun():
                await self._follower.run(lambda: self._stop.is_set() or self._keeper.ready)
