"""The shelves of one generation: which collections there are, and whose misfortune a failure is."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping

import structlog
from anyio import to_thread

from service.applier.shelf import Shelf
from service.catalog import Catalog, Collection
from service.errors import Conflict, IndexCorrupt, NotFound, ServiceError

log = structlog.get_logger(__name__)


class Shelves:
    """The shelves by collection. What is done to an index is done through `attempt`, one at a time."""

    def __init__(self, catalog: Catalog, *, generation: int, fenced: Callable[[], None]) -> None:
        self._catalog = catalog
        self._prefix = f"g{generation}-c"
        self._fenced = fenced
        self._shelves: dict[int, Shelf] = {}
        self._log = log.bind(generation=generation)
        self.writing = asyncio.Lock()
        self.stirred = asyncio.Event()
        """Set when something may be possible that was not: a write, or the end of an attempt."""

    def __iter__(self) -> Iterator[Shelf]:
        """The shelves of this moment."""
        return iter([*self._shelves.values()])

    def __contains__(self, shelf: Shelf) -> bool:
        return self._shelves.get(shelf.collection.id) is shelf

    def get(self, collection: int) -> Shelf | None:
        """The shelf of a collection, if it is here."""
        return self._shelves.get(collection)

    def place(self, collection: Collection) -> Shelf:
        """A shelf for a collection; the one that is there, if one is."""
        shelf = Shelf(collection, self.name(collection.id))
        return self._shelves.setdefault(collection.id, shelf)

    def name(self, collection: int) -> str:
        """The name of the index of a collection."""
        return f"{self._prefix}{collection}"

    def owns(self, name: str) -> bool:
        """Whether an index is one of this generation's."""
        return name.startswith(self._prefix)

    def remove(self, collection: int) -> Shelf | None:
        """Let go of a collection, and of those who wait for it."""
        shelf = self._shelves.pop(collection, None)
        if shelf is not None:
            shelf.wake()
        return shelf

    async def census(self) -> tuple[Mapping[int, int], list[Shelf]]:
        """The last revision of every collection; whoever made it, it has a shelf now.

        With it the shelves that were removed: their collections are gone.
        """
        known = list(self._shelves)  # one that is placed while the catalog is read is not gone
        heads = await to_thread.run_sync(self._catalog.passages.heads)
        if heads.keys() - self._shelves.keys():
            for collection in await to_thread.run_sync(self._catalog.collections.list):
                self.place(collection)
        gone = [self.remove(collection) for collection in known if collection not in heads]
        return heads, [shelf for shelf in gone if shelf is not None]

    async def attempt(
        self, shelf: Shelf, work: Callable[[], Awaitable[None]], *, alone: bool = True
    ) -> None:
        """Do something to an index; whatever goes wrong is the misfortune of its shelf alone.

        Nothing is read ahead for it meanwhile if `alone`.
        """
        shelf.busy = alone
        try:
            async with self.writing:
                if shelf in self:
                    await work()
            shelf.recovered()
        except Conflict as error:
            self._log.warning("another process writes the indexes", reason=error.detail)
            self._fenced()
        except (NotFound, IndexCorrupt) as error:
            shelf.condemn("missing" if isinstance(error, NotFound) else "corrupt")
            self.put_off(shelf, error.detail)
        except ServiceError as error:
            self.put_off(shelf, error.detail)
        except Exception as error:
            log.exception("a bug holds up indexing", collection=shelf.collection.id)
            self.put_off(shelf, repr(error))
        finally:
            shelf.busy = False
            self.stirred.set()

    def put_off(self, shelf: Shelf, error: str) -> None:
        """Leave a shelf alone for a while, and say why."""
        if shelf.error != error:  # one line when it begins, not one for every attempt
            self._log.warning("indexing is held up", collection=shelf.collection.id, error=error)
        shelf.put_off(error, asyncio.get_running_loop().time())
