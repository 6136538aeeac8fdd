"""What an evaluation found: one cell for every benchmark, task and pair of languages, on disk as JSON.

The scores of the single queries lie beside it in `.npz`, for the tests of significance.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class ResultsInvalid(ValueError):
    """A file holds no results; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The scores of one (benchmark, task, query language, candidate language).

    `task` is `mono`, `cross`, `pool` (candidates of all languages at once; `candidates` is then
    "*"), or the benchmark's own word. Metrics are in percent where they are shares, the first is
    the main one; `rank_distance` is in ranks.
    """

    benchmark: str
    task: str
    queries: str
    candidates: str
    metrics: Mapping[str, float]
    count: int
    """Queries, pairs or words that were scored."""
    values: NDArray[np.float32] | None = None
    """The main metric of every query, in the order of the benchmark's files."""
    clusters: NDArray[np.int64] | None = None
    """What every query must be resampled together with, e.g. its passage."""

    @property
    def name(self) -> str:
        return f"{self.benchmark}/{self.task}/{self.queries}-{self.candidates}"


@dataclass(frozen=True, slots=True)
class Results:
    """All cells of one model, with what is needed to read them."""

    model: str
    cells: tuple[Cell, ...]
    facts: Mapping[str, object] = field(default_factory=dict)
    """Space, prompts, precision, versions of the metric libraries, leaks, date."""

    def summary(self) -> dict[str, float]:
        """Macro-averages over cells: `BENCHMARK TASK METRIC`, and `BENCHMARK en-en METRIC`."""
        sums: dict[str, list[float]] = {}
        for cell in self.cells:
            for metric, value in cell.metrics.items():
                sums.setdefault(f"{cell.benchmark} {cell.task} {metric}", []).append(value)
                if cell.queries == cell.candidates == "en":
                    sums.setdefault(f"{cell.benchmark} en-en {metric}", []).append(value)
        return {name: round(float(np.mean(values)), 2) for name, values in sums.items()}

    def as_json(self) -> dict[str, object]:
        """Everything but the values of the single queries."""
        rows = [
            {
                "benchmark": cell.benchmark,
                "task": cell.task,
                "queries": cell.queries,
                "candidates": cell.candidates,
                "count": cell.count,
                "metrics": dict(cell.metrics),
            }
            for cell in self.cells
        ]
        return {
            "model": self.model,
            "facts": dict(self.facts),
            "summary": self.summary(),
            "cells": rows,
        }

    def write(self, path: Path) -> None:
        """Write `path` (JSON) and, beside it, `.npz` with the values of every query.

        Each is complete or not there: what was written before stays until then.
        """
        arrays: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {}
        for number, cell in enumerate(self.cells):
            if cell.values is not None:
                arrays[f"values{number}"] = cell.values
            if cell.clusters is not None:
                arrays[f"clusters{number}"] = cell.clusters
        beside = path.with_suffix(".npz")
        half = beside.with_name(f"{beside.name}.half")
        with half.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its stub's allow_pickle
        half.replace(beside)
        half = path.with_name(f"{path.name}.half")
        half.write_text(json.dumps(self.as_json(), indent=1, ensure_ascii=False), "utf-8")
        half.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Results":
        """Read what `write` wrote; the values are missing if the `.npz` is.

        Raises:
            ResultsInvalid: the file holds something else.
        """
        try:
            content = json.loads(path.read_text("utf-8"))
            beside = path.with_suffix(".npz")
            arrays = dict(np.load(beside, allow_pickle=False)) if beside.is_file() else {}
            cells = tuple(
                Cell(
                    **row,
                    values=arrays.get(f"values{number}"),
                    clusters=arrays.get(f"clusters{number}"),
                )
                for number, row in enumerate(content["cells"])
            )
            return cls(content["model"], cells, content["facts"])
        except (KeyError, TypeError, ValueError) as error:
            raise ResultsInvalid(f"{path} holds no results: {error!r}") from error
