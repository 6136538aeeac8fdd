"""An index backend in memory: small, exact, and as forgetful as a test wants it to be.

It keeps two states of every index, what searches see and what was flushed, so that `crash` can
lose the difference, and it can be told to fail.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from service.errors import IndexCorrupt, IndexUnavailable, NotFound
from service.filters import LANGUAGE, matches
from service.vectors.backend import IndexSpec, Match, Point


@dataclass
class MemoryIndex:
    spec: IndexSpec
    backend: "MemoryBackend"
    visible: dict[int, Point] = field(default_factory=dict)
    durable: dict[int, Point] = field(default_factory=dict)

    async def apply(self, upserts, deletes):
        await self.reached("apply")
        assert not {point.id for point in upserts} & set(deletes)
        for point in upserts:
            assert point.vector.shape == (self.spec.dimension,)
            self.visible[point.id] = replace(point, metadata=dict(point.metadata))
        for gone in deletes:
            self.visible.pop(gone, None)

    async def flush(self):
        await self.reached("flush")
        self.durable = dict(self.visible)

    async def settle(self):
        await self.reached("settle")

    async def search(self, queries):
        await self.reached("search")
        return [self._search(query) for query in queries]

    async def scan(self, *, page=10_000):
        pairs = sorted((point.id, point.rev) for point in self.visible.values())
        for start in range(0, len(pairs), page):
            await self.reached("scan")
            yield pairs[start : start + page]

    async def count(self, where=None):
        return sum(
            where is None or matches(where, values(point)) for point in self.visible.values()
        )

    async def reached(self, operation):
        """What was opened before the index was dropped is no way to the one that was made since."""
        await self.backend.reached(operation, self.spec.name)
        if self.backend.indexes.get(self.spec.name) is not self:
            raise NotFound(f"there is no index {self.spec.name}")

    def _search(self, query):
        found = []
        for point in self.visible.values():
            score = float(np.dot(point.vector, query.vector))
            threshold = query.score_threshold
            if (threshold is None or score >= threshold) and (
                query.where is None or matches(query.where, values(point))
            ):
                found.append((point, score))
        found.sort(key=lambda pair: (-pair[1], pair[0].id))
        if query.group_by is not None:
            groups = {}
            for point, score in found:
                key = point.document if query.group_by == "document" else point.language
                groups.setdefault(key, []).append((point, score))
            chosen = list(groups.values())[query.offset :][: query.limit]
            found = [pair for group in chosen for pair in group[: query.group_size]]
        else:
            found = found[query.offset :][: query.limit]
        return [
            Match(point.id, score, point.vector if query.with_vector else None)
            for point, score in found
        ]


def values(point):
    return {**point.metadata, LANGUAGE: point.language}


class MemoryBackend:
    def __init__(self):
        self.indexes = {}
        self.calls = []
        self.down = False
        self.corrupt = set()
        self.before: Callable = lambda operation, name: None

    async def create(self, spec):
        await self.reached("create", spec.name)
        return self.indexes.setdefault(spec.name, MemoryIndex(spec, self))

    async def open(self, spec):
        await self.reached("open", spec.name)
        index = self.indexes.get(spec.name)
        if index is None:
            raise NotFound(f"there is no index {spec.name}")
        if index.spec != spec:
            raise IndexCorrupt(f"index {spec.name} is {index.spec}, not {spec}")
        return index

    async def drop(self, name):
        await self.reached("drop", name)
        self.indexes.pop(name, None)
        self.corrupt.discard(name)

    async def list(self):
        await self.reached("list", "")
        return sorted(self.indexes)

    async def ping(self):
        await self.reached("ping", "")

    async def reached(self, operation, name):
        """Every call passes here: it can be watched, be slow, or fail."""
        await asyncio.sleep(0)
        self.calls.append((operation, name))
        if self.down:
            raise IndexUnavailable("the index does not answer")
        if name in self.corrupt and operation != "drop":
            raise IndexCorrupt(f"index {name} is damaged")
        self.before(operation, name)

    def crash(self):
        """Lose all that was not flushed."""
        for index in self.indexes.values():
            index.visible = dict(index.durable)
