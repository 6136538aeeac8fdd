"""What the commands that write bundles share: their options, and the table of what was written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_args

import typer
from rich.table import Table

from service.manifest import Precision
from training.commands.terminal import console

Precisions: TypeAlias = Annotated[
    str, typer.Option(help="Graphs to write: fp32, and of fp16 and int8 those that pass the gate.")
]
Dimension: TypeAlias = Annotated[
    int | None, typer.Option(help="Cut the vectors to their first dimensions (Matryoshka).", min=1)
]
RemoveLanguages: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--remove-languages",
        help="Project out the directions in which the languages' mean vectors differ.",
    ),
]
Rank: TypeAlias = Annotated[
    int | None, typer.Option(help="Remove at most so many of these directions.", min=1)
]
LanguageTexts: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        help="Texts for --remove-languages, with the columns language, text and english.",
        exists=True,
        dir_okay=False,
    ),
]
Exporter: TypeAlias = Annotated[
    str, typer.Option(help="torch, or optimum in its own environment (make optimum-env).")
]
OptimumPython: TypeAlias = Annotated[
    Path | None, typer.Option(help="Of that environment. [default: .venv-optimum/bin/python]")
]


def one_of(option: str, value: str, allowed: Sequence[str]) -> str:
    """The value, or a usage error."""
    if value not in allowed:
        raise typer.BadParameter(f"{value!r} is none of {', '.join(allowed)}", param_hint=option)
    return value


def choices_of(
    *, precisions: str, exporter: str, optimum_python: Path | None, **others: Any
) -> Any:
    """`training.export.order.Choices` of the options' values."""
    from training.export.order import Choices
    from training.export.order import Exporter as Known

    names = [name.strip() for name in precisions.split(",")]
    for name in names:
        one_of("--precisions", name, get_args(Precision))
    one_of("--exporter", exporter, get_args(Known))
    python = {} if optimum_python is None else {"optimum_python": optimum_python}
    return Choices(precisions=tuple(names), exporter=exporter, **python, **others)  # type: ignore[arg-type]  # checked above


def show(sealed: Any) -> None:
    """What is in a bundle, and the tables of its gates (a `training.export.order.Sealed`)."""
    for precision, rows in sealed.gates.items():
        table = Table(title=f"{precision} against fp32", title_justify="left")
        columns = (
            "language",
            "texts",
            "mean_cosine",
            "min_cosine",
            "top10_overlap",
            "fp32_ndcg",
            "ndcg",
        )
        for column in columns:
            table.add_column(column, justify="left" if column == "language" else "right")
        for row in rows:
            cells = ["-" if row[column] is None else str(row[column]) for column in columns]
            table.add_row(*cells, style=None if row["passed"] else "red")
        console.print(table)
    for precision, languages in sealed.failed.items():
        console.print(f"{precision} is not shipped: it failed in {', '.join(languages)}")
    manifest = sealed.bundle.manifest
    console.print(
        f"{sealed.bundle.folder}: {manifest.name}/{manifest.version},"
        f" {', '.join(manifest.precisions)}, {manifest.dimension} dimensions;"
        f" torch and the service agree to {sealed.parity:.1e}",
        highlight=False,
        soft_wrap=True,
    )
