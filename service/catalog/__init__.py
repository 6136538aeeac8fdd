"""The catalog: the truth about documents, passages, generations and the route, in one database.

Everything here is synchronous and may be called from any thread. A call that returns has
committed: what it acknowledged survives the death of the process and, on SQLite, a power loss.
"""

from contextlib import ExitStack
from types import TracebackType
from typing import Self

from service.catalog.collections import Collection, Collections
from service.catalog.database import Database
from service.catalog.documents import Counts, Documents, StoredDocument, Written
from service.catalog.generations import Generations
from service.catalog.leases import Lease, Leases
from service.catalog.passages import Change, Passage, Passages
from service.catalog.pods import Pod, Pods
from service.catalog.records import (
    FINISHED,
    UNDER_WAY,
    Cursor,
    Event,
    Failure,
    Generation,
    Route,
    State,
)

__all__ = [
    "FINISHED",
    "UNDER_WAY",
    "Catalog",
    "Change",
    "Collection",
    "Counts",
    "Cursor",
    "Event",
    "Failure",
    "Generation",
    "Lease",
    "Passage",
    "Pod",
    "Route",
    "State",
    "StoredDocument",
    "Written",
]


class Catalog:
    """An open catalog, one noun an attribute: `with Catalog(url) as catalog`.

    Errors of every call: `Unavailable` (locked or unreachable, nothing was done), `StorageFull`
    (disk full, nothing was done), `ConfigurationError` (on entering: newer, damaged, unknown).
    """

    def __init__(self, url: str, *, busy_timeout_s: float = 10.0) -> None:
        self._database = Database(url, busy_timeout_s=busy_timeout_s)
        self.collections = Collections(self._database)
        self.documents = Documents(self._database)
        self.passages = Passages(self._database)
        self.generations = Generations(self._database)
        self.leases = Leases(self._database)
        self.pods = Pods(self._database)

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self._database.close)
            self._database.prepare()
            self.collections.sweep()
            undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()

    def ping(self) -> None:
        """Return if the database answers, or raise `Unavailable`."""
        self._database.ping()
