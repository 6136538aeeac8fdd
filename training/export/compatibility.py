"""Whether two bundles share a space: new queries are asked of old passages, beside either bundle alone.

Why it is measured and not assumed: a student that learns from the same teacher as its predecessor
stands near it, in some languages nearer than in others.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from service.bundle import Bundle, restate
from service.golden import GoldenQuery
from service.manifest import Precision
from service.types import Matrix, Role
from training import benchmarks
from training.benchmarks.embedding import Embed, Memory
from training.benchmarks.retrieval import Retrieval, Texts
from training.benchmarks.tasks import KINDS
from training.config.evaluation import Evaluation
from training.results import Cell

MEASURE = "ndcg@10"
DECIMALS = 4
FEWEST = 8
"""Of fewer queries one whose rank moves would decide."""


class CompatibilityInvalid(ValueError):
    """Two bundles cannot be compared, or the claim about them does not hold; says why."""


@dataclass(frozen=True, slots=True)
class Measured:
    """nDCG@10, from 0 to 1, of queries in one language that look for passages in another."""

    benchmark: str
    queries: str
    passages: str
    count: int
    old: float
    """Queries and passages by the old bundle."""
    crossed: float
    """Queries by the new one, passages by the old one."""
    new: float
    """Both by the new one."""

    @property
    def pair(self) -> str:
        return f"{self.queries}-{self.passages}"

    @property
    def loss(self) -> float:
        """What new queries find less in the old passages than old ones did."""
        return round(self.old - self.crossed, DECIMALS)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two bundles, in the precision that embeds."""

    bundle: Bundle
    precision: Precision
    embed: Embed

    @property
    def space(self) -> str:
        return self.bundle.manifest.space[self.precision]

    @property
    def name(self) -> str:
        return f"{self.bundle.manifest.name}/{self.bundle.manifest.version}"


def measure(
    new: Side,
    old: Side,
    sets: Iterable[Retrieval],
    *,
    fewest: int = FEWEST,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Measured]:
    """Every pair of languages of every set that has `fewest` queries or more.

    Languages that a bundle says nothing of are left out: NEW asks in those of both, and OLD's
    passages are in its own.

    Raises:
        CompatibilityInvalid: the spaces are one and the same, or of different dimensions, or no
            pair of the bundles' languages has so many queries.
    """
    _check_comparable(new, old)
    by_new, by_old = Memory(new.embed), Memory(old.embed)

    def crossed(texts: Sequence[str], role: Role) -> Matrix:
        return by_new(texts, role) if role == "query" else by_old(texts, role)

    found: list[Measured] = []
    for whole in sets:
        progress(whole.name)
        one = _within(whole, queries=_languages(new, old), passages=_languages(old))
        ways: list[list[Cell]] = [list(one.cells(way)) for way in (by_old, crossed, by_new)]
        for before, between, after in zip(*ways, strict=True):
            if before.count < fewest:
                continue
            shares = [
                round(cell.metrics[MEASURE] / 100, DECIMALS) for cell in (before, between, after)
            ]
            found.append(
                Measured(one.name, before.queries, before.candidates, before.count, *shares)
            )
        by_new.forget()
        by_old.forget()
    if not found:
        raise CompatibilityInvalid(
            f"there is nothing to measure {new.name} and {old.name} on: no pair of their languages"
            f" has {fewest} queries"
        )
    return found


def golden_set(new: Bundle, old: Bundle) -> Retrieval:
    """The golden queries of the new bundle, or else of the old one.

    Raises:
        CompatibilityInvalid: neither has any.
    """
    for bundle in (new, old):
        if queries := bundle.golden():
            name = f"golden {bundle.manifest.name}/{bundle.manifest.version}"
            return _retrieval(name, queries)
    raise CompatibilityInvalid("neither bundle has golden queries: name a data folder with --data")


