"""The small functions on embeddings that every method's loss is a sum of.

All are means over rows, in float32 whatever the encoder computes in: a softmax over thousands of
in-batch negatives loses its small differences in bfloat16.
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its name everywhere


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """The mean of the states that the mask keeps; [batch, sequence, width] to [batch, width].

    In float32 and with a count of at least 1: half precision lost up to 5e-4 of the cosine here,
    and a fully masked row stays a zero instead of a NaN.
    """
    weights = mask.unsqueeze(-1).to(torch.float32)
    return (states.float() * weights).sum(1) / weights.sum(1).clamp(min=1.0)


def false_negative_mask(anchors: Tensor, candidates: Tensor) -> Tensor:
    """True where a candidate of *another* row has the anchor's group; [rows, rows]."""
    same = anchors.unsqueeze(1) == candidates.unsqueeze(0)
    return same & ~torch.eye(len(anchors), dtype=torch.bool, device=anchors.device)


def nce(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """InfoNCE: mean over rows of log-sum-exp(scores) minus the positive, which is the diagonal.

    `scores` is [rows, candidates] with the candidate of row i at column i; `mask` is True where a
    candidate must not count as a negative (van den Oord et al. 2018, eq. 4).
    """
    if mask is not None:
        scores = scores.masked_fill(mask, float("-inf"))
    target = torch.arange(len(scores), device=scores.device)
    return F.cross_entropy(scores, target)


def subtract_margin(scores: Tensor, margin: float) -> Tensor:
    """Take `margin` off the positives on the diagonal (LaBSE, Feng et al. 2022, eq. 2)."""
    return scores - margin * torch.eye(*scores.shape, dtype=scores.dtype, device=scores.device)


def kl_rows(target_log: Tensor, log: Tensor) -> Tensor:
    """KL(target || other), mean over rows; both are rows of log-probabilities."""
    return F.kl_div(log, target_log, log_target=True, reduction="batchmean")


def cosine_distance(left: Tensor, right: Tensor) -> Tensor:
    """1 minus the cosine of each row's two vectors, mean over rows."""
    return (1.0 - F.cosine_similarity(left, right, dim=-1)).mean()


def squared_distance(left: Tensor, right: Tensor) -> Tensor:
    """The squared Euclidean distance of each row's two vectors, mean over rows."""
    return (left - right).square().sum(-1).mean()
