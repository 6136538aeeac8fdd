"""`isogloss-train`: train, mine, evaluate, report and export encoders from the command line."""

from collections.abc import Sequence

import typer

from service.errors import ServiceError
from training.commands.compatible import compatible
from training.commands.evaluate import evaluate
from training.commands.export import export
from training.commands.import_model import import_model
from training.commands.mine import mine
from training.commands.publish import publish
from training.commands.report import report
from training.commands.terminal import console, missing_packages
from training.commands.train import train
from training.config.recipe import RecipeInvalid

NEEDED = ("torch", "transformers", "accelerate", "safetensors", "tensorboard", "onnx", "onnxscript")

app = typer.Typer(
    name="isogloss-train",
    help="Train an encoder by a recipe, measure it across languages, and export it as a bundle.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (train, mine, evaluate, report, export, import_model, publish, compatible):
    app.command()(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of `isogloss-train`; what a user can put right is said without a traceback."""
    try:
        app(arguments)
    except (RecipeInvalid, ServiceError, ValueError, RuntimeError, OSError) as error:
        console.print(f"[red]error:[/] {error}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from error


@app.callback()
def check_environment() -> None:
    """Train an encoder by a recipe, measure it across languages, and export it as a bundle."""
    if missing := missing_packages(NEEDED):
        raise RuntimeError(
            f"{', '.join(missing)} not installed: training needs the extra `train`,"
            " e.g. pip install -e '.[cpu,train]'"
        )


if __name__ == "__main__":
    main()
