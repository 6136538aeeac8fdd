"""Adam for a table of embeddings, in which a row moves only in the steps that touch it.

*Why*: with plain Adam the moments of all rows decay in every step. A rare piece's first gradient is
then divided by moments that are far too small, and its momentum goes on for steps in which no text
has the piece: one text throws it further than a thousand move a frequent one. Here the moments and
the count for their bias correction are of each row's own steps. It is also cheaper: a batch touches
a tenth of the rows.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class RowAdam(torch.optim.Optimizer):
    """Adam (Kingma and Ba 2015) by rows of matrices [rows, width], whose gradients may be sparse.

    Args:
        tables: Embeddings.
        lr: Learning rate.
        betas: Decay of the two moments, in steps that touch the row.
        eps: Added to the root of the second moment.
        first: Rows before this one never move.
    """

    def __init__(
        self,
        tables: Iterable[Tensor],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        first: int = 0,
    ) -> None:
        super().__init__(list(tables), {"lr": lr, "betas": betas, "eps": eps, "first": first})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move the rows that have a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    _move(table, table.grad, self.state[table], group)
        return loss


def _move(table: Tensor, gradients: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if not state:
        state["mean"] = torch.zeros_like(table)
        state["square"] = torch.zeros_like(table)
        state["steps"] = torch.zeros(len(table), device=table.device)
    touched, gradient = _touched(gradients, group["first"])
    first, second = group["betas"]
    steps = state["steps"][touched] + 1
    mean = state["mean"][touched].lerp_(gradient, 1 - first)
    square = state["square"][touched].mul_(second).addcmul_(gradient, gradient, value=1 - second)
    state["steps"][touched], state["mean"][touched] = steps, mean
    state["square"][touched] = square
    unbiased = mean / (1 - first**steps).unsqueeze(1)
    scale = (square / (1 - second**steps).unsqueeze(1)).sqrt_().add_(group["eps"])
    table[touched] -= group["lr"] * unbiased / scale


def _touched(gradients: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Rows from the first one on that have a gradient, and it."""
    if gradients.is_sparse:
        summed = gradients.coalesce()
        rows, values = summed.indices()[0], summed.values()
        late = rows >= first
        return rows[late], values[late]
    largest = torch.linalg.vector_norm(gradients[first:], ord=float("inf"), dim=1)
    rows = first + largest.nonzero().squeeze(1)
    return rows, gradients[rows]
