"""`isogloss-train train`: run a recipe, and export the encoder that it makes."""

from pathlib import Path
from typing import Annotated

import typer

from training.commands.bundles import show
from training.commands.terminal import DataFolder, Device, console, hush
from training.config.recipe import Recipe, read_recipe


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe, e.g. training/recipes/starter.toml.")],
    data: DataFolder,
    out: Annotated[Path, typer.Option("--out", help="Folder of the run.")] = Path("runs/run"),
    device: Device = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in --out, if there is one.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's.", min=0)] = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="Go on from this encoder instead of the recipe's: a bundle, a Sentence"
            " Transformers or transformers folder, package:NAME/FOLDER, or a hub id."
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="Learn from this teacher instead of the recipe's; as --start."),
    ] = None,
    steps_scale: Annotated[
        float, typer.Option(help="Multiply the steps of every stage, at least one each.", min=1e-6)
    ] = 1.0,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Replace one value of the recipe, e.g. stage.0.steps=10 (stages count from 0);"
            " may be given several times.",
        ),
    ] = None,
    stop_after_steps: Annotated[
        int | None,
        typer.Option(help="Save a checkpoint after so many steps and stop; see --resume.", min=1),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder for the teacher's vectors.", show_default="OUT/cache"),
    ] = None,
    export_bundle: Annotated[
        bool, typer.Option("--export/--no-export", help="Write OUT/bundle at the end.")
    ] = True,
) -> None:
    """Run a recipe: checkpoints, metrics and TensorBoard in --out, and a bundle at the end.

    A run that was interrupted goes on with --resume and the same options, exactly where it was.
    On several devices: accelerate launch --multi_gpu --num_processes N -m training train RECIPE …
    """
    from training.trainer.run import Options, run_recipe

    chosen = _adjusted(
        read_recipe(recipe, overrides or ()),
        seed=seed,
        start=start,
        teacher=teacher,
        steps_scale=steps_scale,
    )
    hush()
    options = Options(
        data=data,
        out=out,
        cache=cache or out / "cache",
        device=device,
        resume=resume,
        stop_after_steps=stop_after_steps,
    )
    outcome = run_recipe(chosen, options, console)
    if not outcome.writes:  # another process of the same run does the rest
        return
    if outcome.results is None:
        console.print(f"stopped; go on with the same command and --resume (--out {out})")
    elif export_bundle:
        _export(out)


def _adjusted(
    recipe: Recipe,
    *,
    seed: int | None,
    start: str | None,
    teacher: str | None,
    steps_scale: float,
) -> Recipe:
    if seed is not None:
        recipe = recipe.seeded(seed)
    if start is not None:
        recipe = recipe.started_from(start)
    if teacher is not None:
        recipe = recipe.taught_by(teacher)
    return recipe if steps_scale == 1.0 else recipe.scaled(steps_scale)


def _export(run: Path) -> None:
    from training.export.run import export_run

    show(export_run(run, run / "bundle"))
