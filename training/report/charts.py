"""The plots of a report, as plotly figures: each takes results and returns one figure, or None.

None where the results hold nothing that the plot could show: the page then leaves it out and says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots
from scipy.stats import spearmanr

from training.report.projection import LanguageMap
from training.report.reading import Shown
from training.results import Cell, Results

COLOURS = (
    "#3366cc", "#dc3912", "#109618", "#ff9900", "#990099", "#0099c6", "#dd4477", "#66aa00",
    "#b82e2e", "#316395", "#994499", "#22aa99", "#aaaa11", "#6633cc", "#e67300", "#8b0707",
    "#651067", "#329262", "#5574a6", "#3b3eac", "#b77322", "#16d620", "#b91383", "#f4359e", "#9c5935",
)  # fmt: skip
LAYOUT = {
    "template": "plotly_white",
    "font": {"family": "system-ui, sans-serif", "size": 13},
    "margin": {"l": 70, "r": 30, "t": 50, "b": 50},
}
FEWEST = 3
"""A rank correlation of fewer languages says nothing."""


@dataclass(frozen=True, slots=True)
class Gain:
    """A paired difference of one language, in the metric's unit, with its 95 % interval."""

    language: str
    mean: float
    low: float
    high: float
    p: float


def main_metric(results: Results, benchmark: str) -> str:
    """The first metric of a benchmark's cells."""
    cell = next(cell for cell in results.cells if cell.benchmark == benchmark)
    return next(iter(cell.metrics))


def pair_table(
    results: Results, benchmark: str, metric: str
) -> tuple[list[str], list[str], NDArray[np.float64]]:
    """Languages of queries, of candidates, and the metric of each pair (NaN where unmeasured)."""
    cells = [
        cell
        for cell in results.cells
        if cell.benchmark == benchmark and cell.task in {"mono", "cross"} and metric in cell.metrics
    ]
    queries = sorted({cell.queries for cell in cells})
    candidates = sorted({cell.candidates for cell in cells})
    table = np.full((len(queries), len(candidates)), np.nan)
    for cell in cells:
        table[queries.index(cell.queries), candidates.index(cell.candidates)] = cell.metrics[metric]
    return queries, candidates, table


def heat_map(
    results: Results, benchmark: str, *, against: Results | None = None
) -> go.Figure | None:
    """The main metric by language pair, or its difference to other results."""
    metric = main_metric(results, benchmark)
    queries, candidates, table = pair_table(results, benchmark, metric)
    if min(table.shape) < 2:  # noqa: PLR2004 - one row is no map
        return None
    span: dict[str, object] = {"colorscale": "Viridis"}
    title, written = f"{benchmark}: {metric}", ".0f"
    if against is not None:
        other_queries, other_candidates, other = pair_table(against, benchmark, metric)
        if (queries, candidates) != (other_queries, other_candidates):
            return None
        table = table - other
        edge = float(np.nanmax(np.abs(table))) or 1.0
        span = {"colorscale": "RdBu", "zmid": 0.0, "zmin": -edge, "zmax": edge}
        title, written = f"{benchmark}: gain in {metric}", "+.1f"
    figure = go.Figure(
        go.Heatmap(
            z=table,
            x=candidates,
            y=queries,
            text=[["" if np.isnan(v) else f"{v:{written}}" for v in row] for row in table],
            texttemplate="%{text}",
            hovertemplate="query %{y} → candidates %{x}: %{z:.2f}<extra></extra>",
            **span,
        )
    )
    size = 190 + 34 * len(queries)
    figure.update_layout(**LAYOUT, title=title, height=size, yaxis={"autorange": "reversed"})
    return figure


def gains(title: str, rows: Sequence[Gain]) -> go.Figure:
    """Differences to a baseline by language, the best first, with their intervals."""
    rows = sorted(rows, key=lambda gain: gain.mean)
    figure = go.Figure(
        go.Bar(
            x=[gain.mean for gain in rows],
            y=[gain.language for gain in rows],
            orientation="h",
            marker_color=["#109618" if gain.mean > 0 else "#dc3912" for gain in rows],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [gain.high - gain.mean for gain in rows],
                "arrayminus": [gain.mean - gain.low for gain in rows],
                "color": "#333333",
            },
            customdata=[gain.p for gain in rows],
            hovertemplate="%{y}: %{x:+.2f} (p = %{customdata:.4f})<extra></extra>",
        )
    )
    figure.update_layout(**LAYOUT, title=title, height=160 + 26 * len(rows))
    return figure


def bias(columns: Sequence[Shown]) -> go.Figure | None:
    """Rank distance by language of the query: how unevenly the languages of a pool are ranked."""
    figure = go.Figure()
    for place, shown in enumerate(columns):
        cells = [cell for cell in shown.results.cells if "rank_distance" in cell.metrics]
        if cells:
            figure.add_bar(
                name=shown.name,
                x=[f"{cell.queries} ({cell.benchmark})" for cell in cells],
                y=[cell.metrics["rank_distance"] for cell in cells],
                marker_color=COLOURS[place % len(COLOURS)],
            )
    if not figure.data:
        return None
    title = "Language bias: ranks between the first and the last translation of the answer"
    figure.update_layout(**LAYOUT, title=title, height=380, barmode="group")
    return figure


