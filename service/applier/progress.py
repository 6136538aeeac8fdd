"""How far an index has come, for people and for the lag gauge."""

from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

from anyio import to_thread

from service.applier.shelf import Shelf
from service.catalog import Catalog, Collection

State: TypeAlias = Literal["opening", "building", "verifying", "following", "current"]
"""The last two answer searches: only an index that was found equal to the catalog does."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one collection has come: `applied` of `total` passages and tombstones.

    `error` says what holds it up, if something does; `failed` passages could not be embedded.
    """

    collection: Collection
    state: State
    applied_rev: int
    durable_rev: int
    applied: int
    total: int
    failed: int
    error: str | None


async def measure(catalog: Catalog, generation: int, shelf: Shelf) -> Progress:
    """The progress of one collection in the indexes of a generation; the numbers are exact."""
    number, applied_rev = shelf.collection.id, shelf.applied
    pending = catalog.passages.pending
    total = await to_thread.run_sync(partial(pending, number, after=0))
    left = await to_thread.run_sync(partial(pending, number, after=applied_rev))
    recorded = await to_thread.run_sync(catalog.generations.failures, generation)
    failures = [*recorded, *shelf.failures]
    return Progress(
        shelf.collection,
        _state(shelf, left),
        applied_rev,
        shelf.durable,
        max(0, total - left),
        total,
        len({each.passage for each in failures if each.collection == number}),
        shelf.error,
    )


def _state(shelf: Shelf, left: int) -> State:
    if shelf.index is None:
        return "opening"
    if shelf.verified:
        return "following" if left else "current"
    return "building" if left else "verifying"
