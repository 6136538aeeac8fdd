"""`isogloss settings`: every variable that the service reads."""

from service.commands.terminal import console, table
from service.settings import variables


def settings() -> None:
    """List every setting: the variable, its default and what it does."""
    rows = table("variable", "default", "meaning")
    for row in variables():
        rows.add_row(*row)
    console.print(rows)
