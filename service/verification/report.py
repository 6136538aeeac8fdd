"""The gate's report: the names of its checks, which of them may be overridden, and its JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from service.errors import InvalidInput
from service.types import GateCheck, GateReport

INTEGRITY = ("counts", "digest", "vectors")
"""What must hold, whatever anybody wishes: otherwise answers would be wrong, not only worse."""
QUALITY = ("truncation", "golden", "latency")
"""What an operator may override with a reason."""


FAULTS_TOLD = 8


def check_override(override: Sequence[str], reason: str) -> None:
    """Refuse names that are no quality checks, and an override that nobody gives a reason for.

    Raises:
        InvalidInput: names the check, and those that may be overridden.
    """
    for position, name in enumerate(override):
        if name not in QUALITY:
            why = (
                "proves integrity and cannot be" if name in INTEGRITY else "is no check that can be"
            )
            raise InvalidInput(
                f"{name!r} {why} overridden; these can: {', '.join(QUALITY)}",
                pointer=f"/override/{position}",
            )
    if override and not reason.strip():
        raise InvalidInput(
            f"overriding {', '.join(override)} needs a reason, which is kept with the report",
            pointer="/reason",
        )


def outcome(name: str, faults: Sequence[str], *, fine: str, **measures: Any) -> GateCheck:
    """A check that is fine unless there are faults; its measures are made fit for JSON."""
    return GateCheck(
        name=name,
        ok=not faults,
        detail="; ".join(_some(faults)) if faults else fine,
        overridable=name in QUALITY,
        measures=_plain(measures),
    )


def conclude(
    checks: Sequence[GateCheck], *, override: Sequence[str], reason: str, at: str, seconds: float
) -> GateReport:
    """Passed if every check is fine, or one of quality that was overridden."""
    failed = [check.name for check in checks if not check.ok]
    accepted = {check.name for check in checks if check.overridable} & set(override)
    overridden = [name for name in failed if name in accepted]
    return GateReport(
        passed=len(overridden) == len(failed),
        checks=list(checks),
        overridden=overridden,
        reason=reason if overridden else "",
        at=at,
        seconds=round(seconds, 3),
    )


def to_json(report: GateReport) -> dict[str, Any]:
    """The report as the catalog keeps it: strings, finite numbers, lists and objects."""
    plain: dict[str, Any] = _plain(asdict(report))
    return plain


def from_json(data: Mapping[str, Any]) -> GateReport:
    """The report that `to_json` wrote."""
    checks = [GateCheck(**check) for check in data["checks"]]
    return GateReport(**{**data, "checks": checks, "overridden": list(data["overridden"])})


def _some(faults: Sequence[str]) -> list[str]:
    """As many as somebody reads; the measures have them all."""
    more = len(faults) - FAULTS_TOLD
    return [*faults[:FAULTS_TOLD], *([f"and {more} more"] if more > 0 else [])]


def _plain(value: Any) -> Any:
    """A value as JSON has it: no NumPy, and None for a number that is not finite."""
    match value:
        case Mapping():
            return {str(key): _plain(each) for key, each in value.items()}
        case np.generic():
            return _plain(value.item())
        case float():
            return round(value, 6) if math.isfinite(value) else None
        case str() | int() | None:
            return value
        case _:
            return [_plain(each) for each in value]
