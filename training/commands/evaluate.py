"""`isogloss-train evaluate`: measure a model across languages, and compare it with another one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from training.commands import score_tables
from training.commands.terminal import (
    ApiKey,
    DataFolder,
    Device,
    PassagePrompt,
    PoolingName,
    PrecisionName,
    QueryPrompt,
    Threads,
    WeightsName,
    console,
    hush,
    missing_packages,
    prompts_of,
)
from training.config.evaluation import Evaluation
from training.config.recipe import read_recipe
from training.results import Results
from training.significance import as_json as comparison_as_json
from training.significance import compare


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="A bundle, a run, a Sentence Transformers folder, a hub id, or the http(s)://"
            " address of a running service (ending in /v1 for any OpenAI-style one)."
        ),
    ],
    data: DataFolder,
    recipe: Annotated[
        Path | None, typer.Option(help="Run the benchmarks of this recipe.", exists=True)
    ] = None,
    benchmarks: Annotated[
        str | None,
        typer.Option(
            help="Names or BEIR-like folders, with languages where wanted:"
            " xquad,xquad_r:de+en,tldr.",
            show_default="all that lie in DATA/eval",
        ),
    ] = None,
    mteb: Annotated[
        str | None, typer.Option(help="Also these tasks of mteb, by name, separated by commas.")
    ] = None,
    precision: PrecisionName = None,
    threads: Threads = 2,
    device: Device = "auto",
    weights: WeightsName = "auto",
    pooling: PoolingName = None,
    query_prompt: QueryPrompt = None,
    passage_prompt: PassagePrompt = None,
    api_key: ApiKey = None,
    out: Annotated[
        Path | None, typer.Option(help="Write every cell to this .json, and .npz beside it.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="A .json of --out, or the scores.json of a run: every cell's difference, tested.",
            exists=True,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the tests of significance.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Every cell, as JSON on stdout.")] = False,
) -> None:
    """Measure retrieval, bitext and transfer across languages on the benchmarks in DATA/eval."""
    from training import embedders, evaluation

    hush()
    if out is not None and (out.suffix != ".json" or not out.parent.is_dir()):
        raise typer.BadParameter(
            f"{out} must end in .json, in a folder that exists", param_hint="--out"
        )
    theirs = None if against is None else Results.read(against)
    chosen = _chosen(data, recipe, benchmarks)
    embedder = embedders.open_embedder(
        model,
        precision=precision,
        threads=threads,
        device=device,
        weights=weights,
        pooling=pooling,
        prompts=prompts_of(query_prompt, passage_prompt),
        api_key=api_key,
    )
    try:
        with console.status("") as status:
            results = evaluation.evaluate(
                embedder,
                data,
                chosen,
                model=embedder.name,
                facts=embedder.facts,
                progress=lambda name: status.update(f"{embedder.name}: {name}"),
            )
            scores = _mteb(embedder, mteb)
    finally:
        embedder.close()
    if out is not None:
        results.write(out)
    compared = [] if theirs is None else compare(results, theirs, seed=seed)
    if as_json:
        content = results.as_json() | {"mteb": scores} if scores else results.as_json()
        if theirs is not None:
            content |= {"against": theirs.model, "comparison": comparison_as_json(compared)}
        print(json.dumps(content, indent=1, ensure_ascii=False))
        return
    shown = Console()
    for table in score_tables.of_results(results):
        shown.print(table)
    if theirs is not None:
        shown.print(score_tables.of_comparison(results.model, theirs.model, compared))
    if scores:
        shown.print(score_tables.of_mteb(scores))


def _chosen(data: Path, recipe: Path | None, spec: str | None) -> Evaluation:
    """The benchmarks of --benchmarks, else of --recipe, else all that lie there."""
    from training import benchmarks

    said = Evaluation() if recipe is None else read_recipe(recipe).evaluation
    if recipe is not None and spec is not None:
        raise typer.BadParameter("name either --recipe or --benchmarks", param_hint="--benchmarks")
    if recipe is not None:
        if not said.benchmarks:
            raise typer.BadParameter(
                f"{recipe} names no evaluation.benchmarks", param_hint="--recipe"
            )
        return said
    folder = data / said.folder
    found = benchmarks.lying_in(folder) if spec is None else benchmarks.named(spec, folder)
    return Evaluation(benchmarks=found)


def _mteb(embedder: Any, names: str | None) -> Mapping[str, Mapping[str, float]]:
    if names is None:
        return {}
    if missing := missing_packages(("mteb",)):
        raise RuntimeError(f"{missing[0]} is not installed: --mteb needs it (pip install mteb)")
    from training import mteb_adapter

    return mteb_adapter.run_tasks(embedder, names.split(","))
