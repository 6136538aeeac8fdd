"""A run in a process of its own, for the tests that launch several or kill one.

Arguments: recipe as JSON, data folder, run folder, perhaps `--resume` and `--stop-after=N`.
"""

import sys
from pathlib import Path

import torch
from rich.console import Console

from training.config.recipe import Recipe
from training.trainer.run import Options, run_recipe


def main(recipe: str, data: str, out: str, *flags: str) -> None:
    torch.set_num_threads(1)
    options = Options(
        data=Path(data),
        out=Path(out),
        cache=Path(out) / "cache",
        device="cpu",
        resume="--resume" in flags,
        stop_after_steps=next((int(f.split("=")[1]) for f in flags if "=" in f), None),
    )
    content = Path(recipe).read_text("utf-8")
    run_recipe(Recipe.model_validate_json(content), options, Console(stderr=True, width=200))


if __name__ == "__main__":
    main(*sys.argv[1:])
