"""One stage of a run while it is trained: its losses and heads, its optimiser, its batches, its steps."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import torch
from torch import Tensor, nn

from training.batch import Method
from training.config import methods as settings_of
from training.config.recipe import Recipe, Stage
from training.corpus import Corpus
from training.methods.clear import ClearMethod
from training.methods.distillation import DistillationMethod
from training.methods.ear import EarMethod
from training.methods.hybrid import HybridMethod
from training.methods.info_nce import InfoNceMethod
from training.methods.ml_ctl import MlCtlMethod
from training.methods.weam import WeamMethod
from training.model import SentenceEncoder
from training.objective import Objective, Weighted
from training.pretrained import Pretrained
from training.trainer.optimisers import Optimisers
from training.trainer.processes import Processes, TrainingFailed
from training.views import BatchSource
from training.vocabulary import Pieces


@dataclass(frozen=True, slots=True)
class Material:
    """What the steps of all stages are made of."""

    corpus: Corpus
    targets: Tensor | None
    """Teacher vectors by target, [targets, width], on the device."""
    data: Path
    """The data folder, for what aligners and perturbers read."""
    first_new: int = 0
    """Number of the first piece that was grafted on; 0 if none was."""
    links: Path | None = None
    """A folder of the run for word links, so that a stage that goes on has those it began with."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step gave, still on the device."""

    parts: dict[str, Tensor]
    """The losses of the whole batch, their sum under `loss`, the gradient's norm, the rate."""
    tokens: Tensor
    """Word pieces of this process, without padding."""


class StageRun:
    """A stage from its first step on; a checkpoint's state can be put into it."""

    def __init__(
        self,
        recipe: Recipe,
        number: int,
        *,
        model: Pretrained,
        material: Material,
        processes: Processes,
    ) -> None:
        self.stage = stage = recipe.stage[number]
        self._loop, self._processes = recipe.loop, processes
        self._encoder = model.encoder
        self._encoder.body = stage.body
        # What a stage draws depends on its number alone, and not on what was drawn before it.
        seed = int(np.random.SeedSequence([recipe.seed, number]).generate_state(1)[0])
        torch.manual_seed(seed)
        methods = [
            Weighted(chosen.method, method_of(chosen, model.encoder, model.pieces), chosen.weight)
            for chosen in stage.methods
        ]
        torch.manual_seed(seed + 1 + processes.number)
        heads = nn.ModuleDict({f"{w.name}_head": w.method.head for w in methods})
        self._heads = heads.to(processes.device)
        self._objective = Objective(
            self._encoder,
            methods,
            matryoshka=_widths(stage, self._encoder),
            cache_rows=stage.cache_rows,
            gather=processes.gather,
            own=processes.own,
            autocast=processes.accelerator.autocast,
        )
        self._optimisers = Optimisers(
            stage,
            self._encoder,
            self._heads,
            first_new=material.first_new,
            device=processes.device,
            sparse=processes.count == 1,
        )
        with processes.accelerator.main_process_first():  # the others find its links in the cache
            self._source = BatchSource(
                material.corpus,
                model.pieces,
                stage,
                seed=[recipe.seed, number],
                prompts=model.prompts,
                targets=material.targets,
                device=processes.device,
                process=processes.number,
                processes=processes.count,
                encoder=self._encoder,
                data_folder=material.data,
                cache=material.links,
            )

    @property
    def left_out(self) -> Mapping[str, int]:
        """By kind and data set, rows that the stage cannot use."""
        return self._source.left_out

    @property
    def position(self) -> dict[str, Any]:
        return dict(self._source.position)

    def state(self) -> dict[str, Any]:
        """Everything beside the encoder's weights that the next step depends on."""
        scaler = self._processes.accelerator.scaler
        return {
            "optimisers": self._optimisers.state_dict(),
            "heads": self._heads.state_dict(),
            "scaler": {} if scaler is None else scaler.state_dict(),
            "generators": self._processes.random_states(),
        }

    def restore(self, state: dict[str, Any], position: dict[str, Any]) -> None:
        """Go on where another run of this stage was."""
        self._source.seek(position)
        self._optimisers.load_state_dict(state["optimisers"])
        self._heads.load_state_dict(state["heads"])
        if self._processes.accelerator.scaler is not None:
            self._processes.accelerator.scaler.load_state_dict(state["scaler"])
        self._processes.restore_random_state(state["generators"])

    def step(self, step: int) -> Step:
        """Train on the batches of one step, counted from 0 within the stage.

        Raises:
            TrainingFailed: the loss or the gradient is no number.
        """
        rate = learning_rate(self.stage, step)
        self._optimisers.start(rate / self.stage.learning_rate)
        self._encoder.train()
        self._heads.train()
        scaler = self._processes.accelerator.scaler
        share = torch.tensor(1.0 / self.stage.accumulate, device=self._processes.device)
        scale = share if scaler is None else scaler.scale(share)
        found: list[dict[str, Tensor]] = []
        tokens = torch.zeros((), dtype=torch.int64, device=self._processes.device)
        for part in range(self.stage.accumulate):
            batch = self._source.batch(step * self.stage.accumulate + part)
            found.append(self._objective.backward(batch, scale=scale))
            for view in batch.views.values():
                tokens += view.mask.sum()
        norm = self._apply(scaler)
        parts = _means(found)
        self._check(parts, norm, step, mixed=scaler is not None)
        return Step(
            {**parts, "gradient_norm": norm, "learning_rate": torch.tensor(rate)},
            tokens,
        )

    def _apply(self, scaler: Any) -> Tensor:
        parameters = self._optimisers.parameters
        self._processes.sum_gradients(parameters)
        if scaler is not None:
            self._optimisers.unscale(scaler)
        norm = self._optimisers.clip(self._loop.max_gradient_norm)
        self._optimisers.step(scaler)
        if scaler is not None:
            scaler.update()
        return norm

    def _check(self, parts: dict[str, Tensor], norm: Tensor, step: int, *, mixed: bool) -> None:
        # With fp16 a gradient may overflow: then the scaler leaves the step out and goes down.
        watched = parts["loss"] if mixed else parts["loss"] + norm
        if math.isfinite(float(watched)):
            return
        values = {name: float(part) for name, part in parts.items()}
        raise TrainingFailed(
            f"stage {self.stage.name!r}, its step {step + 1}: the loss is {values['loss']}, the"
            f" norm of its gradient {float(norm)} ({values}). The last checkpoint is intact: lower"
            f" the stage's learning_rate ({self.stage.learning_rate}), raise its warmup_steps"
            f" ({self.stage.warmup_steps}), or set loop.precision to fp32"
            f" ({self._loop.precision}), and start with another --out"
        )


