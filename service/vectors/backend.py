"""The interface of a vector index backend: one index holds one collection's vectors of one generation.

Aliases, generations, retries of requests and the text of passages live above it. Both backends
(`edge`, embedded; `qdrant`, a server) satisfy one contract suite, `tests/contract/test_vectors.py`.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from service.filters import Filter
from service.types import FieldType, GroupBy, Matrix


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """What an index is: its name, the space of its vectors, and the fields that can be filtered."""

    name: str
    space: str
    dimension: int
    fields: Mapping[str, FieldType]


@dataclass(frozen=True, slots=True)
class Point:
    """One passage in the index. `metadata` holds the declared fields alone, as `filters.typed` made them."""

    id: int
    vector: Matrix
    rev: int
    document: int
    language: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Query:
    """A search: `limit` hits (or groups of at most `group_size`) after `offset`, best first.

    `where` is resolved (see `filters.resolve`); `score_threshold` keeps the scores that reach it.
    """

    vector: Matrix
    limit: int
    offset: int = 0
    where: Filter | None = None
    score_threshold: float | None = None
    group_by: GroupBy | None = None
    group_size: int = 1
    with_vector: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """A point that was found: cosine score, and its vector if the query asked for it."""

    id: int
    score: float
    vector: Matrix | None = None


class VectorIndex(Protocol):
    """One open index. What is wrong with a call is told before any of it is done (`InvalidInput`)."""

    @property
    def spec(self) -> IndexSpec: ...

    async def apply(self, upserts: Sequence[Point], deletes: Sequence[int]) -> None:
        """Write and delete, visible to searches on return; idempotent; the ids are disjoint.

        It survives the end of any process on return. After `IndexUnavailable` or `StorageFull` a
        part of the batch may be in the index: repeat the batch.
        """
        ...

    async def flush(self) -> None:
        """Return when everything applied so far survives a power loss."""
        ...

    async def settle(self) -> None:
        """Return when searches run as well and as fast as they will on what the index holds.

        It may take hours, and its end is the caller's to set. Writes go on meanwhile.
        """
        ...

    async def search(self, queries: Sequence[Query]) -> list[list[Match]]:
        """One list of matches for each query; equal scores are ordered by ascending id.

        With `group_by` the matches of one group are adjacent, the best group first.
        """
        ...

    def scan(self, *, page: int = 10_000) -> AsyncIterator[Sequence[tuple[int, int]]]:
        """Pages of (id, rev) in ascending id order: everything that the index holds."""
        ...

    async def count(self, where: Filter | None = None) -> int:
        """The exact number of points that satisfy the filter."""
        ...


class VectorBackend(Protocol):
    """The place where indexes live: a child process with its folder, or a Qdrant server."""

    async def create(self, spec: IndexSpec) -> VectorIndex:
        """Make the index if it is not there, and open it; idempotent for an equal spec."""
        ...

    async def open(self, spec: IndexSpec) -> VectorIndex:
        """Open an index; `NotFound` if it is missing, `IndexCorrupt` if it is damaged or another space."""
        ...

    async def drop(self, name: str) -> None:
        """Destroy an index and its files; idempotent."""
        ...

    async def list(self) -> Sequence[str]:
        """The names of all indexes that this service made here."""
        ...

    async def ping(self) -> None:
        """Return if the backend answers, or raise `IndexUnavailable`."""
        ...
