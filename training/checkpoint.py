"""A run's folder and its checkpoint: what a run needs to continue exactly, on disk all at once or not at all.

The weights lie in a file of their own (`model.safetensors`), apart from the optimiser's state, so
that they can be copied elsewhere without it. A new checkpoint is written beside the old one and
takes its place in two renames; a crash between them leaves the old one, which `load` finds.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

MODEL, STATE, PROGRESS = "model.safetensors", "state.pt", "progress.json"


class CheckpointMismatch(ValueError):
    """The checkpoint belongs to another recipe, or is not complete."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: steps done in all, the stage, steps done in it, and its samplers."""

    recipe: str
    step: int = 0
    stage: int = 0
    stage_step: int = 0
    position: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where a run keeps its files."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.json"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer.json"

    @property
    def held_out(self) -> Path:
        return self.path / "held_out.jsonl"

    @property
    def sources(self) -> Path:
        """Licence, rows and hash of every data source, for the bundle's provenance."""
        return self.path / "sources.json"

    @property
    def scores(self) -> Path:
        return self.path / "scores.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> "Checkpoint":
        return Checkpoint(self.path / "checkpoint")


class Checkpoint:
    """The latest checkpoint of a run, in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._old = folder.with_name(folder.name + ".old")

    @property
    def exists(self) -> bool:
        return self._current() is not None

    def save(self, model: nn.Module, state: Mapping[str, Any], progress: Progress) -> None:
        """Write everything, then swap it in. `state` holds state dicts only (no code)."""
        partial = self._folder.with_name(self._folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, partial / MODEL)
        generators = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            generators["cuda"] = torch.cuda.get_rng_state()
        torch.save({**state, "generators": generators}, partial / STATE)
        (partial / PROGRESS).write_text(json.dumps(asdict(progress), indent=1), "utf-8")
        for file in partial.iterdir():
            _sync(file)
        shutil.rmtree(self._old, ignore_errors=True)
        if self._folder.exists():
            self._folder.rename(self._old)
        partial.rename(self._folder)
        shutil.rmtree(self._old, ignore_errors=True)

    def load(self, model: nn.Module, *, recipe: str) -> tuple[dict[str, Any], Progress]:
        """Put the weights into the model; return the other state and the progress.

        The random generators are put back by `restore_generators`, after everything is built.

        Raises:
            CheckpointMismatch: there is none, or it belongs to another recipe.
        """
        folder = self._current()
        if folder is None:
            raise CheckpointMismatch(f"{self._folder} holds no checkpoint to resume from")
        progress = Progress(**json.loads((folder / PROGRESS).read_text("utf-8")))
        if progress.recipe != recipe:
            raise CheckpointMismatch(
                f"{folder} was made by another recipe ({progress.recipe[:12]}, this one is"
                f" {recipe[:12]}): resume with the same recipe, options and data"
            )
        model.load_state_dict(load_file(folder / MODEL))
        return torch.load(folder / STATE, weights_only=True), progress

    def _current(self) -> Path | None:
        for folder in (self._folder, self._old):
            if (folder / PROGRESS).is_file():
                return folder
        return None


def restore_generators(state: Mapping[str, Any]) -> None:
    """Continue the random numbers of dropout where the checkpoint left them."""
    torch.set_rng_state(state["generators"]["cpu"])
    if "cuda" in state["generators"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["generators"]["cuda"])


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
