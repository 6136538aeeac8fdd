"""One side of a comparison: a generation with its encoder and indexes, and patient calls to them."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar, TypeVarTuple

import anyio.to_thread
import numpy as np

from service.applier.batch import Compose
from service.catalog import Catalog, Collection
from service.engine import Engine
from service.errors import EngineFailure, InvalidInput, NotFound, Overloaded
from service.golden import GoldenQuery
from service.types import Matrix, Role
from service.vectors.backend import VectorIndex

T = TypeVar("T")
Args = TypeVarTuple("Args")

PIECES: dict[Role, int] = {"query": 8, "passage": 32}
"""Texts embedded at once. Queries are in the lane of people who wait, so they come in small pieces."""
PATIENCE_S = 60.0
"""So long a full queue is waited for; the gate is in no hurry, and everybody else is."""


@dataclass(frozen=True, slots=True)
class Side:
    """A generation as the gate sees it: `green` is to go live, `blue` is live.

    `indexes` is the generation under whose number cursors and failures of its indexes are kept.
    `compose` is the applier's own, and `golden` reads the queries that the bundle brings along.
    """

    generation: int
    indexes: int
    engine: Engine
    index: Callable[[int], VectorIndex]
    compose: Compose
    golden: Callable[[], Sequence[GoldenQuery]] = list
    asker: Engine | None = None
    """What embeds the queries, if it is not `engine`."""

    @property
    def queries(self) -> Engine:
        """What embeds the queries."""
        return self.asker or self.engine

    @property
    def model(self) -> str:
        """Name and version of the encoder."""
        return f"{self.engine.name}/{self.engine.version}"


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text after an encoder; without a vector, `error` says why."""

    vector: Matrix | None
    truncated: bool = False
    error: str = ""


async def encode(engine: Engine, texts: Sequence[str], role: Role) -> list[Encoded]:
    """Embed texts piece by piece; one that cannot be embedded harms no other.

    Raises:
        Overloaded: the queue has been full for a minute.
        NotReady: the encoder closes.
    """
    step = PIECES[role]
    found: list[Encoded] = []
    for start in range(0, len(texts), step):
        found += await _piece(engine, texts[start : start + step], role)
    return found


async def encode_distinct(engine: Engine, texts: Iterable[str], role: Role) -> dict[str, Matrix]:
    """The vector of each different text; NaN, which is near nothing, where there is none."""
    distinct = list(dict.fromkeys(texts))
    nothing = np.full(engine.dimension, np.nan, dtype=np.float32)
    found = await encode(engine, distinct, role)
    return {
        text: nothing if one.vector is None else one.vector
        for text, one in zip(distinct, found, strict=True)
    }


async def patiently(work: Callable[[], Awaitable[T]]) -> T:
    """Do it again, after the pause that was asked for, while a queue is full."""
    waited_s = 0.0
    while True:
        try:
            return await work()
        except Overloaded as error:
            waited_s += error.retry_after_s
            if waited_s > PATIENCE_S:
                raise
            await asyncio.sleep(error.retry_after_s)


async def each(
    catalog: Catalog,
    collections: Sequence[Collection],
    work: Callable[[Collection], Awaitable[T]],
) -> dict[str, T]:
    """What there is to say of each collection, by name; one that is deleted meanwhile is left out."""
    found: dict[str, T] = {}
    for collection in collections:
        try:
            said = await work(collection)
        except NotFound:
            if collection.id in await run(catalog.passages.heads):
                raise
        else:
            # The catalog forgets first and the index later: in between they differ.
            if collection.id in await run(catalog.passages.heads):
                found[collection.name] = said
    return found


async def run(function: Callable[[*Args], T], *args: *Args) -> T:
    """Run a synchronous call in a worker thread, off the event loop."""
    return await anyio.to_thread.run_sync(function, *args)


async def _piece(engine: Engine, texts: Sequence[str], role: Role) -> list[Encoded]:
    try:
        embedded = await patiently(lambda: engine.embed(texts, role))
    except (EngineFailure, InvalidInput) as error:
        if len(texts) == 1:
            return [Encoded(None, error=error.detail)]
        return [one for text in texts for one in await _piece(engine, [text], role)]
    return [
        Encoded(vector, cut)
        for vector, cut in zip(embedded.vectors, embedded.truncated, strict=True)
    ]
