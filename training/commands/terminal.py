"""What all commands share: the console, the options that mean the same everywhere, quiet libraries."""

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer
from rich.console import Console

from service.types import Role

console = Console(stderr=True)
"""Progress and messages; only what a program may read goes to stdout."""

DataFolder: TypeAlias = Annotated[
    Path,
    typer.Option(
        "--data",
        help="The data folder: a recipe's paths lie below it, benchmarks in its eval.",
        exists=True,
        file_okay=False,
    ),
]
Device: TypeAlias = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option(help="auto takes cuda where there is one; cuda fails where there is none."),
]
Threads: TypeAlias = Annotated[int, typer.Option(help="CPU threads of the model.", min=1)]
PrecisionName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--precision",
        help="fp32, fp16 or int8 of a bundle; fp32, bf16 or fp16 of a torch model.",
        show_default="fp32",
    ),
]
WeightsName: TypeAlias = Annotated[
    Literal["auto", "best", "last"],
    typer.Option(
        "--weights",
        help="Of a run: the best ones by the recipe's stopping, or the last ones; auto takes the"
        " best if there are any.",
    ),
]
PoolingName: TypeAlias = Annotated[
    Literal["mean", "cls"] | None,
    typer.Option("--pooling", help="Of a plain transformers folder, which does not say it."),
]
QueryPrompt: TypeAlias = Annotated[
    str | None, typer.Option(help="Before every query, instead of what the model's folder says.")
]
PassagePrompt: TypeAlias = Annotated[
    str | None, typer.Option(help="Before every passage, likewise.")
]
ApiKey: TypeAlias = Annotated[
    str | None, typer.Option(help="Sent to a running service as Bearer token.")
]


def prompts_of(query: str | None, passage: str | None) -> dict[Role, str] | None:
    """The values of `--query-prompt` and `--passage-prompt`, None where neither is given."""
    if query is None and passage is None:
        return None
    if query is None or passage is None:
        raise typer.BadParameter(
            "say both --query-prompt and --passage-prompt, or neither", param_hint="--query-prompt"
        )
    return {"query": query, "passage": passage}


def missing_packages(names: tuple[str, ...]) -> list[str]:
    """Those of the packages that are not installed."""
    return [name for name in names if find_spec(name) is None]


def hush() -> None:
    """Keep transformers and the exporter from telling what our own messages tell."""
    from transformers.utils import logging as messages

    messages.set_verbosity_error()  # type: ignore[no-untyped-call]
    messages.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
