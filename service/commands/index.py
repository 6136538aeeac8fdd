"""`isogloss index`: files to documents of a collection, seen by searches when it ends."""

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from service import corpus
from service.client import Client
from service.commands.terminal import LOCAL, Url, console

LISTED_REJECTIONS = 10

CollectionName: TypeAlias = Annotated[
    str, typer.Option("--collection", "-c", help="Name of the document collection.")
]


def index(
    files: Annotated[
        list[Path], typer.Argument(help=".jsonl .tsv .csv .txt .md, gzipped or not; or folders.")
    ],
    collection: CollectionName = "default",
    field: Annotated[
        list[str] | None,
        typer.Option(help="Declare a filterable field when the collection is made: year=integer."),
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column of a table with the text.")] = "text",
    id_column: Annotated[
        str | None, typer.Option(help="Column with the id; otherwise file and line are the id.")
    ] = None,
    language_column: Annotated[
        str | None, typer.Option(help="Column with the language; otherwise it is identified.")
    ] = None,
    by_line: Annotated[
        bool, typer.Option(help="Take every line of a text file as a document.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many documents.")] = None,
    url: Url = LOCAL,
) -> None:
    """Load files into a collection of the running service, and wait until searches see them."""
    columns = corpus.Columns(text=text_column, id=id_column, language=language_column)
    found = corpus.files(files)
    with Client(url) as client:
        ensure_collection(client, collection, _declared(field or []))
        source = _documents(found, columns, by_line=by_line, limit=limit)
        rejected = _upload(client, collection, source)
        wait_until_visible(client, collection)
    for problem in rejected[:LISTED_REJECTIONS]:
        console.print(f"[yellow]rejected[/] {escape(problem)}")
    if rejected:
        console.print(f"{len(rejected)} documents were rejected; the others are searchable.")
        raise typer.Exit(1)


def ensure_collection(client: Client, name: str, fields: Mapping[str, str]) -> None:
    """Make the collection unless it is there; one that is there must have these fields, if any."""
    known = {each["name"] for each in client.get("/collections")["collections"]}
    if name not in known or fields:
        client.post("/collections", {"name": name, "fields": fields})


def wait_until_visible(client: Client, collection: str) -> None:
    """Return when searches see all that is stored, with a bar until then."""
    with Progress(
        TextColumn("[bold]embedded "),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        task = progress.add_task("embedded", total=None)
        total = 0
        while True:
            lag = client.get(f"/collections/{collection}")["lag"]
            total = max(total, lag)
            progress.update(task, total=total, completed=total - lag)
            if lag == 0:
                return
            time.sleep(0.2)


def _declared(fields: list[str]) -> dict[str, str]:
    declared = {}
    for field in fields:
        name, equals, kind = field.partition("=")
        if not equals:
            raise typer.BadParameter(f"{field!r} is not name=type, for example year=integer")
        declared[name] = kind
    return declared


def _documents(
    found: list[Path], columns: corpus.Columns, *, by_line: bool, limit: int | None
) -> Iterator[corpus.Record]:
    left = limit if limit is not None else sys.maxsize
    for path in found:
        for document in corpus.documents(path, columns=columns, by_line=by_line):
            if left == 0:
                return
            left -= 1
            yield document


def _upload(client: Client, collection: str, source: Iterator[corpus.Record]) -> list[str]:
    rejected: list[str] = []
    with Progress(
        TextColumn("[bold]stored   "),
        TextColumn("{task.completed:,.0f} documents"),
        console=console,
    ) as progress:
        task = progress.add_task("stored", total=None)
        for state in client.upload(collection, source):
            progress.update(task, completed=state.accepted)
            rejected = state.rejected
    return rejected
