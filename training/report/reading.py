"""What a report shows of a run, read from its folder, or of a single file of results."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.checkpoint import RunFolder
from training.results import Results


class NothingToReport(ValueError):
    """The path holds neither a run's scores nor results; the message says what was looked for."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One column of a report."""

    name: str
    path: Path
    results: Results
    records: Sequence[Mapping[str, Any]] = ()
    """The lines of `metrics.jsonl`."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Rows read and left out, and the size of every data set."""
    sources: Mapping[str, Any] = field(default_factory=dict)
    leaks: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_run(self) -> bool:
        return self.path.is_dir()


def read_shown(path: Path) -> Shown:
    """Read a run's folder, or a JSON file that `isogloss-train evaluate --out` wrote.

    Raises:
        NothingToReport: there is neither.
    """
    if path.is_file():
        return Shown(path.stem, path, _results(path))
    run = RunFolder(path)
    if not run.scores.is_file():
        raise NothingToReport(
            f"{path} is no file of results, and holds no {run.scores.name} of a finished run"
        )
    return Shown(
        name=path.name,
        path=path,
        results=_results(run.scores),
        records=_lines(run.metrics),
        data=_object(run.data),
        sources=_object(run.sources),
        leaks=_object(run.leaks),
        recipe=_object(run.recipe),
    )


def _results(path: Path) -> Results:
    try:
        return Results.read(path)
    except (KeyError, TypeError, ValueError) as error:
        raise NothingToReport(f"{path} is no file of results: {error!r}") from error


def _object(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
