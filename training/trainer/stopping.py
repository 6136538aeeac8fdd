"""Early stopping: which evaluation is the best one so far, and when waiting for a better one ends."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training.config.recipe import Stopping


class MetricUnknown(ValueError):
    """The recipe stops on a metric that no benchmark of it has."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one evaluation means."""

    best: bool
    """Its weights are to be kept."""
    ended: str = ""
    """Why training is over; empty while it is not."""


class Stopper:
    """Follows the evaluations of a run. The first is the baseline, before the first step."""

    def __init__(self, rule: Stopping, state: Mapping[str, Any] | None = None) -> None:
        self._rule = rule
        self._best: float | None = None
        self._best_step = 0
        self._baseline: float | None = None
        self._waited = 0
        if state:
            self._best, self._best_step = state["best"], state["best_step"]
            self._baseline, self._waited = state["baseline"], state["waited"]

    @property
    def state(self) -> dict[str, Any]:
        """As JSON; another stopper goes on from it."""
        return {
            "best": self._best,
            "best_step": self._best_step,
            "baseline": self._baseline,
            "waited": self._waited,
        }

    @property
    def begun(self) -> bool:
        return self._best is not None

    def see(self, step: int, summary: Mapping[str, float]) -> Verdict:
        """Take in an evaluation.

        Raises:
            MetricUnknown: the metric, or the guard, is not in the summary.
        """
        value, guard = self._value("metric", self._rule.metric, summary), None
        if self._rule.guard is not None:
            guard = self._value("guard", self._rule.guard, summary)
        if self._best is None:
            self._best, self._best_step, self._baseline = value, step, guard
            return Verdict(best=True)
        held = guard is None or guard >= self._floor
        if held and value > self._best + self._rule.min_gain:
            self._best, self._best_step, self._waited = value, step, 0
            return Verdict(best=True)
        self._waited += 1
        if self._waited < self._rule.patience:
            return Verdict(best=False)
        return Verdict(best=False, ended=self._reason(step, value, guard, held=held))

    def report(self) -> str:
        """What was best, in one sentence."""
        return f"best {self._rule.metric} = {self._best} after step {self._best_step}"

    @property
    def _floor(self) -> float:
        return (self._baseline or 0.0) - self._rule.max_guard_drop

    def _reason(self, step: int, value: float, guard: float | None, *, held: bool) -> str:
        fallen = (
            ""
            if held
            else f"; {self._rule.guard} = {guard} is below its floor {round(self._floor, 2)}"
            f" (before the first step {self._baseline}, stopping.max_guard_drop ="
            f" {self._rule.max_guard_drop})"
        )
        return (
            f"stopped after step {step}: {self._waited} evaluations (stopping.patience) without a"
            f" better {self._rule.metric} than {self._best} after step {self._best_step}, now"
            f" {value}{fallen}"
        )

    def _value(self, key: str, name: str, summary: Mapping[str, float]) -> float:
        if name not in summary:
            raise MetricUnknown(
                f"stopping.{key} = {name!r} is no metric of this recipe's benchmarks; there are"
                f" {', '.join(sorted(summary))}"
            )
        return summary[name]
