"""Answering from indexes that another process fills: opened here, and never made, dropped or mended.

The catalog says how far each has come and whether it was found equal to the catalog; it is asked
twice in a second, and more often while somebody waits for a revision.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import structlog
from anyio import to_thread

from service.applier.lag import Lag
from service.applier.shelf import Shelf
from service.applier.shelves import Shelves
from service.catalog import Catalog, Cursor, Generation
from service.errors import IndexCorrupt, IndexUnavailable, NotFound, ServiceError
from service.vectors.backend import IndexSpec, VectorBackend

log = structlog.get_logger(__name__)

POLL_S = 0.5
POLL_WATCHED_S = 0.05
CENSUS_S = 1.0
NOWHERE = Cursor(applied_rev=0, verified=False)


class Follower:
    """Keeps the shelves as the catalog describes them, for as long as it runs."""

    def __init__(
        self,
        generation: Generation,
        catalog: Catalog,
        backend: VectorBackend,
        shelves: Shelves,
        *,
        lag: Lag,
    ) -> None:
        self._generation = generation
        self._catalog = catalog
        self._backend = backend
        self._shelves = shelves
        self._lag = lag
        self._counted_at = -CENSUS_S
        self._watched = 0
        self._stirred = asyncio.Event()
        self._log = log.bind(generation=generation.id)

    async def run(self, until: Callable[[], bool]) -> None:
        """Look, once at least, and again and again."""
        while True:
            await self.look()
            await self._rest()
            if until():
                return

    def stir(self) -> None:
        """Look again soon."""
        self._stirred.set()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look more often while somebody waits."""
        self._watched += 1
        self.stir()
        try:
            yield
        finally:
            self._watched -= 1

    async def look(self) -> None:
        """Take over what the catalog says, and open what can be opened."""
        now = asyncio.get_running_loop().time()
        positions = self._catalog.generations.positions
        try:
            if now >= self._counted_at + CENSUS_S:
                heads, _ = await self._shelves.census()
                await self._lag.report(heads)
                self._counted_at = now
            found = await to_thread.run_sync(positions, self._generation.indexes)
        except ServiceError as error:
            self._log.warning("the catalog cannot be read", error=error.detail)
            return
        except Exception:
            log.exception("a bug keeps the catalog from being read")
            return
        for shelf in self._shelves:
            shelf.follow(found.get(shelf.collection.id, NOWHERE))
            if shelf.index is None and shelf.retry_at <= now:
                await self.open(shelf)

    async def open(self, shelf: Shelf) -> None:
        """Open an index that is there."""
        await self._shelves.attempt(shelf, partial(self._open, shelf))

    async def _open(self, shelf: Shelf) -> None:
        spec = IndexSpec(
            shelf.name, self._generation.space, self._generation.dimension, shelf.collection.fields
        )
        try:
            shelf.opened_to_read(await self._backend.open(spec))
        except (NotFound, IndexCorrupt) as error:  # its writer sees to that
            raise IndexUnavailable(error.detail) from error

    async def _rest(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_S - POLL_WATCHED_S):
                await self._stirred.wait()
        await asyncio.sleep(POLL_WATCHED_S)
        if not self._watched:
            self._stirred.clear()
