"""What the commands that write bundles share: their options, and the table of what was written."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast, get_args

import typer
from rich.table import Table

from service.manifest import Precision
from training.commands.terminal import console

_PRECISIONS = (
    "Graphs to ship, separated by commas: fp32, int8 or both, and fp16 if wanted. int8 and fp16 are"
    " shipped only if they pass the gate (a recipe's [variants]) in every language."
)
Precisions: TypeAlias = Annotated[str, typer.Option(help=_PRECISIONS)]
RunPrecisions: TypeAlias = Annotated[
    str | None,
    typer.Option(help=_PRECISIONS, show_default="the recipe's, export.precisions"),
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
        help="Texts for --remove-languages: tab-separated, the columns language, text and english.",
        show_default="those that the bundle is checked on",
        exists=True,
        dir_okay=False,
    ),
]
Probes: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        help="Texts to check it on: tab-separated, the columns language, text and english.",
        exists=True,
        dir_okay=False,
        show_default="held-out ones of a run; else three sentences a language",
    ),
]
Exporter: TypeAlias = Annotated[
    Literal["torch", "optimum"],
    typer.Option(help="optimum runs in an environment of its own (make optimum-env)."),
]
OptimumPython: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="Python of that environment.", show_default=".venv-optimum/bin/python"),
]


def choices_of(*, precisions: str | None, optimum_python: Path | None, **others: Any) -> Any:
    """`training.export.order.Choices` of the options' values."""
    from training.export.order import Choices

    names = () if precisions is None else tuple(name.strip() for name in precisions.split(","))
    for name in names:
        if name not in get_args(Precision):
            raise typer.BadParameter(
                f"{name!r} is none of {', '.join(get_args(Precision))}", param_hint="--precisions"
            )
    if optimum_python is not None:
        others["optimum_python"] = optimum_python
    return Choices(precisions=cast(tuple[Precision, ...], names), **others)


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