def method_of(settings: settings_of.Method, encoder: SentenceEncoder, pieces: Pieces) -> Method:
    """The method that a part of a recipe describes."""
    match settings:
        case settings_of.InfoNce():
            return InfoNceMethod(settings, encoder, pieces)
        case settings_of.Clear():
            return ClearMethod(settings, encoder, pieces)
        case settings_of.Hybrid():
            return HybridMethod(settings, encoder, pieces)
        case settings_of.Distillation():
            return DistillationMethod(settings, encoder, pieces)
        case settings_of.MlCtl():
            return MlCtlMethod(settings, encoder, pieces)
        case settings_of.Weam():
            return WeamMethod(settings, encoder, pieces)
        case settings_of.Ear():
            return EarMethod(settings, encoder, pieces)
        case _:
            assert_never(settings)


def learning_rate(stage: Stage, step: int) -> float:
    """The rate of a stage's step (from 0): linear warm-up, then the schedule down to nothing."""
    if step < stage.warmup_steps:
        return stage.learning_rate * (step + 1) / stage.warmup_steps
    done = (step - stage.warmup_steps) / max(1, stage.steps - stage.warmup_steps)
    factors = {
        "constant": 1.0,
        "linear": 1.0 - done,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
    }
    return stage.learning_rate * factors[stage.schedule]


def _widths(stage: Stage, encoder: SentenceEncoder) -> tuple[int, ...]:
    if stage.matryoshka and max(stage.matryoshka) != encoder.width:
        raise TrainingFailed(
            f"stage {stage.name!r}: matryoshka = {list(stage.matryoshka)}, and the largest width"
            f" must be the encoder's own, {encoder.width}"
        )
    return stage.matryoshka


def _means(found: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The means over the batches of a step; not every batch has every part."""
    names = dict.fromkeys(name for parts in found for name in parts)
    return {
        name: torch.stack([parts[name] for parts in found if name in parts]).mean()
        for name in names
    }
