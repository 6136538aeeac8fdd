"""What all commands share: the console, the address of the service, tables, and how numbers read."""

from datetime import UTC, datetime
from typing import Annotated, TypeAlias

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

LOCAL = "http://127.0.0.1:8000"
MINUTE, HOUR = 60, 3600

console = Console(highlight=False)

Url: TypeAlias = Annotated[str, typer.Option("--url", help="Address of the running service.")]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print the answer as it came.")]


def table(*headings: str, right: tuple[str, ...] = ()) -> Table:
    """An empty table without lines; the columns named in `right` are aligned there."""
    made = Table(box=None, pad_edge=False)
    for heading in headings:
        justify = "right" if heading in right else "left"
        made.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    return made


def say(text: str, *, style: str = "") -> None:
    """Print a line as it is: what somebody wrote in it is no markup, and nothing is wrapped."""
    console.print(f"[{style}]{escape(text)}[/]" if style else escape(text), soft_wrap=True)


def duration(seconds: float) -> str:
    """A time that somebody waits, to two digits or so."""
    seconds = max(0.0, seconds)
    if seconds < 1000:  # noqa: PLR2004 - three digits read well
        return f"{seconds:.0f} s"
    if seconds < 100 * MINUTE:
        return f"{seconds / MINUTE:.0f} min"
    return f"{seconds / HOUR:.1f} h"


def moment(written: str) -> str:
    """A time of the service as it is read; empty if there is none."""
    if not written:
        return ""
    return f"{datetime.fromisoformat(written).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def counted(number: int, noun: str) -> str:
    """`1 passage`, `2,000 passages`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
