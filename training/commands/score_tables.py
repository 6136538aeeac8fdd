"""Results as tables for a terminal: the means of each task, and a matrix of languages each."""

from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table

from training.results import Cell, Results
from training.significance import Comparison

MOST_COLUMNS = 16
"""Candidate languages that stand side by side; with more, a row is a pair."""


def of_results(results: Results) -> Iterator[Table]:
    """One table of means, then one a benchmark and task with the main metric of every pair."""
    yield _means(results)
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in results.cells:
        task = "mono, cross" if cell.task in {"mono", "cross"} else cell.task
        groups.setdefault((cell.benchmark, task), []).append(cell)
    for (benchmark, task), cells in groups.items():
        candidates = list(dict.fromkeys(cell.candidates for cell in cells))
        metric = next(iter(cells[0].metrics))
        if task == "mono, cross" and 1 < len(candidates) <= MOST_COLUMNS:
            yield _matrix(f"{benchmark} ({task}): {metric}", candidates, cells)
        else:
            yield _rows(f"{benchmark} ({task})", cells)


def of_comparison(model: str, other: str, compared: Sequence[Comparison]) -> Table:
    """A row a cell: difference, its interval, and whether it is more than chance."""
    table = Table(
        "benchmark",
        "queries → in",
        title=f"{model} minus {other}",
        caption="95 % bootstrap interval; p of sign flips by cluster, after Holm",
    )
    for name in ("difference", "interval", "p", ""):
        table.add_column(name, justify="right", no_wrap=True)
    for one in compared:
        table.add_row(
            f"{one.benchmark} {one.task} {one.metric}",
            f"{one.queries} → {one.candidates}",
            f"{one.difference:+.2f}",
            f"{one.low:+.2f} … {one.high:+.2f}",
            f"{one.p_holm:.4f}",
            "*" if one.significant else "",
        )
    return table


def of_mteb(scores: Mapping[str, Mapping[str, float]]) -> Table:
    """The main score of every task and subset."""
    table = Table("mteb task", "subset", title="mteb: main score")
    table.add_column("score", justify="right")
    for task, subsets in scores.items():
        for subset, score in subsets.items():
            table.add_row(task, subset, f"{score:.2f}")
    return table


def _means(results: Results) -> Table:
    cells: dict[tuple[str, str], list[Cell]] = {}
    for cell in results.cells:
        cells.setdefault((cell.benchmark, cell.task), []).append(cell)
    table = Table("benchmark", "task", title=results.model, caption=_caption(results))
    table.add_column("pairs", justify="right")
    table.add_column("scores")
    summary = results.summary()
    for (benchmark, task), own in cells.items():
        means = "  ".join(
            f"{metric} {summary[f'{benchmark} {task} {metric}']:.2f}" for metric in own[0].metrics
        )
        table.add_row(benchmark, task, str(len(own)), means)
    return table


def _caption(results: Results) -> str:
    """What the scores are, and whether the candidates are those of the release."""
    said = ["means over language pairs"]
    sizes = results.facts.get("sizes")
    for name, own in sizes.items() if isinstance(sizes, Mapping) else ():
        if "not_as_published" in own:
            wrong = ", ".join(
                f"{tag} {both['here']} ({both['published']})"
                for tag, both in own["not_as_published"].items()
            )
            said.append(
                f"{name}: not the published numbers of candidates: {wrong}"
                if wrong
                else f"{name}: {sum(own['candidates'].values())} candidates, as published"
            )
    return "; ".join(said)


def _matrix(title: str, candidates: Sequence[str], cells: Sequence[Cell]) -> Table:
    table = Table("queries", title=title, caption="columns: language of the candidates")
    for language in candidates:
        table.add_column(language, justify="right")
    found = {(cell.queries, cell.candidates): next(iter(cell.metrics.values())) for cell in cells}
    for language in dict.fromkeys(cell.queries for cell in cells):
        row = [found.get((language, other)) for other in candidates]
        table.add_row(language, *("" if value is None else f"{value:.1f}" for value in row))
    return table


def _rows(title: str, cells: Sequence[Cell]) -> Table:
    table = Table("queries", "candidates", title=title)
    for name in ("count", *cells[0].metrics):
        table.add_column(name, justify="right")
    for cell in cells:
        values = (f"{value:.1f}" for value in cell.metrics.values())
        table.add_row(cell.queries, cell.candidates, str(cell.count), *values)
    return table
