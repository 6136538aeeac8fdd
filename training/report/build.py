"""A report of one or more runs: which plots and tables, in which order, with what explained."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.report import charts, page
from training.report.gains import gains_by_language
from training.report.page import Section
from training.report.projection import LanguageMap
from training.report.reading import Shown

SHOWN_EXAMPLES = 10


def report_page(
    columns: Sequence[Shown],
    *,
    baseline: Shown | None = None,
    language_map: LanguageMap | None = None,
) -> str:
    """The HTML of a report on some runs; what is not given is left out."""
    names = ", ".join(shown.name for shown in columns)
    compared = f", compared with {baseline.name}" if baseline else ""
    sections = [
        _summary(columns, baseline),
        _pairs(columns, baseline),
        _gains(columns, baseline),
        _bias(columns, baseline),
        _map(language_map),
        _curves(columns),
        _imbalance(columns),
        _data(columns),
    ]
    return page.page(f"Report: {names}", f"{len(columns)} run(s){compared}.", sections)


def write_report(path: Path, html: str) -> None:
    """Write the page at once: a reader never sees half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(html, "utf-8")
    partial.replace(path)


def _summary(columns: Sequence[Shown], baseline: Shown | None) -> Section:
    models = [*([baseline] if baseline else []), *columns]
    summaries = [shown.results.summary() for shown in models]
    metrics = list(dict.fromkeys(name for summary in summaries for name in summary))
    rows: list[list[object]] = []
    best: list[int | None] = []
    for metric in metrics:
        values = [summary.get(metric) for summary in summaries]
        rows.append([metric, *("" if value is None else value for value in values)])
        there = [value for value in values if value is not None]
        wanted = min(there) if _lower_is_better(metric) else max(there)
        unique = len(there) > 1 and there.count(wanted) == 1
        best.append(1 + values.index(wanted) if unique else None)
    head = ["", *(shown.name for shown in models)]
    note = (
        "Means over cells, each cell (a pair of languages) counting once. Shares are in percent;"
        " rank_distance is in ranks, and lower is better. The best of a row is bold."
    )
    return Section("Summary", note, [page.table(head, rows, best=best)])


def _lower_is_better(metric: str) -> bool:
    return metric.endswith((" rank_distance", " xsim", " aer"))


def _pairs(columns: Sequence[Shown], baseline: Shown | None) -> Section:
    parts = []
    for shown in columns:
        for benchmark in _benchmarks(shown):
            figures = [charts.heat_map(shown.results, benchmark)]
            if baseline is not None and benchmark in _benchmarks(baseline):
                figures.append(charts.heat_map(shown.results, benchmark, against=baseline.results))
            drawn = [page.plot(figure) for figure in figures if figure is not None]
            if drawn:
                heading = f"<h3>{page.escaped(shown.name)} · {page.escaped(benchmark)}</h3>"
                parts.append(heading + page.side_by_side(drawn))
    note = (
        "Rows are the languages that are asked in, columns those that are searched. A dark row is"
        " a language that finds little; a bright diagonal, same-language retrieval that is ahead."
    )
    return Section("Language pairs", note, parts)


def _gains(columns: Sequence[Shown], baseline: Shown | None) -> Section:
    parts = []
    for shown, held_against in [(shown, baseline) for shown in columns if baseline is not None]:
        for benchmark in _benchmarks(shown):
            rows = gains_by_language(shown.results, held_against.results, benchmark)
            if rows:
                metric = charts.main_metric(shown.results, benchmark)
                title = f"{shown.name} - {held_against.name}: {benchmark} {metric} by language"
                parts.append(page.plot(charts.gains(title, rows)))
    note = (
        "Paired differences with 95 % bootstrap intervals; queries that belong to one passage are"
        " resampled together. Hover for p (sign-flip randomisation, Holm over languages)."
    )
    return Section("Gains and losses", note, parts)


def _bias(columns: Sequence[Shown], baseline: Shown | None) -> Section:
    figure = charts.bias([*([baseline] if baseline else []), *columns])
    note = (
        "All languages are searched at once; for each query, the rank of the last translation of"
        " its answer minus that of the first. A model without language preference ranks them side"
        " by side."
    )
    return Section("Language bias", note, [] if figure is None else [page.plot(figure)])


def _map(drawn: LanguageMap | None) -> Section:
    note = (
        "The two directions of largest variance of each model's own vectors; lines join"
        " translations of one sentence. Distances of different panels cannot be compared."
    )
    parts = [] if drawn is None else [page.plot(charts.language_map(drawn))]
    return Section("Map of parallel sentences", note, parts)


def _curves(columns: Sequence[Shown]) -> Section:
    figures = [charts.curves(shown) for shown in columns]
    parts = [page.plot(figure) for figure in figures if figure is not None]
    return Section("Curves", "Parts of the loss, weighted, as they were logged.", parts)


def _imbalance(columns: Sequence[Shown]) -> Section:
    figures = [charts.imbalance(shown, texts_by_language(shown.data)) for shown in columns]
    parts = [page.plot(figure) for figure in figures if figure is not None]
    note = "Does a language do well because there was more text of it? The scale is logarithmic."
    return Section("Imbalance", note, parts)


def _data(columns: Sequence[Shown]) -> Section:
    parts = []
    for shown in columns:
        if not shown.is_run:
            continue
        rows = [
            [name, facts["rows"], facts["licence"]] for name, facts in sorted(shown.sources.items())
        ]
        heading = f"<h3>{page.escaped(shown.name)}</h3>"
        parts += [
            heading,
            page.table(["source", "rows", "licence"], rows),
            _folded("Rows and data sets", shown.data),
            _folded("Leak check", shown.leaks),
        ]
    note = "What was trained on, and which of it was found in the benchmarks by normalised hashes."
    return Section("Data and leaks", note, parts)


def _folded(title: str, facts: Mapping[str, Any]) -> str:
    return page.folded(title, page.table(["", ""], _flat(facts)))


def _flat(value: object, name: str = "") -> list[list[object]]:
    """Any JSON as rows of dotted name and value."""
    if isinstance(value, Mapping):
        inner = [_flat(v, f"{name}.{k}".lstrip(".")) for k, v in value.items()]
        return [row for rows in inner for row in rows]
    if isinstance(value, list):
        return [[name, str(item)] for item in value[:SHOWN_EXAMPLES]]
    return [[name, value]]


def texts_by_language(data: Mapping[str, Any]) -> dict[str, int]:
    """How many training texts there were in each language, over all data sets and roles."""
    counts: Counter[str] = Counter()
    for one in data.get("sets", {}).values():
        for by_language in one["texts"].values():
            counts.update(by_language)
    return dict(counts)


def _benchmarks(shown: Shown) -> list[str]:
    return list(dict.fromkeys(cell.benchmark for cell in shown.results.cells))
