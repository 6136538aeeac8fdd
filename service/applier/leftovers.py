"""Indexes whose collection is gone: they are dropped as soon as that is possible."""

import asyncio
import math

import structlog
from anyio import to_thread

from service.applier.shelves import Shelves
from service.applier.writer import Writer
from service.catalog import Catalog
from service.errors import ServiceError
from service.vectors.backend import VectorBackend

log = structlog.get_logger(__name__)

RETRY_S = 15.0


class Leftovers:
    """What is to be dropped; who begins to write looks for what others have left."""

    def __init__(
        self, catalog: Catalog, backend: VectorBackend, shelves: Shelves, *, writer: Writer
    ) -> None:
        self._catalog = catalog
        self._backend = backend
        self._shelves = shelves
        self._writer = writer
        self._due: dict[str, float] = {}

    @property
    def due(self) -> float:
        """When there is something to be dropped, in the time of the event loop."""
        return min(self._due.values(), default=math.inf)

    def add(self, name: str) -> None:
        """An index is to be dropped."""
        self._due[name] = 0.0

    def forget(self) -> None:
        """They are another process's to drop."""
        self._due.clear()

    async def find(self) -> None:
        """Add the indexes of these shelves' generation that belong to no collection."""
        try:
            names = [each for each in await self._backend.list() if self._shelves.owns(each)]
            # Read after the names: the collection of an index that had none by then is gone.
            collections = await to_thread.run_sync(self._catalog.collections.list)
        except ServiceError as error:
            log.warning("indexes may be left over", error=error.detail)
            return
        for name in {*names} - {self._shelves.name(each.id) for each in collections}:
            self.add(name)

    async def drop(self, *, until: float) -> None:
        """Drop those that are due by then; what fails is tried again."""
        for name in [name for name, due in self._due.items() if due <= until]:
            self._due[name] = asyncio.get_running_loop().time() + RETRY_S
            try:
                async with self._shelves.writing:
                    await self._writer.drop(name)
            except ServiceError as error:
                log.warning("index is left over", index=name, error=error.detail)
            except Exception:
                log.exception("a bug keeps an index from being dropped", index=name)
            else:
                self._due.pop(name, None)
