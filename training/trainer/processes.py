"""The processes of a run: device, precision, who writes, and what goes from one to the others.

Why accelerate, and not the Trainer of transformers: a run has several stages, each with its own
batches, optimiser and heads; batches are cut out of a table that already lies on the device, where
the Trainer is built around a collating DataLoader that would starve a small model; and no method
needs a wrapper around its model. An objective takes its loss over the rows of all processes at
once, so the gradient of the whole batch is the plain sum of what each process has. It is summed once
a step, in one flat bucket: encoding a view twice, or a gradient cache, cannot break the sync, which
DistributedDataParallel binds to one forward a step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list
from torch import Tensor

from training.config.recipe import Recipe
from training.model import Device, choose_device

PATIENCE = timedelta(hours=12)
"""How long processes wait for the main one, which alone evaluates."""
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


class TrainingFailed(RuntimeError):
    """The run cannot go on; the message says why, and the last checkpoint is intact."""


@dataclass(frozen=True, slots=True)
class Processes:
    """All processes of a run, seen by one of them."""

    accelerator: Accelerator

    @property
    def device(self) -> torch.device:
        device: torch.device = self.accelerator.device
        return device

    @property
    def count(self) -> int:
        return int(self.accelerator.num_processes)

    @property
    def number(self) -> int:
        return int(self.accelerator.process_index)

    @property
    def precision(self) -> str:
        """`no` for float32, otherwise what the encoder is computed in."""
        return str(self.accelerator.mixed_precision)

    @property
    def is_main(self) -> bool:
        """Whether this one writes, prints and evaluates."""
        return bool(self.accelerator.is_main_process)

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()

    def gather(self, rows: Tensor) -> Tensor:
        """Detached rows of all processes in the order of the batch: process p has rows p::count."""
        if self.count == 1:
            return rows
        found: Tensor = self.accelerator.gather(rows.contiguous())
        parts = found.reshape(self.count, len(rows), *rows.shape[1:])
        return parts.transpose(0, 1).reshape(found.shape)

    def own(self, rows: Tensor) -> Tensor:
        """This process's rows of the batch."""
        return rows if self.count == 1 else rows[self.number :: self.count]

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.count == 1:
            return value
        found: Tensor = self.accelerator.reduce(value, reduction="sum")
        return found

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Put the sum over all processes into every gradient, in one transfer.

        A parameter that no process has a gradient for keeps none.
        """
        if self.count == 1:
            return
        have = torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)
        reached = [p for p, any_ in zip(parameters, self.total(have).tolist(), strict=True) if any_]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in reached]
        flat = self.total(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for parameter, part in zip(reached, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def agreed(self, value: Any) -> Any:
        """What the main process says, told to all."""
        return value if self.count == 1 else broadcast_object_list([value])[0]

    def random_states(self) -> dict[str, list[Tensor]]:
        """The generators of all processes, in their order."""
        states = {"cpu": self._gathered(torch.get_rng_state())}
        if self.device.type == "cuda":
            states["cuda"] = self._gathered(torch.cuda.get_rng_state(self.device))
        return states

    def restore_random_state(self, states: dict[str, list[Tensor]]) -> None:
        """Continue this process's random numbers."""
        torch.set_rng_state(states["cpu"][self.number])
        if self.device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"][self.number], self.device)

    def _gathered(self, state: Tensor) -> list[Tensor]:
        if self.count == 1:
            return [state]
        rows = self.accelerator.gather(state.to(self.device, torch.int32).unsqueeze(0))
        # Clones: torch.set_rng_state reads a row of a larger tensor from the wrong place.
        return [row.clone() for row in rows.cpu().to(torch.uint8)]


def open_processes(recipe: Recipe, device: Device, *, folder: Path) -> Processes:
    """The processes that `accelerate launch` started; one, if it did not.

    Raises:
        DeviceMissing: CUDA was asked for and is not there.
        TrainingFailed: the precision cannot be had there, or a tracker is not installed.
    """
    chosen = choose_device(device)
    for name in recipe.loop.trackers:
        if find_spec(PACKAGES[name]) is None:
            raise TrainingFailed(
                f"loop.trackers names {name}, which is not installed: pip install {PACKAGES[name]}"
            )
    return Processes(
        Accelerator(
            cpu=chosen.type == "cpu",
            mixed_precision=choose_precision(recipe, chosen),
            log_with=list(recipe.loop.trackers) or None,
            project_dir=folder,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
    )


def choose_precision(recipe: Recipe, device: torch.device) -> str:
    """The arithmetic of the encoder, as accelerate calls it; losses and pooling are float32."""
    wanted = recipe.loop.precision
    if wanted == "auto":
        return "bf16" if device.type == "cuda" else "no"
    if wanted == "fp16" and device.type == "cpu":
        raise TrainingFailed("loop.precision = 'fp16' needs CUDA; on the CPU use fp32 or bf16")
    return "no" if wanted == "fp32" else wanted


def open_trackers(processes: Processes, recipe: Recipe, *, folder: Path, start: int) -> None:
    """Start the recipe's trackers below the run's folder; steps after `start` are written anew."""
    accelerator = processes.accelerator
    accelerator.project_configuration.set_directories(str(folder))
    accelerator.project_configuration.logging_dir = str(folder / "tensorboard")
    options: dict[str, dict[str, Any]] = {
        "tensorboard": {"purge_step": start + 1 if start else None},
        "wandb": {"dir": str(folder), "name": folder.name},
        "mlflow": {"run_name": folder.name, "logging_dir": str(folder / "mlflow")},
    }
    accelerator.init_trackers(
        recipe.name, init_kwargs={name: options[name] for name in recipe.loop.trackers}
    )
