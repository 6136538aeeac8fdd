"""The command `isogloss`: start the service, and use one that runs."""

import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from service import corpus, logs, server
from service.app import create_app
from service.client import Client
from service.errors import ServiceError
from service.settings import Settings, variables

app = typer.Typer(
    help="Cross-lingual retrieval: ask in one language, find the answer in another.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console()

SHOWN_CHARACTERS = 240
SAMPLES = "samples"
TRY = """
[bold]Isogloss answers at {url}[/] with sample documents in many languages. Try, in another terminal:

  .venv/bin/isogloss search "how should I wash my hands" --collection samples

  curl -s {url}/search -H 'content-type: application/json' \\
       -d '{{"query": "pourquoi la lune cache-t-elle le soleil ?", "collection": "samples", "limit": 5}}'

  curl -s {url}/embed -H 'content-type: application/json' -d '{{"inputs": ["buenos días", "おはよう"]}}'

Interactive documentation: {url}/docs      Stop with Ctrl-C.
"""

Url = Annotated[str, typer.Option("--url", help="Address of the running service.")]
CollectionName = Annotated[
    str, typer.Option("--collection", "-c", help="Name of the document collection.")
]
LOCAL = "http://127.0.0.1:8000"


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. [ISOGLOSS_HOST]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. [ISOGLOSS_PORT]")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of catalog and index. [ISOGLOSS_DATA_DIR]")
    ] = None,
    models_dir: Annotated[
        Path | None, typer.Option(help="Folder of bundles. [ISOGLOSS_MODELS_DIR]")
    ] = None,
    bundle: Annotated[
        str | None, typer.Option(help="Bundle of the first start. [ISOGLOSS_BUNDLE]")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. [ISOGLOSS_DEVICE]")] = None,
    samples: Annotated[
        Path | None, typer.Option(help="Load this file into the collection `samples` at start.")
    ] = None,
) -> None:
    """Start the service. Everything else is set by variables: see `isogloss settings`."""
    settings = Settings.from_env(
        host=host, port=port, data_dir=data_dir, models_dir=models_dir, bundle=bundle, device=device
    )
    logs.configure(settings.log_level)
    if samples is not None:
        threading.Thread(target=_load_samples, args=(samples, settings), daemon=True).start()
    server.run(
        create_app(settings), host=settings.host, port=settings.port, drain_s=settings.drain_s
    )


@app.command()
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
        _ensure_collection(client, collection, _declared(field or []))
        source = _documents(found, columns, by_line=by_line, limit=limit)
        rejected = _upload(client, collection, source)
        _wait_until_visible(client, collection)
    for problem in rejected[:10]:
        console.print(f"[yellow]rejected[/] {problem}")
    if rejected:
        console.print(f"{len(rejected)} documents were rejected; the others are searchable.")
        raise typer.Exit(1)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="What you are looking for, in any language.")],
    collection: CollectionName = "default",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Number of hits.")] = 5,
    language: Annotated[
        list[str] | None, typer.Option("--language", "-l", help="Only passages in this language.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as it came.")] = False,
    url: Url = LOCAL,
) -> None:
    """Search the running service."""
    body: dict[str, Any] = {"query": query, "collection": collection, "limit": limit}
    if language:
        body["languages"] = language
    with Client(url) as client:
        answer = client.post("/search", body)
    if as_json:
        console.print_json(json.dumps(answer))
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("score", "language", "document", "text"):
        table.add_column(heading, justify="right" if heading == "score" else "left")
    for hit in answer["hits"]:
        text = shorten(hit["text"], SHOWN_CHARACTERS, placeholder=" …")
        shown = f"[bold]{hit['title']}[/]\n{text}" if hit["title"] else text
        table.add_row(f"{hit['score']:.3f}", hit["language"], hit["document"], shown)
    console.print(table)
    console.print(f"[dim]bundle {answer['bundle']}, generation {answer['generation']}[/]")


@app.command()
def models(url: Url = LOCAL) -> None:
    """List the bundles of the running service's registry, and which one is live."""
    with Client(url) as client:
        listed = client.get("/models")
    table = Table(box=None, pad_edge=False)
    for heading in ("bundle", "state", "dimension", "tokens", "precisions", "languages"):
        table.add_column(heading)
    for model in listed["models"]:
        table.add_row(
            f"{model['name']}/{model['version']}",
            model["state"] + (f": {model['reason']}" if model.get("reason") else ""),
            str(model["dimension"]),
            str(model["max_tokens"]),
            " ".join(model["precisions"]),
            str(len(model["languages"])),
        )
    console.print(table)


@app.command()
def settings() -> None:
    """List every setting: the variable, its default and what it does."""
    table = Table(box=None, pad_edge=False)
    for heading in ("variable", "default", "meaning"):
        table.add_column(heading, overflow="fold")
    for row in variables():
        table.add_row(*row)
    console.print(table)


def main() -> None:
    """Run the command; an error that the service raises on purpose is one line, not a traceback."""
    try:
        app()
    except ServiceError as error:
        Console(stderr=True).print(f"[red]error:[/] {error.detail}", soft_wrap=True)
        sys.exit(2)


def _declared(fields: list[str]) -> dict[str, str]:
    declared = {}
    for field in fields:
        name, equals, kind = field.partition("=")
        if not equals:
            raise typer.BadParameter(f"{field!r} is not name=type, for example year=integer")
        declared[name] = kind
    return declared


def _ensure_collection(client: Client, name: str, fields: Mapping[str, str]) -> None:
    known = {each["name"] for each in client.get("/collections")["collections"]}
    if name not in known or fields:
        client.post("/collections", {"name": name, "fields": fields})


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


def _wait_until_visible(client: Client, collection: str) -> None:
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


def _load_samples(path: Path, settings: Settings) -> None:
    """Load the samples as a user would, over HTTP, once the service is ready."""
    url = f"http://{settings.host}:{settings.port}"
    with Client(url) as client:
        while not client.ready():
            time.sleep(0.1)
        _ensure_collection(client, SAMPLES, {"topic": "keyword"})
        columns = corpus.Columns()
        for _ in client.upload(SAMPLES, corpus.documents(path, columns=columns)):
            pass
        _wait_until_visible(client, SAMPLES)
    console.print(TRY.format(url=url), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
