"""The page of a report: sections of plots and tables in one HTML file that needs nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template

import plotly.graph_objects as go
from plotly.io import to_html
from plotly.offline import get_plotlyjs


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a sentence on how to read it, and its parts as HTML."""

    title: str
    note: str
    parts: Sequence[str]


def plot(figure: go.Figure) -> str:
    """A figure as HTML that expects plotly's script in the page's head."""
    options = {"displaylogo": False, "responsive": True}
    return str(to_html(figure, full_html=False, include_plotlyjs=False, config=options))


def side_by_side(parts: Sequence[str]) -> str:
    """Parts beside each other where the window is wide enough."""
    return f'<div class="pair">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    best: Sequence[int | None] = (),
) -> str:
    """A table; `best` names for each row the column to be set in bold, if any."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = []
    for number, row in enumerate(rows):
        bold = best[number] if number < len(best) else None
        cells = "".join(
            f"<td{' class=best' if place == bold else ''}>{escape(_shown(value))}</td>"
            for place, value in enumerate(row)
        )
        body.append(f"<tr>{cells}</tr>")
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def escaped(text: str) -> str:
    """Text that means nothing to HTML."""
    return escape(text)


def folded(title: str, content: str) -> str:
    """A part that is shown when its title is clicked."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole file."""
    shown = [section for section in sections if section.parts]
    contents = "".join(
        f'<a href="#s{number}">{escape(section.title)}</a>' for number, section in enumerate(shown)
    )
    bodies = "".join(
        f'<section id="s{number}"><h2>{escape(section.title)}</h2>'
        f'<p class="note">{escape(section.note)}</p>{"".join(section.parts)}</section>'
        for number, section in enumerate(shown)
    )
    template = Template(files("training.report").joinpath("page.html").read_text("utf-8"))
    values: Mapping[str, str] = {
        "title": escape(title),
        "subtitle": escape(subtitle),
        "contents": contents,
        "sections": bodies,
        "plotly": get_plotlyjs(),
    }
    return template.substitute(values)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
