"""Whether golden queries are answered worse than before: drops that are large, and no accident.

A pair of languages often has a dozen queries, and one that moves from rank 1 to 2 is three points
there. So pairs are shown and not judged. Judged are means over golden lines: of each language as the
one that is asked in, of each as the one that is answered in, and of all. A mean has dropped if it
lies below the live generation's by more than the tolerance, *and* by more than the lines' own scatter
explains: a one-sided paired t test at 5 %, shared by all means that are judged (Bonferroni), since
with fifty of them some would look worse by chance every time.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.verification.ranking import ALL, FEWEST, Measured, Pair

EVERYWHERE = "all languages"
ERROR = 0.05
"""How often one mean or more may seem to have dropped that has not."""


@dataclass(frozen=True, slots=True)
class Mean:
    """The nDCG@10 of some pairs, one value a golden line; `chance` is that of a random order."""

    name: str
    chance: float
    green: NDArray[np.float64]
    blue: NDArray[np.float64] | None

    @property
    def judged(self) -> bool:
        """Whether there are lines enough to say anything."""
        return len(self.green) >= FEWEST


def compare(
    green: Measured, blue: Measured | None, *, tolerance: float, floor: float
) -> tuple[list[str], dict[str, Any]]:
    """What is worse than it may be, in words, and all numbers."""
    means = _means(green, blue)
    judged = [mean for mean in means.values() if mean.judged]
    faults = []
    for mean in judged:
        faults += _dropped(mean, tolerance=tolerance, tests=len(judged))
        faults += _below(mean, floor=floor)
    measures = {
        "means": {name: _shown(mean) for name, mean in means.items()},
        "pairs": {
            f"{asked}>{answered}": _pair((asked, answered), green, blue)
            for asked, answered in green
        },
    }
    return faults, measures


def least_drop(differences: NDArray[np.float64], *, tests: int) -> float:
    """The drop that chance alone could make: t times the standard error of the paired differences.

    t is Student's quantile at 1 - ERROR / tests, by the expansion of Abramowitz and Stegun 26.7.5.
    """
    freedom = len(differences) - 1
    z = NormalDist().inv_cdf(1.0 - ERROR / tests)
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return t * float(differences.std(ddof=1)) / float(np.sqrt(len(differences)))


def _means(green: Measured, blue: Measured | None) -> dict[str, Mean]:
    """Every mean by what it is of. A query that searched everything speaks for its own language."""
    whole = [pair for pair in green if pair[1] == ALL] or list(green)
    parts = [pair for pair in green if pair[1] != ALL]
    groups: defaultdict[str, list[Pair]] = defaultdict(list)
    groups[EVERYWHERE] = whole
    for pair in whole:
        groups[f"queries in {pair[0]}"].append(pair)
    for pair in parts:
        groups[f"passages in {pair[1]}"].append(pair)
    return {name: _mean(name, pairs, green, blue) for name, pairs in groups.items()}


def _mean(name: str, pairs: Sequence[Pair], green: Measured, blue: Measured | None) -> Mean:
    values = sum(len(green[pair].lines) for pair in pairs)
    chance = sum(green[pair].chance * len(green[pair].lines) for pair in pairs) / max(1, values)
    before = _by_line(blue, pairs) if blue is not None else None
    return Mean(name, chance, _by_line(green, pairs), before)


def _by_line(measured: Measured, pairs: Sequence[Pair]) -> NDArray[np.float64]:
    """The values of one line belong together, so they count as one: their mean."""
    lines = np.array([line for pair in pairs for line in measured[pair].lines], dtype=np.int64)
    values = np.array([value for pair in pairs for value in measured[pair].ndcg])
    _, members = np.unique(lines, return_inverse=True)
    means: NDArray[np.float64] = np.bincount(members, weights=values) / np.bincount(members)
    return means


def _dropped(mean: Mean, *, tolerance: float, tests: int) -> list[str]:
    if mean.blue is None:
        return []
    differences = mean.blue - mean.green
    drop = float(differences.mean())
    if drop <= max(tolerance, least_drop(differences, tests=tests)):
        return []
    return [
        (
            f"{mean.name}: nDCG@10 is {mean.green.mean():.3f}, and {mean.blue.mean():.3f} in the live"
            f" generation; over {len(mean.green)} golden lines a drop of {drop:.3f} is no accident,"
            f" and more than {tolerance:g} (ISOGLOSS_GATE_TOLERANCE)"
        )
    ]


def _below(mean: Mean, *, floor: float) -> list[str]:
    """The floor counts from what chance finds: among eight passages that is an nDCG@10 of 0.49."""
    least = mean.chance + floor * (1.0 - mean.chance)
    found = float(mean.green.mean())
    if found >= least:
        return []
    above = f", from the {mean.chance:.3f} that chance finds" if mean.chance else ""
    return [
        (
            f"{mean.name}: nDCG@10 is {found:.3f} over {len(mean.green)} golden lines; the least is"
            f" {least:.3f}{above} (ISOGLOSS_GATE_FLOOR={floor:g})"
        )
    ]


def _shown(mean: Mean) -> dict[str, Any]:
    return {
        "lines": len(mean.green),
        "judged": mean.judged,
        "chance": mean.chance,
        "green": mean.green.mean(),
        "blue": None if mean.blue is None else mean.blue.mean(),
    }


def _pair(pair: Pair, green: Measured, blue: Measured | None) -> dict[str, Any]:
    def shown(measured: Measured) -> dict[str, Any]:
        scores = measured[pair]
        return {
            "ndcg@10": round(float(np.mean(scores.ndcg)), 4),
            "accuracy@1": round(float(np.mean(scores.first)), 4),
        }

    return {
        "queries": len(green[pair].lines),
        "green": shown(green),
        "blue": shown(blue) if blue is not None else None,
    }
