"""`isogloss-train report`: runs and results as one HTML file with plots."""

from pathlib import Path
from typing import Annotated

import typer

from training.commands.terminal import console, hush


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of finished runs, or JSON files of `evaluate --out`.", exists=True
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The HTML file.")] = Path("report.html"),
    baseline: Annotated[
        Path | None,
        typer.Option(help="A run or a JSON file to show gains and losses against.", exists=True),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Data folder; with it, a map of parallel sentences from its eval/ntrex is drawn.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    before: Annotated[
        str | None,
        typer.Option(
            help="The model whose map stands first, as for evaluate.",
            show_default="what the first run started from",
        ),
    ] = None,
    languages: Annotated[
        str, typer.Option(help="Of the map, separated by commas.", show_default="all of eval/ntrex")
    ] = "",
    sentences: Annotated[int, typer.Option(help="Sentences of the map.", min=2)] = 40,
) -> None:
    """Write one self-contained HTML file: language pairs, gains with intervals, bias, map, curves.

    The map encodes sentences with the first model and with each run; without --data it is left out.
    """
    from training.embedders import open_embedder
    from training.report.build import report_page, write_report
    from training.report.projection import language_map, parallel_sentences
    from training.report.reading import read_shown

    hush()
    columns = [read_shown(path) for path in runs]
    drawn = None
    if data is not None:
        models = {shown.name: str(shown.path) for shown in columns if shown.is_run}
        first = before or next(
            (s.recipe["start"]["model"] for s in columns if s.recipe.get("start")), None
        )
        if first is not None:
            models = {first: first, **models}
        if not models:
            raise typer.BadParameter(
                "results alone have no model to draw a map with: name one with --before",
                param_hint="--data",
            )
        codes = tuple(code for code in languages.split(",") if code)
        parallel = parallel_sentences(data / "eval", languages=codes, count=sentences)
        drawn = language_map({name: open_embedder(spec) for name, spec in models.items()}, parallel)
    held_against = None if baseline is None else read_shown(baseline)
    write_report(out, report_page(columns, baseline=held_against, language_map=drawn))
    console.print(f"report in [bold]{out}[/]")
