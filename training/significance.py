"""Whether two models differ: paired bootstrap and randomisation over clusters, Holm over languages.

Questions about one paragraph rise and fall together, so whole clusters are resampled and flipped;
single questions would make p too small.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.results import Cell, Results

DRAWS = 10_000
CONFIDENCE = 0.95
DRAWS_AT_ONCE = 1000


class Incomparable(ValueError):
    """Two results cannot be compared; the message says what differs."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference of a cell's main metric, this model minus the other, in its own unit."""

    benchmark: str
    task: str
    queries: str
    candidates: str
    metric: str
    difference: float
    low: float
    """Bounds of the 95 % bootstrap interval."""
    high: float
    p: float
    """Two-sided sign-flip randomisation, one cell by itself."""
    p_holm: float
    """After Holm's correction over the cells of this benchmark and task."""

    @property
    def significant(self) -> bool:
        """At the 5 % level, after the correction."""
        return self.p_holm < 1 - CONFIDENCE


def compare(ours: Results, theirs: Results, *, seed: int = 0) -> list[Comparison]:
    """Every cell that both have, in the order of `ours`; what only one has is left out.

    So are cells without values of single queries, such as F1 of mining.

    Raises:
        Incomparable: no such cell in common, or one was scored on other queries.
    """
    others = {cell.name: cell for cell in theirs.cells if cell.values is not None}
    both = [
        (cell, others[cell.name])
        for cell in ours.cells
        if cell.name in others and cell.values is not None
    ]
    if not both:
        raise Incomparable(
            f"{ours.model} and {theirs.model} have no cell in common (benchmark, task, languages)"
            " whose single values are known; is an .npz missing?"
        )
    found = [_compare(one, other, seed=seed) for one, other in both]
    families: dict[tuple[str, str], list[int]] = {}
    for number, one in enumerate(found):
        families.setdefault((one.benchmark, one.task), []).append(number)
    for numbers in families.values():
        corrected = holm([found[number].p for number in numbers])
        for number, p in zip(numbers, corrected, strict=True):
            found[number] = replace(found[number], p_holm=p)
    return found


def paired(
    differences: NDArray[np.float64], clusters: NDArray[np.int64], *, seed: int, draws: int = DRAWS
) -> tuple[float, float, float]:
    """The bootstrap interval (low, high) of the mean difference, and the randomisation test's p.

    The statistic is the mean over all queries. A bootstrap draw takes as many clusters as there
    are, with replacement, and the mean of the queries in them; a randomisation draw turns the sign
    of every cluster by a fair coin. p = (1 + draws at least as far from 0) / (1 + draws).
    """
    _, members = np.unique(clusters, return_inverse=True)
    sums = np.bincount(members, weights=differences)
    sizes = np.bincount(members).astype(np.float64)
    observed = abs(sums.sum())
    random = np.random.default_rng(seed)
    means = np.empty(draws)
    extreme = 0
    for start in range(0, draws, DRAWS_AT_ONCE):
        count = min(DRAWS_AT_ONCE, draws - start)
        taken = random.integers(len(sums), size=(count, len(sums)))
        means[start : start + count] = sums[taken].sum(axis=1) / sizes[taken].sum(axis=1)
        signs = random.integers(0, 2, size=(count, len(sums))) * 2.0 - 1.0
        # A flip that gives the observed sum again must count, whatever the order of its addition.
        extreme += int((np.abs(signs @ sums) >= observed * (1 - 1e-9) - 1e-9).sum())
    tail = (1 - CONFIDENCE) / 2 * 100
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high), (1 + extreme) / (1 + draws)


def holm(values: Iterable[float]) -> list[float]:
    """Holm's step-down adjustment of p values, in their order (Holm 1979)."""
    given = list(values)
    adjusted = [1.0] * len(given)
    largest = 0.0
    for place, number in enumerate(sorted(range(len(given)), key=given.__getitem__)):
        largest = max(largest, min(1.0, (len(given) - place) * given[number]))
        adjusted[number] = largest
    return adjusted


def _compare(ours: Cell, theirs: Cell, *, seed: int) -> Comparison:
    metric = next(iter(ours.metrics))
    if metric not in theirs.metrics or next(iter(theirs.metrics)) != metric:
        raise Incomparable(f"{ours.name}: the main metric is {metric}, and another one there")
    if ours.values is None or theirs.values is None:
        raise AssertionError("compare has left such cells out")
    if ours.values.shape != theirs.values.shape:
        raise Incomparable(
            f"{ours.name}: {len(ours.values)} queries here, {len(theirs.values)} there"
        )
    clusters = ours.clusters if ours.clusters is not None else np.arange(len(ours.values))
    if theirs.clusters is not None and not np.array_equal(clusters, theirs.clusters):
        raise Incomparable(f"{ours.name}: the queries belong to other clusters there")
    differences = ours.values.astype(np.float64) - theirs.values.astype(np.float64)
    low, high, p = paired(differences, clusters, seed=seed)
    return Comparison(
        ours.benchmark,
        ours.task,
        ours.queries,
        ours.candidates,
        metric,
        float(differences.mean()),
        low,
        high,
        p,
        p,
    )


def as_json(comparisons: Iterable[Comparison]) -> list[Mapping[str, object]]:
    """The comparisons as plain records."""
    return [asdict(one) for one in comparisons]
