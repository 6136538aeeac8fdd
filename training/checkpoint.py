"""A run's folder and its checkpoint: what a run needs to continue exactly, on disk all at once or not at all.

The weights lie in a file of their own (`model.safetensors`), apart from the state of the optimiser
and the heads, so that they can be copied elsewhere without them. A new checkpoint is written beside
the old one and takes its place in two renames; a crash between them leaves the old one, which
`current` finds.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

MODEL, STATE, PROGRESS = "model.safetensors", "state.pt", "progress.json"
Kept: TypeAlias = Literal["best", "last"]
Weights: TypeAlias = Literal["auto", "best", "last"]
"""Which of a run's weights are wanted; `auto`: the best ones if early stopping kept some."""


class CheckpointMismatch(ValueError):
    """The checkpoint belongs to another recipe, or is not complete."""


class CheckpointFailed(RuntimeError):
    """A checkpoint cannot be written; the last one is intact."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: steps done in all, the stage, steps done in it, and what it stands on."""

    recipe: str
    step: int = 0
    stage: int = 0
    stage_step: int = 0
    position: Mapping[str, Any] = field(default_factory=dict)
    """Of the stage's batches."""
    stopping: Mapping[str, Any] = field(default_factory=dict)
    """What early stopping has seen."""
    processes: int = 1
    ended: str = ""
    """Why the run is over, if it is."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where a run keeps its files."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.json"

    @property
    def encoder(self) -> Path:
        """The encoder before the first step, with its tokenizer, pooling and prompts."""
        return self.path / "encoder"

    @property
    def grafted(self) -> Path:
        """How many rows of the first encoder's table were its start's, where others were added."""
        return self.encoder / "grafted.json"

    @property
    def held_out(self) -> Path:
        return self.path / "held_out.jsonl"

    @property
    def data(self) -> Path:
        """Rows read and left out, texts of each data set by role and language, other files' hashes."""
        return self.path / "data.json"

    @property
    def sources(self) -> Path:
        """Licence, rows and hash of every data source, for the bundle's provenance."""
        return self.path / "sources.json"

    @property
    def leaks(self) -> Path:
        """Training texts that are in a benchmark, counted."""
        return self.path / "leaks.json"

    @property
    def scores(self) -> Path:
        return self.path / "scores.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> "Checkpoint":
        """The last weights, with all that a run needs to go on."""
        return Checkpoint(self.path / "checkpoint")

    @property
    def links(self) -> Path:
        """Word links of stages that need them."""
        return self.path / "links"

    @property
    def best(self) -> "Checkpoint":
        """The best weights by the recipe's `stopping`, which no run goes on from."""
        return Checkpoint(self.path / "best")

    def kept(self, wanted: Weights) -> "tuple[Kept, Checkpoint]":
        """Where the weights that are wanted lie, and whether they are the best or the last ones."""
        if wanted == "best" or (wanted == "auto" and self.best.exists):
            return "best", self.best
        return "last", self.checkpoint


class Checkpoint:
    """The latest of a run's checkpoints, in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._old = folder.with_name(folder.name + ".old")
        self._partial = folder.with_name(folder.name + ".partial")

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def exists(self) -> bool:
        return self._current() is not None

    @property
    def weights(self) -> Path:
        """The file of the weights.

        Raises:
            CheckpointMismatch: there is none.
        """
        return self._found() / MODEL

    def save(self, model: nn.Module, state: Mapping[str, Any] | None, progress: Progress) -> None:
        """Write everything, then swap it in. `state` holds state dicts only (no code).

        Raises:
            CheckpointFailed: the disk is full, or the folder cannot be written.
        """
        partial = self._partial
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            # Clones, because safetensors refuses tensors that share memory, as tied weights do.
            weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
            save_file(weights, partial / MODEL)
            if state is not None:
                torch.save(dict(state), partial / STATE)
            (partial / PROGRESS).write_text(json.dumps(asdict(progress), indent=1), "utf-8")
            self._swap(partial)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            kept = f"the one of step {self.progress.step}" if self.exists else "there is none yet"
            raise CheckpointFailed(
                f"step {progress.step}: {self._folder} cannot be written ({error}); the last"
                f" checkpoint is intact ({kept}): free space below --out and add --resume"
            ) from error

    def discard(self) -> None:
        """Remove it, with what a crash may have left beside it."""
        for folder in (self._folder, self._old, self._partial):
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def progress(self) -> Progress:
        """How far the run was.

        Raises:
            CheckpointMismatch: there is none, or it is from another version of the program.
        """
        file = self._found() / PROGRESS
        try:
            return Progress(**json.loads(file.read_text("utf-8")))
        except (TypeError, ValueError) as error:
            raise CheckpointMismatch(f"{file} cannot be read: {error}") from error

    def load(self, model: nn.Module, *, recipe: str, processes: int = 1) -> dict[str, Any]:
        """Put the weights into the model and return the state that was saved beside them.

        Raises:
            CheckpointMismatch: there is none, it belongs to another recipe or to another number
                of processes, or a file of it cannot be read.
        """
        folder, progress = self._found(), self.progress
        if progress.recipe != recipe:
            raise CheckpointMismatch(
                f"{folder} was made by another recipe ({progress.recipe[:12]}, this one is"
                f" {recipe[:12]}): resume with the same recipe, options and data"
            )
        if progress.processes != processes:
            raise CheckpointMismatch(
                f"{folder} was made by {progress.processes} processes and there are {processes}:"
                " resume with --num_processes as before"
            )
        try:
            model.load_state_dict(load_file(folder / MODEL))
            state: dict[str, Any] = torch.load(
                folder / STATE, map_location="cpu", weights_only=True
            )
        except (OSError, RuntimeError, SafetensorError, UnpicklingError) as error:
            said = str(error).partition("\n")[0]
            raise CheckpointMismatch(f"{folder} cannot be read: {said}") from error
        return state

    def _swap(self, partial: Path) -> None:
        for file in partial.iterdir():
            _sync(file)
        if self._folder.exists():
            shutil.rmtree(self._old, ignore_errors=True)
            self._folder.rename(self._old)
        partial.rename(self._folder)
        shutil.rmtree(self._old, ignore_errors=True)

    def _found(self) -> Path:
        folder = self._current()
        if folder is None:
            raise CheckpointMismatch(f"{self._folder} holds no checkpoint")
        return folder

    def _current(self) -> Path | None:
        for folder in (self._folder, self._old):
            if (folder / PROGRESS).is_file():
                return folder
        return None


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