def curves(shown: Shown) -> go.Figure | None:
    """The parts of the loss, and what was measured during training."""
    losses = _series(shown, "train", skipped={"learning_rate", "tokens_per_second"})
    scores = {
        name: points
        for name, points in _series(shown, "evaluation", skipped=set()).items()
        if not name.endswith("rank_distance")  # thousands of ranks beside percents
    }
    if not losses:
        return None
    columns = 2 if scores else 1
    titles = ("loss", "evaluation")[:columns]
    figure = make_subplots(rows=1, cols=columns, subplot_titles=titles)
    for column, series in enumerate((losses, scores)[:columns], start=1):
        for place, (name, points) in enumerate(series.items()):
            figure.add_scatter(
                x=[x for x, _ in points],
                y=[y for _, y in points],
                name=name,
                mode="lines+markers" if len(points) < 30 else "lines",  # noqa: PLR2004
                line_color=COLOURS[place % len(COLOURS)],
                legendgroup=str(column),
                row=1,
                col=column,
            )
    figure.update_xaxes(title="step")
    figure.update_layout(**LAYOUT, title=f"{shown.name}: curves", height=400)
    return figure


def imbalance(shown: Shown, texts: Mapping[str, int]) -> go.Figure | None:
    """Each language's score against how much text of it was trained on, with the rank correlation."""
    benchmark = next((cell.benchmark for cell in shown.results.cells), None)
    if benchmark is None or not texts:
        return None
    metric = main_metric(shown.results, benchmark)
    scores = language_scores(shown.results.cells, benchmark, metric)
    languages = sorted(scores.keys() & texts.keys())
    if len(languages) < FEWEST:
        return None
    x, y = [texts[code] for code in languages], [scores[code] for code in languages]
    figure = go.Figure(
        go.Scatter(
            x=x,
            y=y,
            text=languages,
            mode="markers+text",
            textposition="top center",
            marker={"size": 10, "color": COLOURS[0]},
        )
    )
    title = (
        f"{shown.name}: {benchmark} {metric} against training texts"
        f" (rank correlation {spearmanr(x, y).statistic:+.2f}, {len(languages)} languages)"
    )
    figure.update_xaxes(type="log", title="training texts in the language")
    figure.update_yaxes(title=metric)
    figure.update_layout(**LAYOUT, title=title, height=420)
    return figure


def language_scores(cells: Sequence[Cell], benchmark: str, metric: str) -> dict[str, float]:
    """The mean over all pairs that a language takes part in, on either side."""
    found: dict[str, list[float]] = {}
    for cell in cells:
        if cell.benchmark == benchmark and metric in cell.metrics and cell.task != "pool":
            for language in {cell.queries, cell.candidates}:
                found.setdefault(language, []).append(cell.metrics[metric])
    return {language: float(np.mean(values)) for language, values in found.items()}


def language_map(drawn: LanguageMap) -> go.Figure:
    """Parallel sentences in two dimensions, a panel a model, a colour a language.

    Translations of one sentence are joined by a line: the shorter the lines are, compared with the
    panel, the better the languages are aligned.
    """
    maps, languages, sentences = drawn.points, drawn.languages, drawn.sentences
    figure = make_subplots(rows=1, cols=len(maps), subplot_titles=tuple(maps))
    for column, points in enumerate(maps.values(), start=1):
        grid = points.reshape(len(languages), len(sentences), 2)
        broken = np.full((len(sentences), 1, 2), np.nan)
        lines = np.concatenate([grid.transpose(1, 0, 2), broken], axis=1).reshape(-1, 2)
        figure.add_scatter(
            x=lines[:, 0], y=lines[:, 1], mode="lines", line={"color": "#dddddd", "width": 1},
            hoverinfo="skip", showlegend=False, row=1, col=column,
        )  # fmt: skip
        for place, language in enumerate(languages):
            figure.add_scatter(
                x=grid[place, :, 0],
                y=grid[place, :, 1],
                mode="markers",
                name=language,
                legendgroup=language,
                showlegend=column == 1,
                marker={"size": 7, "color": COLOURS[place % len(COLOURS)]},
                text=list(sentences),
                hovertemplate=f"{language}: %{{text}}<extra></extra>",
                row=1,
                col=column,
            )
    figure.update_xaxes(showticklabels=False)
    figure.update_yaxes(showticklabels=False)
    figure.update_layout(**LAYOUT, title="Parallel sentences, before and after", height=560)
    return figure


def _series(shown: Shown, kind: str, skipped: set[str]) -> dict[str, list[tuple[int, float]]]:
    series: dict[str, list[tuple[int, float]]] = {}
    for record in shown.records:
        if record.get("kind") == kind:
            for name, value in record.items():
                if name not in {"step", "kind", "stage"} | skipped and isinstance(value, float):
                    series.setdefault(name, []).append((record["step"], value))
    return series
