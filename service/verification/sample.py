"""Which passages are looked at: some of each language, drawn by a seed, the same ones again.

A passage's place in the draw is a hash of its id and the seed, so what is edited or added meanwhile
changes little of it. A language with few passages among very many is not met by chance: what it
lacks is then asked of the index, by searching for random vectors in that language.
"""

import re
from collections.abc import Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from service.catalog import Catalog, Passage
from service.filters import LANGUAGE, Equals
from service.vectors.backend import Query, VectorIndex
from service.verification.side import run

DRAWS = 20_000
"""Passages that are looked at for their language before the index is asked."""
PAGE = 10_000
TOGETHER = 500
DIRECTIONS = 4
NEAREST = 256
"""Each random direction gives so many passages of a rare language."""
SENTENCE = re.compile(r"[^.!?\u3002\uff01\uff1f\u061f\u0964\n]{1,200}")
"""As far as the first full stop, question or exclamation mark: Latin, Chinese, Arabic, Devanagari."""


class Sampler:
    """Draws passages of one collection that the index holds: alive, of a revision up to `through`."""

    def __init__(
        self,
        catalog: Catalog,
        index: VectorIndex,
        collection: int,
        *,
        through: int,
        absent: set[tuple[int, int]],
        seed: int,
        draws: int = DRAWS,
    ) -> None:
        self._catalog = catalog
        self._index = index
        self._collection = collection
        self._through = through
        self._absent = absent
        self._random = np.random.default_rng(seed)
        self._salt = np.uint64(self._random.integers(2**63))
        self._draws = draws

    async def draw(self, per_language: int) -> list[Passage]:
        """At most so many passages of each language, and all of a language that has fewer."""
        there = (await run(self._catalog.documents.counts, self._collection)).languages
        chosen: dict[str, dict[int, Passage]] = {language: {} for language in there}
        wanted = {language: min(count, per_language) for language, count in there.items()}
        ids, every = await self._drawn()
        for start in range(0, len(ids), TOGETHER):
            if not _short(chosen, wanted):
                break
            await self._take(ids[start : start + TOGETHER], chosen, wanted)
        if not every:
            for language in _short(chosen, wanted):
                await self._search(language, chosen, wanted)
        return [passage for some in chosen.values() for passage in some.values()]

    async def _drawn(self) -> tuple[list[int], bool]:
        """The ids with the least hashes, in that order, and whether they are all that there are."""
        kept, after, total = np.empty(0, dtype=np.uint64), 0, 0
        while True:
            live = partial(
                self._catalog.passages.live,
                self._collection,
                through_rev=self._through,
                after=after,
                limit=PAGE,
            )
            rows = await run(live)
            if not rows:
                break
            after = rows[-1][0]
            total += len(rows)
            page = np.array([row[0] for row in rows if row not in self._absent], dtype=np.uint64)
            kept = self._least(np.concatenate([kept, page]))
        return kept.tolist(), total <= self._draws

    def _least(self, ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
        least: NDArray[np.uint64] = ids[np.argsort(_hash(ids ^ self._salt))[: self._draws]]
        return least

    async def _take(
        self,
        ids: list[int],
        chosen: dict[str, dict[int, Passage]],
        wanted: Mapping[str, int],
    ) -> None:
        found = await run(self._catalog.passages.hydrate, ids)
        for number in ids:
            passage = found.get(number)
            if (
                passage is not None
                and passage.rev <= self._through
                and (number, passage.rev) not in self._absent
                and len(chosen.get(passage.language, ())) < wanted.get(passage.language, 0)
            ):
                chosen[passage.language][number] = passage

    async def _search(
        self,
        language: str,
        chosen: dict[str, dict[int, Passage]],
        wanted: Mapping[str, int],
    ) -> None:
        directions = self._random.standard_normal((DIRECTIONS, self._index.spec.dimension))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        within = Equals(LANGUAGE, language)
        queries = [
            Query(vector.astype(np.float32), limit=NEAREST, where=within) for vector in directions
        ]
        near = {match.id for matches in await self._index.search(queries) for match in matches}
        ids = self._least(np.array(sorted(near), dtype=np.uint64))
        await self._take(ids.tolist(), chosen, wanted)


def first_sentence(text: str) -> str:
    """The first sentence of a passage, or its first 200 characters: a query that it should answer."""
    found = SENTENCE.search(text.strip())
    return found[0].strip() if found else ""


def _short(chosen: Mapping[str, Mapping[int, Passage]], wanted: Mapping[str, int]) -> list[str]:
    return [language for language, count in wanted.items() if len(chosen[language]) < count]


def _hash(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea and Flood 2014): neighbouring numbers end up anywhere."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
