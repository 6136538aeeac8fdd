"""The latency check: does a search take much longer than it does in the live generation?

Both are asked in turn, query by query, so that whatever else the machine does meets both. What seems
slower is measured once more: one hiccup is not the encoder's fault.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from time import perf_counter

import numpy as np

from service.errors import EngineFailure, InvalidInput, NotFound
from service.types import GateCheck
from service.vectors.backend import Query
from service.verification.report import outcome
from service.verification.side import Side, patiently

QUERIES = 50
WARM = 3
"""Queries that go first and do not count."""
ROUNDS = 2
LIMIT = 10
TRIFLE_S = 0.005
"""Nobody waits longer for so little, whatever the ratio is."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A query and the collection that it is for."""

    text: str
    collection: int


@dataclass(frozen=True, slots=True)
class Percentiles:
    """How long the searches of one side took."""

    queries: int
    median_s: float
    p95_s: float


async def latency(
    green: Side, blue: Side | None, queries: Sequence[Asked], *, ratio: float
) -> GateCheck:
    """Median and 95th percentile of embedding and searching one query at a time."""
    ours: Percentiles | None = None
    theirs: Percentiles | None = None
    faults: list[str] = []
    for _ in range(ROUNDS):
        ours, theirs = map(_percentiles, await _round(green, blue, queries[:QUERIES]))
        faults = slower(ours, theirs, ratio=ratio) if ours and theirs else []
        if not faults:
            break
    fine = "there is nothing to search for" if ours is None else "nothing is live to compare with"
    if ours and theirs:
        fine = _told(ours, theirs)
    return outcome(
        "latency",
        faults,
        fine=fine,
        green=ours and asdict(ours),
        blue=theirs and asdict(theirs),
    )


def slower(ours: Percentiles, theirs: Percentiles, *, ratio: float) -> list[str]:
    """In words, how much slower a search is than it may be."""
    if ours.p95_s <= max(theirs.p95_s + TRIFLE_S, ratio * theirs.p95_s):
        return []
    allowed = f"at most {ratio:g} times that is allowed (ISOGLOSS_GATE_LATENCY_RATIO)"
    return [f"{_told(ours, theirs)}; {allowed}"]


async def _round(
    green: Side, blue: Side | None, queries: Sequence[Asked]
) -> tuple[list[float], list[float]]:
    """Seconds of each query in green and in blue."""
    ours: list[float] = []
    theirs: list[float] = []
    for number, asked in enumerate([*queries[:WARM], *queries]):
        turns = [(green, ours)] if blue is None else [(green, ours), (blue, theirs)]
        try:
            seconds = [
                (await _timed(side, asked), into)
                for side, into in turns[:: -1 if number % 2 else 1]
            ]
        except (EngineFailure, InvalidInput, NotFound):
            continue  # a text that one of them cannot embed, or a collection that is gone
        if number >= WARM:
            for one, into in seconds:
                into.append(one)
    return ours, theirs


async def _timed(side: Side, asked: Asked) -> float:
    async def once() -> float:
        begun = perf_counter()
        embedded = await side.engine.embed([asked.text], "query")
        await side.index(asked.collection).search([Query(embedded.vectors[0], limit=LIMIT)])
        return perf_counter() - begun

    return await patiently(once)


def _percentiles(seconds: Sequence[float]) -> Percentiles | None:
    if not seconds:
        return None
    median, p95 = np.percentile(seconds, [50, 95]).tolist()
    return Percentiles(len(seconds), median, p95)


def _told(ours: Percentiles, theirs: Percentiles) -> str:
    return (
        f"one search in twenty takes {1000 * ours.p95_s:.1f} ms or more,"
        f" and {1000 * theirs.p95_s:.1f} ms in the live generation"
    )
