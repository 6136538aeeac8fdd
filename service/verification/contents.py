"""Whether the indexes hold what the catalog does: exact counts, and every (id, revision) pair.

Writing goes on meanwhile. A count can then be wrong by no more than the passages that changed while
it was made, and that number is known: it is 0 in a moment's rest, which is waited for, and if none
comes the counts must agree within it. The digest needs no rest: a passage that is edited leaves the
set that is compared, and none can enter it.
"""

import asyncio
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

from service.applier.difference import difference
from service.catalog import Catalog, Collection
from service.errors import Unavailable
from service.filters import LANGUAGE, Equals
from service.types import GateCheck
from service.verification.report import outcome
from service.verification.side import Side, each, run

PAUSE_S = 0.1
ATTEMPTS = 3
"""A difference is believed when it is found so often: a tombstone that is applied and purged between
two reads looks like one, once."""


@dataclass(frozen=True, slots=True)
class Count:
    """One collection, counted on both sides; `moved` passages at most changed meanwhile."""

    applied: int
    head: int
    """The last revision when the gate began."""
    moved: int
    catalog: int
    index: int
    languages: dict[str, tuple[int, int]]
    """Passages in the catalog and in the index."""

    @property
    def settled(self) -> bool:
        """Everything is applied, and nothing moved."""
        return self.applied >= self.head and not self.moved

    @property
    def faults(self) -> list[str]:
        """In words, what differs by more than can have changed."""
        wrong = [
            f"{index} passages in {language!r}, and the catalog has {catalog}"
            for language, (catalog, index) in self.languages.items()
            if abs(index - catalog) > self.moved
        ]
        if abs(self.index - self.catalog) > self.moved:
            wrong.insert(0, f"{self.index} passages in all, and the catalog has {self.catalog}")
        return wrong


async def counts(
    green: Side,
    catalog: Catalog,
    collections: list[Collection],
    *,
    heads: dict[int, int],
    patience_s: float,
    rest_s: float,
) -> GateCheck:
    """Passages in total and per language; `heads` are the revisions at which the gate began.

    For `patience_s` it is waited that these are applied, and for `rest_s` that nothing moves.

    Raises:
        Unavailable: they are still not applied, so there is nothing to compare yet.
    """
    begun = perf_counter()

    async def counted(collection: Collection) -> Count:
        while True:
            found = await _count(green, catalog, collection.id, head=heads.get(collection.id, 0))
            limit_s = patience_s if found.applied < found.head else rest_s
            if found.settled or perf_counter() - begun >= limit_s:
                break
            await asyncio.sleep(PAUSE_S)
        if found.applied < found.head:
            raise Unavailable(
                f"generation {green.generation} has applied collection {collection.name!r} up to"
                f" revision {found.applied}, and {found.head} was there when the gate began"
            )
        return found

    found = await each(catalog, collections, counted)
    faults = [
        f"collection {name!r}: {fault}" for name, one in found.items() for fault in one.faults
    ]
    moving = [f"{name!r} (±{one.moved})" for name, one in found.items() if one.moved]
    fine = f"{sum(one.index for one in found.values())} passages, as in the catalog"
    if moving:
        fine += f", but for what was written during the count: {', '.join(moving)}; see digest"
    return outcome("counts", faults, fine=fine, collections=_shown(found))


async def digest(green: Side, catalog: Catalog, collections: list[Collection]) -> GateCheck:
    """Every passage at its revision, and nothing else."""

    async def compare(collection: Collection) -> tuple[int, str | None]:
        for _ in range(ATTEMPTS - 1):
            found = await _digest(green, catalog, collection.id)
            if found[1] is None:
                return found
        return await _digest(green, catalog, collection.id)

    found = await each(catalog, collections, compare)
    faults = [f"collection {name!r}: {wrong}" for name, (_, wrong) in found.items() if wrong]
    return outcome(
        "digest",
        faults,
        fine="every passage is there at its revision, and nothing else",
        collections={name: {"revision": revision} for name, (revision, _) in found.items()},
    )


async def cursor(green: Side, catalog: Catalog, collection: int) -> int:
    """The revision up to which the index surely holds the collection."""
    return (await run(catalog.generations.cursors, green.indexes)).get(collection, 0)


async def failed(green: Side, catalog: Catalog, collection: int) -> set[tuple[int, int]]:
    """(id, revision) of the passages that could not be embedded and are rightly absent."""
    failures = await run(catalog.generations.failures, green.indexes)
    return {(each.passage, each.rev) for each in failures if each.collection == collection}


async def _count(green: Side, catalog: Catalog, collection: int, *, head: int) -> Count:
    passages, index = catalog.passages, green.index(collection)
    last = await run(passages.last_revision)
    applied = await cursor(green, catalog, collection)
    waiting = await run(partial(passages.pending, collection, after=applied))
    expected = dict((await run(catalog.documents.counts, collection)).languages)
    absent = [passage for passage, _ in await failed(green, catalog, collection)]
    for passage in (await run(passages.hydrate, absent)).values():
        expected[passage.language] = expected.get(passage.language, 0) - 1
    total = await index.count()
    languages = {
        language: (there, await index.count(Equals(LANGUAGE, language)))
        for language, there in expected.items()
    }
    if await cursor(green, catalog, collection) == applied:
        moved = await run(partial(passages.pending, collection, after=applied))
    else:  # what was applied may be purged by now: only the revisions that were dealt bound it
        moved = waiting + await run(passages.last_revision) - last
    return Count(applied, head, moved, sum(expected.values()), total, languages)


async def _digest(green: Side, catalog: Catalog, collection: int) -> tuple[int, str | None]:
    index = green.index(collection)
    # First the cursor: failures that are recorded up to it are then all known.
    applied = await cursor(green, catalog, collection)
    absent = await failed(green, catalog, collection)
    wrong = await difference(index, catalog, collection, applied_rev=applied, failed=absent)
    return applied, wrong


def _shown(found: dict[str, Count]) -> dict[str, Any]:
    return {
        name: {
            "catalog": one.catalog,
            "index": one.index,
            "moved": one.moved,
            "languages": {
                language: {"catalog": catalog, "index": index}
                for language, (catalog, index) in one.languages.items()
            },
        }
        for name, one in found.items()
    }
