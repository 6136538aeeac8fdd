"""What all commands share: the console, the options that mean the same everywhere, quiet libraries."""

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, cast

import typer
from rich.console import Console

console = Console(stderr=True)
"""Progress and messages; only what a program may read goes to stdout."""

DataFolder: TypeAlias = Annotated[
    Path,
    typer.Option(
        "--data",
        help="Folder that the recipe's paths lie below.",
        exists=True,
        file_okay=False,
    ),
]
DeviceName: TypeAlias = Annotated[
    str, typer.Option("--device", help="auto, cpu or cuda; cuda fails where there is none.")
]
Device: TypeAlias = Literal["auto", "cpu", "cuda"]


def device_named(name: str) -> Device:
    """The value of `--device`, or a usage error."""
    if name not in {"auto", "cpu", "cuda"}:
        raise typer.BadParameter(f"{name!r} is none of auto, cpu, cuda", param_hint="--device")
    return cast(Device, name)


def missing_packages(names: tuple[str, ...]) -> list[str]:
    """Those of the packages that are not installed."""
    return [name for name in names if find_spec(name) is None]


def hush() -> None:
    """Keep transformers and the exporter from telling what our own messages tell."""
    from transformers.utils import logging as messages

    messages.set_verbosity_error()  # type: ignore[no-untyped-call]
    messages.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
