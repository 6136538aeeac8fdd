"""`isogloss search`: ask the running service, and read its answer."""

import json
from textwrap import shorten
from typing import Annotated, Any

import typer
from rich.markup import escape

from service.client import Client
from service.commands.index import CollectionName
from service.commands.terminal import LOCAL, AsJson, Url, console, table

SHOWN_CHARACTERS = 240


def search(
    query: Annotated[str, typer.Argument(help="What you are looking for, in any language.")],
    collection: CollectionName = "default",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Number of hits.")] = 5,
    language: Annotated[
        list[str] | None, typer.Option("--language", "-l", help="Only passages in this language.")
    ] = None,
    as_json: AsJson = False,
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
    rows = table("score", "language", "document", "text", right=("score",))
    for hit in answer["hits"]:
        text = escape(shorten(hit["text"], SHOWN_CHARACTERS, placeholder=" …"))
        shown = f"[bold]{escape(hit['title'])}[/]\n{text}" if hit["title"] else text
        rows.add_row(f"{hit['score']:.3f}", hit["language"], escape(hit["document"]), shown)
    console.print(rows)
    console.print(f"[dim]bundle {answer['bundle']}, generation {answer['generation']}[/]")
