"""What sampled passages show: whether the index holds their vectors, and whether they are cut.

Each is embedded anew, as the applier does it, and searched for. A vector of another encoder, or of an
earlier wording, is then far from the new one; neither counts nor revisions can tell that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from service.catalog import Catalog, Collection, Passage
from service.types import GateCheck, Matrix
from service.vectors.backend import Match, Query, VectorIndex
from service.verification.contents import cursor, failed
from service.verification.report import outcome
from service.verification.sample import Sampler
from service.verification.side import Encoded, Side, each, encode, run

TOGETHER = 32
NORM_TOLERANCE = 1e-3
TIE = 1e-3
"""Scores closer than this are one: texts that are equal, or nearly."""
FEW, MANY = 10, 1000
"""Hits among which a passage is sought, at first and if it is not there: among texts that are equal
it may come late, and a server's approximate search looks closer for more."""
TYPICAL = 0.1
"""The median vector may be off by this part of what a single one may: 0.999 where the least is 0.99.
Measured with the embedded index (8 bits) the median is off by 2e-5 and the worst of 282 by 5e-5, or
4e-5 and 1e-4 with an int8 encoder, whose vectors depend on their batch. An fp32 encoder over vectors
of its own int8 variant is off by 3e-3 in the median and by no more than 7e-3 in any one."""
EXPECTED_COSINE = 0.999
OUTLYING = 20.0
"""Where most are that near, one that is off by so many times the median, and by 1e-3, is of another
text: a sentence with one word changed was off by 2e-3 at the least."""
CUT_MORE = 0.05
CUT_FEWEST = 3
"""Of 50 passages more than 5 points are three; of fewer, one alone would be more."""
EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """A sampled passage, embedded again by green and sought in its index.

    `own` is the score of its stored vector: None if it was not found, and infinite if so many
    others have the best score that it may well be among them.
    """

    collection: str
    passage: Passage
    error: str
    """Why it was not sought, or should not have been."""
    own: float | None
    best: float
    cut: bool
    cut_by_blue: bool | None


async def examine(
    green: Side,
    blue: Side | None,
    catalog: Catalog,
    collections: Sequence[Collection],
    *,
    per_language: int,
) -> list[Sample]:
    """Samples of every language of every collection, without those that changed meanwhile."""

    async def some(collection: Collection) -> list[Sample]:
        index = green.index(collection.id)
        sampler = Sampler(
            catalog,
            index,
            collection.id,
            through=await cursor(green, catalog, collection.id),
            absent=await failed(green, catalog, collection.id),
            seed=green.generation,
        )
        passages = await sampler.draw(per_language)
        found: list[Sample] = []
        for start in range(0, len(passages), TOGETHER):
            piece = passages[start : start + TOGETHER]
            found += await _examined(green, blue, index, piece, collection=collection.name)
        now = await run(catalog.passages.revisions, [one.passage.id for one in found])
        return [one for one in found if now.get(one.passage.id) == one.passage.rev]

    found = await each(catalog, collections, some)
    return [sample for some in found.values() for sample in some]


def vectors(samples: Sequence[Sample], *, min_cosine: float) -> GateCheck:
    """Whether the index holds what the encoder makes of each sampled passage, and finds it first."""
    scores = [one.own for one in samples if one.own is not None and np.isfinite(one.own)]
    rounding = 1.0 - median(scores) if scores else 0.0
    typical = 1.0 - TYPICAL * (1.0 - min_cosine)
    bar = max(min_cosine, min(EXPECTED_COSINE, 1.0 - OUTLYING * rounding))
    tie = max(TIE, 2.0 * rounding)
    wrong: dict[str, list[str]] = {}
    for one in samples:
        fault = one.error or _fault(one, bar=bar, tie=tie)
        if fault:
            wrong.setdefault(one.passage.language, []).append(
                f"passage {one.passage.id} of document {one.passage.document!r}"
                f" in {one.collection!r}: {fault}"
            )
    faults = [
        f"{len(own)} of {_count(samples, language)} sampled in {language!r}, such as {own[0]}"
        for language, own in list(wrong.items())[:EXAMPLES]
    ]
    if len(wrong) > EXAMPLES:
        faults.append(f"and so in {len(wrong) - EXAMPLES} more languages")
    if 1.0 - rounding < typical:
        faults.append(
            f"the median cosine of a stored vector with what the encoder makes of its text is"
            f" {1.0 - rounding:.4f}, and {typical:.4f} is the least for ISOGLOSS_GATE_MIN_COSINE="
            f"{min_cosine:g}: another encoder, precision or prompt made them"
        )
    return outcome(
        "vectors",
        faults,
        fine=f"{len(samples)} sampled passages are stored as the encoder makes them, and found first",
        bar=bar,
        median_cosine=median(scores) if scores else None,
        languages={
            language: {"sampled": len(own), "wrong": len(wrong.get(language, ())), **_cosines(own)}
            for language, own in _by_language(samples).items()
        },
    )


