"""`isogloss-train import-model`: a bundle of a model that was trained elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from training.commands.bundles import (
    Dimension,
    Exporter,
    LanguageTexts,
    OptimumPython,
    Precisions,
    Probes,
    Rank,
    RemoveLanguages,
    choices_of,
    show,
)
from training.commands.terminal import (
    PassagePrompt,
    PoolingName,
    QueryPrompt,
    console,
    hush,
    prompts_of,
)


def import_model(
    model: Annotated[
        str,
        typer.Argument(
            help="A Sentence Transformers, BERT, XLM-R or ModernBERT folder, a bundle,"
            " package:NAME/FOLDER, or a hub id, perhaps ID@REVISION."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Where the bundle goes.")],
    name: Annotated[
        str | None, typer.Option(help="Of the bundle.", show_default="the model's")
    ] = None,
    version: Annotated[str, typer.Option(help="Of the bundle.")] = "1.0.0",
    licence: Annotated[
        str | None, typer.Option(help="Of the weights, where the model's card states none.")
    ] = None,
    languages: Annotated[
        str | None,
        typer.Option(
            help="Codes, separated by commas: what the bundle says it is for, and is checked in.",
            show_default="those of the model's card",
        ),
    ] = None,
    pooling: PoolingName = None,
    query_prompt: QueryPrompt = None,
    passage_prompt: PassagePrompt = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(help="Longer texts are cut.", show_default="the model's limit", min=8),
    ] = None,
    probes: Probes = None,
    precisions: Precisions = "fp32,int8",
    dimension: Dimension = None,
    remove_languages: RemoveLanguages = False,
    rank: Rank = None,
    language_texts: LanguageTexts = None,
    exporter: Exporter = "torch",
    optimum_python: OptimumPython = None,
    golden: Annotated[
        Path | None,
        typer.Option(
            help="Golden queries that a service asks before the bundle goes live there: JSON lines"
            ' {"query": {"de": …}, "passage": {"en": …}} of texts that the model was not trained on.',
            exists=True,
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Turn a model from elsewhere into a bundle; what its folder does not say must be said here."""
    from training.export.imported import Statement
    from training.export.imported import import_model as seal

    prompts = prompts_of(query_prompt, passage_prompt)
    hush()
    sealed = seal(
        model,
        out,
        choices_of(
            precisions=precisions,
            dimension=dimension,
            remove_languages=remove_languages,
            rank=rank,
            exporter=exporter,
            optimum_python=optimum_python,
        ),
        said=Statement(
            name=name,
            version=version,
            licence=licence,
            languages=[code.strip() for code in languages.split(",")] if languages else (),
            pooling=pooling,
            prompts=prompts,
            max_tokens=max_tokens,
        ),
        probes=probes,
        language_texts=language_texts,
        golden=golden,
    )
    show(sealed)
    if probes is None:
        console.print(
            "It was checked on three sentences a language. Give more of your own with --probes before"
            " you trust the smaller graphs.",
            highlight=False,
        )
    if not any(sealed.bundle.manifest.prompts.values()):
        console.print(
            "It has no prompts. If its card asks for some (E5: 'query: ' and 'passage: '), import it"
            " again with --query-prompt and --passage-prompt.",
            highlight=False,
        )
