"""Batches: the next passages of a collection, read from the catalog and embedded.

Of the passages in a batch some may be poison to the encoder. The guilty ones are found by halving,
and a passage is found guilty only if the encoder still embeds a harmless text: if it does not, the
encoder is broken, not the passage, and the whole batch fails.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from anyio import to_thread

from service.catalog import Catalog, Change, Failure
from service.errors import EngineFailure, Overloaded
from service.types import Matrix
from service.vectors.backend import Point

Embed: TypeAlias = Callable[[Sequence[str]], Awaitable[Matrix]]
Compose: TypeAlias = Callable[[str, str], str]
"""Title and text of a passage to the text that is embedded."""

HARMLESS = "A short sentence."


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything that changed in (`after`, `last`]: what the index gets, and what it loses."""

    after: int
    last: int
    points: Sequence[Point]
    gone: Sequence[int]
    failures: Sequence[Failure]


class Batches:
    """Reads and embeds; takes smaller batches while the encoder's queue refuses larger ones."""

    def __init__(
        self, catalog: Catalog, embed: Embed, *, compose: Compose, batch_passages: int
    ) -> None:
        self._catalog = catalog
        self._embed = embed
        self._compose = compose
        self._batch_passages = batch_passages
        self._size = batch_passages

    async def read(self, collection: int, *, after: int) -> Batch | None:
        """What follows `after`; None if nothing does. Errors: the catalog's and the encoder's."""
        changes, texts = await to_thread.run_sync(partial(self._changes, collection, after=after))
        try:
            vectors = await embed_each(self._embed, texts)
        except Overloaded:
            self._size = max(1, self._size // 2)  # a batch above the queue's limit never fits
            raise
        self._size = min(self._batch_passages, 2 * self._size)
        return batch_of(collection, after, changes, vectors) if changes else None

    def _changes(self, collection: int, *, after: int) -> tuple[Sequence[Change], list[str]]:
        """The changes, and for each live one what is embedded."""
        changes = self._catalog.passages.changes(collection, after=after, limit=self._size)
        alive = (change for change in changes if not change.dead)
        return changes, [self._compose(change.title, change.text) for change in alive]


async def embed_each(embed: Embed, texts: Sequence[str]) -> list[Matrix | EngineFailure]:
    """The vector of each text, or why it has none; raises if no text can be embedded."""
    if not texts:
        return []
    try:
        return list(await embed(texts))
    except EngineFailure as failure:
        if len(texts) == 1:
            await embed([HARMLESS])
            return [failure]
    half = len(texts) // 2
    return [*await embed_each(embed, texts[:half]), *await embed_each(embed, texts[half:])]


def batch_of(
    collection: int,
    after: int,
    changes: Sequence[Change],
    vectors: Sequence[Matrix | EngineFailure],
) -> Batch:
    """The changes as an index takes them; `vectors` belong to the live ones, in order."""
    found = iter(vectors)
    points: list[Point] = []
    gone: list[int] = []
    failures: list[Failure] = []
    for change in changes:
        vector = None if change.dead else next(found)
        if vector is None:
            gone.append(change.id)
        elif isinstance(vector, EngineFailure):
            gone.append(change.id)  # a stale vector would be worse than none
            failures.append(Failure(collection, change.id, change.rev, vector.detail))
        else:
            points.append(
                Point(
                    change.id, vector, change.rev, change.document, change.language, change.metadata
                )
            )
    return Batch(after, changes[-1].rev, points, gone, failures)