def truncation(samples: Sequence[Sample]) -> GateCheck:
    """Whether green cuts more passages of a language than the encoder that is live."""
    faults, languages = [], {}
    for language, own in _by_language(samples).items():
        compared = [one for one in own if one.cut_by_blue is not None]
        cut = sum(one.cut for one in own)
        languages[language] = {"sampled": len(own), "green": cut / len(own), "blue": None}
        if not compared:
            continue
        ours = sum(one.cut for one in compared)
        theirs = sum(bool(one.cut_by_blue) for one in compared)
        languages[language]["blue"] = theirs / len(compared)
        if ours - theirs >= CUT_FEWEST and ours - theirs > CUT_MORE * len(compared):
            faults.append(
                f"{ours} of {len(compared)} sampled passages in {language!r} are cut,"
                f" and {theirs} by the live encoder"
            )
    if faults:
        faults.append(
            f"what is cut off cannot be found, and at most {CUT_MORE:.0%} more may be: override"
            " `truncation`, and put the documents in again once this encoder splits them"
        )
    fine = "no language loses more of its passages than before"
    if not any(one.cut_by_blue is not None for one in samples):
        fine = "nothing is live to compare with"
    return outcome("truncation", faults, fine=fine, languages=languages)


async def _examined(
    green: Side, blue: Side | None, index: VectorIndex, some: Sequence[Passage], *, collection: str
) -> list[Sample]:
    ours = await _encoded(green, some)
    theirs = await _encoded(blue, some) if blue is not None else [None] * len(some)
    whole = [one.vector for one in ours if one.vector is not None]
    answers = iter(await index.search([Query(vector, limit=FEW) for vector in whole]))
    found = []
    for passage, mine, other in zip(some, ours, theirs, strict=True):
        error, own, best = mine.error, None, float("nan")
        if mine.vector is not None:
            length = float(np.linalg.norm(mine.vector))
            if not abs(length - 1.0) <= NORM_TOLERANCE:
                error = f"the encoder made a vector of length {length:.4g}, not 1"
            own, best = await _sought(index, mine.vector, passage.id, next(answers))
        cut = None if other is None or other.vector is None else other.truncated
        found.append(Sample(collection, passage, error, own, best, mine.truncated, cut))
    return found


async def _encoded(side: Side, passages: Sequence[Passage]) -> list[Encoded]:
    texts = await run(partial(_texts, side, passages))
    return await encode(side.engine, texts, "passage")


def _texts(side: Side, passages: Sequence[Passage]) -> list[str]:
    return [side.compose(passage.title, passage.text) for passage in passages]


async def _sought(
    index: VectorIndex, vector: Matrix, passage: int, hits: Sequence[Match]
) -> tuple[float | None, float]:
    """The score of a passage's stored vector, and the best score that there is."""
    if len(hits) == FEW and passage not in {hit.id for hit in hits}:
        [hits] = await index.search([Query(vector, limit=MANY)])
    if not hits:
        return None, float("nan")
    best = hits[0].score
    own = next((hit.score for hit in hits if hit.id == passage), None)
    if own is None and len(hits) == MANY and hits[-1].score >= best - TIE:
        own = float("inf")
    return own, best


def _fault(one: Sample, *, bar: float, tie: float) -> str:
    # NaN must not pass, so the comparisons ask for what is right.
    if one.own is None:
        return f"its own text does not find it (the best score is {one.best:.4f})"
    if one.own == float("inf"):
        return "" if one.best >= bar else f"its own text finds nothing above {one.best:.4f}"
    if not one.own >= bar:
        return (
            f"its stored vector has cosine {one.own:.4f} with what the encoder makes of its text;"
            f" the least is {bar:.4f} (ISOGLOSS_GATE_MIN_COSINE)"
        )
    if not one.own >= one.best - tie:
        return f"its own text finds another passage first, by {one.best - one.own:.4f}"
    return ""


def _by_language(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for one in samples:
        found.setdefault(one.passage.language, []).append(one)
    return dict(sorted(found.items()))


def _count(samples: Sequence[Sample], language: str) -> int:
    return sum(one.passage.language == language for one in samples)


def _cosines(samples: Sequence[Sample]) -> dict[str, Any]:
    known = [one.own for one in samples if one.own is not None and np.isfinite(one.own)]
    return {"min_cosine": min(known), "median_cosine": median(known)} if known else {}
