"""The compatible check: do a candidate's queries find the live passages as well as the live encoder's do?

It is asked of what is there: the golden queries, and the first sentences of sampled passages, each
of which is to find the passage that it is from.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from service.catalog import Catalog, Collection
from service.filters import LANGUAGE, Equals
from service.types import GateCheck
from service.vectors.backend import Query
from service.verification.comparison import EVERYWHERE, compare
from service.verification.contents import cursor, failed
from service.verification.golden import collect, golden
from service.verification.ranking import ALL, FEWEST, TOP, Measured, Pair, Scores, discount
from service.verification.report import outcome
from service.verification.sample import Sampler, first_sentence
from service.verification.side import PIECES, Side, each, encode

NAME = "compatible"
NOTHING = (
    f"nothing was measured: there are neither golden queries nor {FEWEST} passages of any language"
)


@dataclass(frozen=True, slots=True)
class Known:
    """A query that was made of a passage, and is to find it."""

    text: str
    language: str
    collection: int
    passage: int


async def crossing(
    green: Side,
    blue: Side,
    catalog: Catalog,
    collections: Sequence[Collection],
    *,
    path: Path | None,
    per_language: int,
    tolerance: float,
    floor: float,
) -> GateCheck:
    """Green's queries in blue's indexes beside blue's own, judged as golden queries are.

    A claim needs more than the absence of proof against it: the mean over all languages may not lie
    lower by more than the tolerance at all, be it by accident.

    Raises:
        Unavailable: a dependency does not answer, so nothing is proven.
    """
    if green.engine.dimension != blue.engine.dimension:
        here, there = green.engine.dimension, blue.engine.dimension
        return outcome(
            NAME, [f"vectors of {here} dimensions, and the live ones have {there}"], fine=""
        )
    crossed = replace(blue, asker=green.engine)
    queries = await collect(green, blue, catalog, path)
    check = await golden(crossed, blue, catalog, queries, tolerance=tolerance, floor=floor)
    faults = [] if check.ok else [check.detail]
    measures: dict[str, Any] = dict(check.measures)
    asked = await known(blue, catalog, collections, per_language=per_language)
    if asked:
        wrong, measures["sentences"] = compare(
            await find(crossed, asked), await find(blue, asked), tolerance=tolerance, floor=floor
        )
        faults += [f"first sentences of live passages: {fault}" for fault in wrong]
    means = [mean for part in measures.values() for mean in part["means"].values()]
    judged = sum(mean["judged"] for mean in means)
    if not judged:
        faults.append(NOTHING)
    if not faults:
        faults = _lower(measures, tolerance)
    fine = f"none of {judged} means of nDCG@10 is lower than allowed, with {len(asked)} sentences"
    return outcome(NAME, faults, fine=fine, **measures)


def _lower(measures: Mapping[str, Any], tolerance: float) -> list[str]:
    faults = []
    for source, part in measures.items():
        mean = part["means"][EVERYWHERE]
        if mean["judged"] and mean["blue"] - mean["green"] > tolerance:
            faults.append(
                f"{source}: nDCG@10 over {EVERYWHERE} is {mean['green']:.3f}, and {mean['blue']:.3f}"
                f" by the live encoder's queries: more than {tolerance:g} lower"
                " (ISOGLOSS_GATE_TOLERANCE)"
            )
    return faults


async def known(
    side: Side, catalog: Catalog, collections: Sequence[Collection], *, per_language: int
) -> list[Known]:
    """First sentences of passages of every language of every collection, as the index holds them."""

    async def some(collection: Collection) -> list[Known]:
        sampler = Sampler(
            catalog,
            side.index(collection.id),
            collection.id,
            through=await cursor(side, catalog, collection.id),
            absent=await failed(side, catalog, collection.id),
            seed=side.generation,
        )
        drawn = [(one, first_sentence(one.text)) for one in await sampler.draw(per_language)]
        return [Known(text, one.language, collection.id, one.id) for one, text in drawn if text]

    found = await each(catalog, collections, some)
    return [one for some in found.values() for one in some]


async def find(side: Side, asked: Sequence[Known]) -> Measured:
    """Each query in all passages, and once more in those of its passage's language."""
    measured: defaultdict[Pair, Scores] = defaultdict(Scores)
    step = PIECES["query"]
    for start in range(0, len(asked), step):
        some = asked[start : start + step]
        texts = await encode(side.queries, [one.text for one in some], "query")
        for line, (one, text) in enumerate(zip(some, texts, strict=True), start):
            matches: Sequence[Sequence[Any]] = ((), ())
            if text.vector is not None:
                within = Equals(LANGUAGE, one.language)
                matches = await side.index(one.collection).search(
                    [
                        Query(text.vector, limit=TOP),
                        Query(text.vector, limit=TOP, where=within),
                    ]
                )
            for language, hits in zip((ALL, one.language), matches, strict=True):
                scores = measured[one.language, language]
                rank = next(
                    (at for at, hit in enumerate(hits, 1) if hit.id == one.passage), TOP + 1
                )
                scores.lines.append(line)
                scores.ndcg.append(discount(rank))
                scores.first.append(rank == 1)
    return dict(measured)
