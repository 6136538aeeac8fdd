"""Models beside each other on every evaluation set, by language: the tables of `docs/results.md`.

    python -m tests.benchmarks.languages teacher=teacher.json starter=starter.json …

The files are those of `isogloss-train evaluate … --out`. The first metric of a cell is its main one.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from training.results import Cell, Results

ENGLISH = "en"


def main() -> None:
    if not sys.argv[1:] or not all("=" in argument for argument in sys.argv[1:]):
        sys.exit(f"usage: {__doc__}")
    named = dict(argument.split("=", 1) for argument in sys.argv[1:])
    print(tables({name: Results.read(Path(file)) for name, file in named.items()}))


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


def _table(title: str, columns: Mapping[str, Mapping[str, float]]) -> str:
    lines = [f"| {title} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for row in dict.fromkeys(row for column in columns.values() for row in column):
        cells = (f"{column[row]:.1f}" if row in column else "–" for column in columns.values())
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
