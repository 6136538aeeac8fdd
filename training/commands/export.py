"""`isogloss-train export`: the bundle of a run."""

from pathlib import Path
from typing import Annotated

import typer

from training.commands.bundles import (
    Dimension,
    Exporter,
    LanguageTexts,
    OptimumPython,
    Probes,
    Rank,
    RemoveLanguages,
    RunPrecisions,
    choices_of,
    show,
)
from training.commands.terminal import WeightsName, hush
from training.config.recipe import GOLDEN_LIMIT


def export(
    run: Annotated[Path, typer.Argument(help="The folder of a run.", exists=True, file_okay=False)],
    out: Annotated[Path, typer.Option("--out", help="Where the bundle goes.")],
    weights: WeightsName = "auto",
    probes: Probes = None,
    precisions: RunPrecisions = None,
    dimension: Dimension = None,
    remove_languages: RemoveLanguages = False,
    rank: Rank = None,
    language_texts: LanguageTexts = None,
    exporter: Exporter = "torch",
    optimum_python: OptimumPython = None,
    golden: Annotated[
        int | None,
        typer.Option(
            help="Golden queries of each language, from held-out text, that a service asks before"
            " the bundle goes live there; 0 for none.",
            show_default="the recipe's, export.golden",
            min=0,
            max=GOLDEN_LIMIT,
        ),
    ] = None,
) -> None:
    """Turn a run into a bundle: ONNX checked against torch, smaller graphs if they pass, probes."""
    from training.export.run import export_run

    hush()
    sealed = export_run(
        run,
        out,
        choices_of(
            precisions=precisions,
            dimension=dimension,
            remove_languages=remove_languages,
            rank=rank,
            exporter=exporter,
            optimum_python=optimum_python,
        ),
        weights=weights,
        probes=probes,
        language_texts=language_texts,
        golden=golden,
    )
    show(sealed)
