"""`isogloss-train evaluate`: measure a model across languages, and compare it with another one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer
from rich.console import Console

from training.commands import score_tables
from training.commands.terminal import (
    DataFolder,
    DeviceName,
    console,
    device_named,
    hush,
    missing_packages,
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
            " xquad,xquad_r:de+en,tldr. [default: all that lie in DATA/eval]"
        ),
    ] = None,
    mteb: Annotated[
        str | None, typer.Option(help="Also these tasks of mteb, by name, with commas.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="fp32, fp16 or int8 of a bundle; fp32, bf16 or fp16 of a torch model."),
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads of the model.", min=1)] = 2,
    device: DeviceName = "auto",
    which: Annotated[str, typer.Option(help="Of a run: checkpoint or best.")] = "checkpoint",
    pooling: Annotated[
        str | None, typer.Option(help="Of a plain transformers folder: mean or cls.")
    ] = None,
    api_key: Annotated[str | None, typer.Option(help="Sent to a service as Bearer token.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write every cell to this .json, and .npz beside it.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="A .json of --out: the difference of every cell, tested.", exists=True),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the tests of significance.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Every cell, as JSON on stdout.")] = False,
) -> None:
    """Measure retrieval, bitext and transfer across languages on the benchmarks in DATA/eval."""
    from training import embedders, evaluation

    hush()
    if out is not None and (out.suffix != ".json" or not out.parent.is_dir()):
        raise typer.BadParameter(f"{out} is no .json in a folder that is there", param_hint="--out")
    theirs = None if against is None else Results.read(against)
    chosen = _chosen(data, recipe, benchmarks)
    embedder = embedders.open_embedder(
        model,
        precision=precision,
        threads=threads,
        device=device_named(device),
        which=_which(which),
        pooling=_pooling(pooling),
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
            raise typer.BadParameter(f"{recipe} names no evaluation.benchmarks")
        return said
    folder = data / said.folder
    found = benchmarks.lying_in(folder) if spec is None else benchmarks.named(spec, folder)
    return Evaluation(benchmarks=found)


def _which(name: str) -> Literal["checkpoint", "best"]:
    if name not in {"checkpoint", "best"}:
        raise typer.BadParameter(f"{name!r} is neither checkpoint nor best", param_hint="--which")
    return cast(Literal["checkpoint", "best"], name)


def _pooling(name: str | None) -> Literal["mean", "cls"] | None:
    if name not in {None, "mean", "cls"}:
        raise typer.BadParameter(f"{name!r} is neither mean nor cls", param_hint="--pooling")
    return cast(Literal["mean", "cls"] | None, name)


def _mteb(embedder: Any, names: str | None) -> Mapping[str, Mapping[str, float]]:
    if names is None:
        return {}
    if missing := missing_packages(("mteb",)):
        raise RuntimeError(f"{missing[0]} is not installed: --mteb needs it (pip install mteb)")
    from training import mteb_adapter

    return mteb_adapter.run_tasks(embedder, names.split(","))
