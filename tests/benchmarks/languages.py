"""Models beside each other on every evaluation set, by language: the tables of `docs/results.md`.

    python -m tests.benchmarks.languages teacher=teacher.json starter=starter.json … [starter-teacher …]

The files are those of `isogloss-train evaluate … --out`, or `scores.json` of a run. The first metric of a cell is its
main one. `A-B` adds a row of differences of A to B, means over all cells of a task, with their 95 % interval: a query
(or all of a passage) is resampled in all of its languages at once.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.results import Cell, Results
from training.significance import paired

ENGLISH = "en"


def main() -> None:
    named = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    pairs = [argument.split("-", 1) for argument in sys.argv[1:] if "=" not in argument]
    if not named or not all(len(pair) > 1 and set(pair) <= named.keys() for pair in pairs):
        sys.exit(f"usage: {__doc__}")
    found = {name: Results.read(Path(file)) for name, file in named.items()}
    print(tables(found))
    if pairs:
        print(f"\n{gains(found, pairs)}")


def tables(found: Mapping[str, Results]) -> str:
    """Means over languages; then, by benchmark, each language's queries for English candidates."""
    means = {name: _means(results) for name, results in found.items()}
    parts = [_table("mean over languages", means)]
    cells = [cell for results in found.values() for cell in results.cells]
    for benchmark, metric in {cell.benchmark: _main(cell)[0] for cell in cells}.items():
        columns = {name: _by_language(results, benchmark) for name, results in found.items()}
        parts.append(_table(f"{benchmark}, to English, {metric}", columns))
    return "\n\n".join(parts)


def _means(results: Results) -> dict[str, float]:
    sums: dict[str, list[float]] = {}
    for cell in results.cells:
        for name, value in _headlines(cell):
            sums.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in sums.items()}


def _headlines(cell: Cell) -> Iterator[tuple[str, float]]:
    metric, value = _main(cell)
    yield f"{cell.benchmark} {cell.task} {metric}", value
    if cell.candidates == ENGLISH:
        side = "en to en" if cell.queries == ENGLISH else "others to en"
        yield f"{cell.benchmark} {side} {metric}", value
    if "rank_distance" in cell.metrics:
        yield f"{cell.benchmark} {cell.task} rank distance", cell.metrics["rank_distance"]


def _main(cell: Cell) -> tuple[str, float]:
    return next(iter(cell.metrics.items()))


def _by_language(results: Results, benchmark: str) -> dict[str, float]:
    return {
        cell.queries: _main(cell)[1]
        for cell in results.cells
        if cell.benchmark == benchmark and cell.candidates == ENGLISH
    }


def gains(found: Mapping[str, Results], pairs: Sequence[Sequence[str]]) -> str:
    """A row for each two models, a column for each benchmark and task that both have."""
    rows = {f"{a} − {b}": _gains(found[a], found[b]) for a, b in pairs}
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for title, row in rows.items():
        lines.append(f"| {title} | {' | '.join(row.get(name, '–') for name in names)} |")
    return "\n".join(lines)


def _gains(ours: Results, theirs: Results) -> dict[str, str]:
    others = {cell.name: cell for cell in theirs.cells}
    tasks: dict[str, list[tuple[Cell, Cell]]] = {}
    for cell in ours.cells:
        if cell.values is not None and cell.name in others:
            both = cell, others[cell.name]
            tasks.setdefault(f"{cell.benchmark} {cell.task} {_main(cell)[0]}", []).append(both)
    return {name: _gain(cells) for name, cells in tasks.items()}


def _gain(cells: Sequence[tuple[Cell, Cell]]) -> str:
    differences = [_values(a) - _values(b) for a, b in cells]
    clusters = [a.clusters if a.clusters is not None else np.arange(a.count) for a, _ in cells]
    if len({len(one) for one in differences}) == 1 and all(
        np.array_equal(one, clusters[0]) for one in clusters
    ):
        all_differences, all_clusters = np.mean(differences, axis=0), clusters[0]
    else:  # other queries in every language
        starts = np.cumsum([0, *(int(one.max()) + 1 for one in clusters[:-1])])
        all_differences = np.concatenate(differences)
        all_clusters = np.concatenate([c + s for c, s in zip(clusters, starts, strict=True)])
    low, high, _ = paired(all_differences, all_clusters, seed=0)
    return f"{all_differences.mean():+.1f} ({low:+.1f} to {high:+.1f})"


def _values(cell: Cell) -> NDArray[np.float64]:
    assert cell.values is not None
    return cell.values.astype(np.float64)


def _table(title: str, columns: Mapping[str, Mapping[str, float]]) -> str:
    lines = [f"| {title} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for row in dict.fromkeys(row for column in columns.values() for row in column):
        cells = (f"{column[row]:.1f}" if row in column else "–" for column in columns.values())
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
