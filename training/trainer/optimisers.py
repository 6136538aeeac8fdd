"""What moves the weights of a stage: AdamW for matrices and heads, Adam by rows for the embeddings.

A stage may train embeddings alone: then everything else is a constant, which also saves the half
of the work that the gradients of the body's weights would be. The table's gradient is sparse then,
because a batch has a tenth of the pieces, and a dense one took as long as two layers.
"""

from typing import Any

import torch
from torch import Tensor, nn

from training.config.recipe import Stage
from training.model import SentenceEncoder
from training.trainer.row_adam import RowAdam

SMALL = 1e-6


class Optimisers:
    """The optimisers of a stage, moved together by one schedule."""

    def __init__(
        self,
        stage: Stage,
        encoder: SentenceEncoder,
        heads: nn.Module,
        *,
        first_new: int,
        device: torch.device,
        sparse: bool = True,
    ) -> None:
        """Decide what is trained: parameters of the encoder that are not get no gradient.

        Args:
            stage: Says what is trained, and at which rates.
            encoder: Its parameters' `requires_grad` is set.
            heads: What methods bring along; always trained.
            first_new: Number of the first new piece.
            device: Where the parameters are.
            sparse: Whether the gradient of the table may be sparse where nothing else is trained;
                several processes cannot sum such ones.
        """
        alone = stage.train != "all"
        for parameter in encoder.parameters():
            parameter.requires_grad_(not alone)
        embedding = encoder.backbone.get_input_embeddings()
        if not isinstance(embedding, nn.Embedding):
            raise TypeError(f"the token embeddings are no table: {type(embedding).__name__}")
        embedding.sparse = alone and sparse
        table = embedding.weight.requires_grad_(True)
        rate = stage.learning_rate if alone else stage.pieces_learning_rate
        self.parameters = _distinct(encoder, heads)
        self._rates: list[float] = []
        self._all: list[torch.optim.Optimizer] = []
        if rate is not None:
            self._all.append(
                RowAdam([table], lr=rate, first=first_new if stage.train == "new_pieces" else 0)
            )
            self._rates.append(rate)
        rest = [p for p in self.parameters if rate is None or p is not table]
        if groups := _decayed(rest, stage.weight_decay):
            fused = device.type == "cuda"
            self._all.append(torch.optim.AdamW(groups, lr=stage.learning_rate, fused=fused))
            self._rates.append(stage.learning_rate)

    def start(self, factor: float) -> None:
        """Forget the gradients, and set all rates to `factor` times the stage's."""
        for optimiser, rate in zip(self._all, self._rates, strict=True):
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = rate * factor

    def clip(self, most: float) -> Tensor:
        """Scale all gradients down to a joint norm of at most `most`; returns what it was."""
        for parameter in self.parameters:
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
        gradients = [
            g.values() if g.is_sparse else g for p in self.parameters if (g := p.grad) is not None
        ]
        norm = torch.nn.utils.get_total_norm(gradients)
        factor = (most / (norm + SMALL)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor)
        return norm

    def unscale(self, scaler: Any) -> None:
        """Take the scaler's factor out of the gradients."""
        for optimiser in self._all:
            scaler.unscale_(optimiser)

    def step(self, scaler: Any) -> None:
        """Move the parameters; through the scaler, if there is one."""
        for optimiser in self._all:
            if scaler is None:
                optimiser.step()
            else:
                scaler.step(optimiser)

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimiser.state_dict() for optimiser in self._all]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for optimiser, state in zip(self._all, states, strict=True):
            optimiser.load_state_dict(state)


def _distinct(*modules: nn.Module) -> list[nn.Parameter]:
    """All parameters once; a head may hold some of the encoder's."""
    found = {
        id(parameter): parameter
        for module in modules
        for parameter in module.parameters()
        if parameter.requires_grad
    }
    return list(found.values())


def _decayed(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and layer norms do not."""
    groups: list[dict[str, Any]] = [
        {"params": _of(parameters, matrices=True), "weight_decay": weight_decay},
        {"params": _of(parameters, matrices=False), "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _of(parameters: list[nn.Parameter], *, matrices: bool) -> list[Tensor]:
    return [parameter for parameter in parameters if (parameter.dim() > 1) == matrices]