def benchmark_sets(data: Path, spec: str | None) -> list[Retrieval]:
    """The retrieval benchmarks of a data folder: those that are named, or all.

    Raises:
        BenchmarkMissing, BenchmarkInvalid: as `training.benchmarks` says.
        CompatibilityInvalid: one that is named, or all that are there, are no retrieval.
    """
    folder = data / Evaluation().folder
    chosen = benchmarks.lying_in(folder) if spec is None else benchmarks.named(spec, folder)
    others = [one.name for one in chosen if one.name not in KINDS]
    if others and (spec is not None or len(others) == len(chosen)):
        raise CompatibilityInvalid(
            f"{', '.join(others)}: no retrieval; passages are found in {', '.join(KINDS)}"
        )
    read = (benchmarks.read(one, folder) for one in chosen if one.name in KINDS)
    return [one for one in read if isinstance(one, Retrieval)]


def losses(found: Iterable[Measured], *, tolerance: float) -> list[str]:
    """The pairs of languages that lose more, each as a phrase."""
    return [
        f"{one.pair} loses {one.loss:.4f} ({one.benchmark})"
        for one in found
        if one.loss > tolerance
    ]


def declare(new: Side, old: Side, found: Sequence[Measured], *, tolerance: float) -> Bundle:
    """Write the claim into the new bundle, in place of an earlier one about the same two spaces.

    Of several benchmarks the one counts in which a pair of languages loses most.

    Raises:
        BundleInvalid: a pair loses more than the tolerance.
    """
    worst: dict[str, Measured] = {}
    for one in found:
        if one.pair not in worst or one.loss > worst[one.pair].loss:
            worst[one.pair] = one
    claim = {
        "space": old.space,
        "precision": new.precision,
        "ndcg": {pair: (one.old, one.crossed) for pair, one in sorted(worst.items())},
        "tolerance": tolerance,
        "measured_on": ", ".join(dict.fromkeys(one.benchmark for one in found)),
    }
    others = [
        one
        for one in new.bundle.manifest.compatible_with
        if (one.space, one.precision) != (old.space, new.precision)
    ]
    return restate(new.bundle.folder, compatible_with=[*others, claim])


def _check_comparable(new: Side, old: Side) -> None:
    if new.space == old.space:
        raise CompatibilityInvalid(
            f"{new.name} and {old.name} have the same space {new.space}: there is nothing to prove"
        )
    widths = [side.bundle.manifest.dimension for side in (new, old)]
    if widths[0] != widths[1]:
        raise CompatibilityInvalid(
            f"{new.name} has {widths[0]} dimensions and {old.name} {widths[1]}: their vectors"
            " cannot be compared"
        )


def _languages(*sides: Side) -> frozenset[str]:
    """Those that all of them are made for; empty where one does not say."""
    stated = [frozenset(side.bundle.manifest.languages) for side in sides]
    return frozenset.intersection(*stated) if all(stated) else frozenset()


def _within(whole: Retrieval, *, queries: frozenset[str], passages: frozenset[str]) -> Retrieval:
    """The same set in these languages, in pairs of them, by the one measure."""

    def kept(side: Mapping[str, Texts], languages: frozenset[str]) -> dict[str, Texts]:
        return {tag: texts for tag, texts in side.items() if not languages or tag in languages}

    return replace(
        whole,
        queries=kept(whole.queries, queries),
        candidates=kept(whole.candidates, passages),
        tasks=tuple(task for task in whole.tasks if task != "pool"),
        measures=(MEASURE,),
    )


def _retrieval(name: str, golden: Sequence[GoldenQuery]) -> Retrieval:
    queries: dict[str, dict[str, str]] = {}
    passages: dict[str, dict[str, str]] = {}
    relevant: dict[str, dict[str, dict[str, int]]] = {}
    for number, one in enumerate(golden):
        identity = f"{number:05}"
        for language, text in one.query.items():
            queries.setdefault(language, {})[identity] = text
        for language, text in one.passage.items():
            passages.setdefault(language, {})[identity] = text
            relevant.setdefault(language, {})[identity] = {identity: 1}
    return Retrieval(
        name,
        queries={tag: Texts(tuple(own), tuple(own.values())) for tag, own in queries.items()},
        candidates={tag: Texts(tuple(own), tuple(own.values())) for tag, own in passages.items()},
        relevant=relevant,
        tasks=("mono", "cross"),
        measures=(MEASURE,),
    )
