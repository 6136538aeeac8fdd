"""The command `isogloss`: start the service, and use one that runs."""

import sys

import typer
from rich.console import Console
from rich.markup import escape

from service.commands.index import index
from service.commands.migrate import migrate
from service.commands.models import models
from service.commands.search import search
from service.commands.serve import serve
from service.commands.settings import settings
from service.errors import ServiceError

app = typer.Typer(
    help="Cross-lingual retrieval: ask in one language, find the answer in another.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (serve, index, search):
    app.command()(command)
app.add_typer(models, name="models")
app.add_typer(migrate, name="migrate")
app.command()(settings)


def main() -> None:
    """Run the command; an error that the service raises on purpose is one line, not a traceback."""
    try:
        app()
    except ServiceError as error:
        Console(stderr=True).print(f"[red]error:[/] {escape(error.detail)}", soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
