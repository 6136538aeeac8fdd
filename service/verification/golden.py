"""The golden check: are queries with known answers answered as well as by the live generation?"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.catalog import Catalog
from service.errors import BundleInvalid, ConfigurationError
from service.golden import GoldenQuery
from service.types import GateCheck
from service.verification.comparison import compare
from service.verification.ranking import FEWEST, Measured, Wanted, chosen, rank, search, wanted
from service.verification.report import outcome
from service.verification.searches import VARIABLE, GoldenSearch, read_searches
from service.verification.side import Side, run

NOTHING = (
    f"NOTHING WAS MEASURED: no bundle brings {FEWEST} golden queries for any pair of languages,"
    f" and {VARIABLE} names no file with queries whose documents are there. Whether this encoder"
    ' finds anything is unknown. Give one JSON object a line: {"query": "…", "language": "de",'
    ' "collection": "default", "relevant": ["document-id"]}'
)


@dataclass(frozen=True, slots=True)
class Golden:
    """The golden queries that there are; `faults` say why some could not be read."""

    bundle: Sequence[GoldenQuery]
    of: str
    """Name and version of the bundle that brings them."""
    searches: Sequence[GoldenSearch]
    wanted: Sequence[Wanted]
    faults: Sequence[str]


async def collect(green: Side, blue: Side | None, catalog: Catalog, path: Path | None) -> Golden:
    """The queries of green's bundle, or else of blue's, and those of the user."""
    faults: list[str] = []
    lines: Sequence[GoldenQuery] = ()
    of = ""
    for side in (green, blue):
        if side is None or lines:
            continue
        try:
            lines, of = await run(side.golden), side.model
        except BundleInvalid as error:
            faults += [f"{side.model}: {error.detail}"] if side is green else []
    searches: Sequence[GoldenSearch] = ()
    if path is not None:
        try:
            searches = await run(read_searches, path)
        except ConfigurationError as error:
            faults.append(error.detail)
    return Golden(
        chosen(lines, seed=green.generation) if lines else (),
        of,
        searches,
        await wanted(catalog, searches) if searches else (),
        faults,
    )


async def golden(
    green: Side,
    blue: Side | None,
    catalog: Catalog,
    queries: Golden,
    *,
    tolerance: float,
    floor: float,
) -> GateCheck:
    """Both kinds of golden queries, each judged by itself."""
    faults, said = list(queries.faults), []
    measures: dict[str, Any] = {}

    def judge(source: str, told: str, ours: Measured, theirs: Measured | None) -> None:
        if ours:
            wrong, measures[source] = compare(ours, theirs, tolerance=tolerance, floor=floor)
            faults.extend(f"{told}: {fault}" for fault in wrong)
            judged = sum(mean["judged"] for mean in measures[source]["means"].values())
            said.append(
                f"{told}: {judged} means over {len(ours)} pairs of languages, none worse than allowed"
                if judged
                else f"{told}: shown but NOT JUDGED, for want of {FEWEST} queries of any language"
            )

    ours = await rank(green, queries.bundle)
    theirs = await rank(blue, queries.bundle) if blue is not None and ours else None
    judge("bundle", f"golden queries of {queries.of}", ours, theirs)
    ours = await search(green, catalog, queries.wanted)
    theirs = await search(blue, catalog, queries.wanted) if blue is not None and ours else None
    judge("searches", f"golden queries of {VARIABLE}", ours, theirs)
    if missing := len(queries.searches) - len(queries.wanted):
        said.append(
            f"{missing} of the {len(queries.searches)} queries of {VARIABLE} were left out:"
            " their collection or all of their documents are not there"
        )
    fine = "; ".join(said if measures else [NOTHING, *said])
    if measures and blue is None:
        fine += "; nothing is live to compare with"
    return outcome("golden", faults, fine=fine, **measures)
