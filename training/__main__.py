"""`isogloss-train`: train, evaluate and export encoders from the command line."""

import json
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, cast

import typer
from rich.console import Console
from rich.table import Table

from training.config import RecipeInvalid, read_recipe

NEEDED = ("torch", "transformers", "safetensors", "tensorboard", "onnx", "onnxscript")

app = typer.Typer(
    name="isogloss-train",
    help="Train an encoder by a recipe, measure it, and export it as a bundle for the service.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
console = Console(stderr=True)

DataFolder = Annotated[
    Path,
    typer.Option(
        "--data",
        help="Folder with parallel/en-xx.tsv.gz, and where wanted qa/ and eval/.",
        exists=True,
        file_okay=False,
    ),
]
DeviceName = Annotated[
    str, typer.Option("--device", help="auto, cpu or cuda; cuda fails where there is none.")
]


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of `isogloss-train`; what a user can put right is said without a traceback."""
    try:
        app(arguments)
    except (RecipeInvalid, ValueError, RuntimeError, OSError) as error:
        console.print(f"[red]error:[/] {error}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from error


@app.callback()
def check_environment() -> None:
    """Train an encoder by a recipe, measure it, and export it as a bundle for the service."""
    if missing := missing_packages(NEEDED):
        raise RuntimeError(
            f"{', '.join(missing)} not installed: training needs the extra `train`,"
            " e.g. pip install -e '.[cpu,train]'"
        )


def missing_packages(names: Sequence[str]) -> list[str]:
    """Those of the packages that are not installed."""
    return [name for name in names if find_spec(name) is None]


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe, e.g. training/recipes/first.toml.")],
    data: DataFolder,
    out: Annotated[Path, typer.Option("--out", help="Folder of the run.")] = Path("runs/run"),
    device: DeviceName = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the checkpoint in --out, if any.")
    ] = False,
    steps_scale: Annotated[
        float, typer.Option(help="Multiply the steps of every stage.", min=1e-6)
    ] = 1.0,
    stop_after_steps: Annotated[
        int | None, typer.Option(help="Save a checkpoint and stop after so many steps.", min=1)
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Where the teacher is, instead of what the recipe says.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for the teacher's vectors. [default: OUT/cache]")
    ] = None,
    export_bundle: Annotated[
        bool, typer.Option("--export/--no-export", help="Write OUT/bundle at the end.")
    ] = True,
) -> None:
    """Run a recipe: checkpoints, metrics and TensorBoard in --out, and a bundle at the end.

    A run that was interrupted goes on with --resume and the same options, exactly where it was.
    """
    from training.export.bundle import export_run  # noqa: PLC0415 - torch is heavy, and optional
    from training.trainer import Options, run_recipe  # noqa: PLC0415

    chosen = read_recipe(recipe)
    if steps_scale != 1.0:
        chosen = chosen.scaled(steps_scale)
    if teacher is not None:
        chosen = chosen.taught_by(teacher)
    _quiet()
    options = Options(
        data=data,
        out=out,
        cache=cache or out / "cache",
        device=_device(device),
        resume=resume,
        stop_after_steps=stop_after_steps,
    )
    if run_recipe(chosen, options, console) is None:
        console.print(f"stopped; go on with: isogloss-train train {recipe} … --out {out} --resume")
    elif export_bundle:
        _exported(export_run(out, out / "bundle"), out / "bundle")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The folder of a run.", exists=True)],
    out: Annotated[Path, typer.Option("--out", help="Where the bundle goes.")],
) -> None:
    """Turn a run's last checkpoint into a bundle: ONNX fp32, int8 if it passes, probes."""
    from training.export.bundle import export_run  # noqa: PLC0415 - torch is heavy, and optional

    _quiet()
    _exported(export_run(run, out), out)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="The folder of a bundle or of a run.", exists=True)],
    data: DataFolder,
    recipe: Annotated[
        Path | None,
        typer.Option(help="The recipe whose benchmarks to run. [default: the model's own]"),
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32 or int8; of a bundle.")] = "fp32",
    threads: Annotated[int, typer.Option(help="CPU threads; of a bundle.", min=1)] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Every cell, as JSON on stdout.")] = False,
) -> None:
    """Measure retrieval across languages on the benchmarks in DATA/eval."""
    from training.evaluation import evaluate as measure  # noqa: PLC0415 - torch is heavy
    from training.export.bundle import open_model  # noqa: PLC0415

    _quiet()
    embed, own = open_model(model, precision=precision, threads=threads)
    benchmarks = own if recipe is None else read_recipe(recipe).evaluation
    scores = measure(embed, data / "eval", benchmarks)
    if as_json:
        print(json.dumps(scores.as_json(), indent=1))
        return
    table = Table("benchmark", "mean", title=str(model))
    for name, value in scores.summary().items():
        table.add_row(name, f"{value:.2f}")
    for name, cells in scores.bitext.items():
        for language, value in cells.items():
            table.add_row(f"  {name} en-{language}", f"{value:.2f}")
    for asked, row in scores.xquad.items():
        shown = "  ".join(f"{found} {value:.1f}" for found, value in row.items())
        table.add_row(f"  xquad question {asked}", shown)
    Console().print(table)


def _device(name: str) -> Literal["auto", "cpu", "cuda"]:
    if name not in {"auto", "cpu", "cuda"}:
        raise typer.BadParameter(f"{name!r} is none of auto, cpu, cuda", param_hint="--device")
    return cast(Literal["auto", "cpu", "cuda"], name)


def _quiet() -> None:
    from transformers.utils import logging as messages  # noqa: PLC0415 - heavy, and optional

    messages.set_verbosity_error()  # type: ignore[no-untyped-call]
    messages.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)


def _exported(gate: list[dict[str, object]], folder: Path) -> None:
    table = Table("language", "texts", "mean cosine", "min cosine", "fp32", "int8", "passed")
    for row in gate:
        table.add_row(*(str(value) for value in row.values()))
    console.print(table)
    console.print(f"bundle in [bold]{folder}[/]")


if __name__ == "__main__":
    main()
