"""The small functions on embeddings that every method's loss is a sum of.

They give one number for each row, in float32 whatever the encoder computes in, because a softmax
over thousands of in-batch negatives loses its small differences in bfloat16; the method takes the
mean or the sum. Where a loss is a mean over positions, a row gives its sum and its count, so that
chunks and processes with other numbers of positions still add up to the mean of the whole batch.
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its name everywhere

NO_LABEL = -100
"""At positions whose piece need not be predicted."""


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """The mean of the states that the mask keeps; [batch, sequence, width] to [batch, width].

    In float32 and with a count of at least 1: half precision lost up to 5e-4 of the cosine here,
    and a fully masked row stays a zero instead of a NaN.
    """
    weights = mask.unsqueeze(-1).to(torch.float32)
    return (states.float() * weights).sum(1) / weights.sum(1).clamp(min=1.0)


def cosines(left: Tensor, right: Tensor) -> Tensor:
    """The cosine of every left vector with every right one, [lefts, rights]."""
    return F.normalize(left.float(), dim=-1) @ F.normalize(right.float(), dim=-1).T


def false_negative_mask(anchors: Tensor, candidates: Tensor) -> Tensor:
    """True where a candidate that is not the row's own says the same as the row's anchor.

    Both are int64 names of texts or groups, [rows] and [columns]; column i is row i's own
    candidate, further columns (hard negatives) are nobody's. Returns [rows, columns].
    """
    same = anchors.unsqueeze(1) == candidates.unsqueeze(0)
    return same & ~torch.eye(*same.shape, dtype=torch.bool, device=same.device)


def subtract_margin(scores: Tensor, margin: float) -> Tensor:
    """Take `margin` off the positives on the diagonal (LaBSE, Feng et al. 2022, eq. 2)."""
    return scores - margin * torch.eye(*scores.shape, dtype=scores.dtype, device=scores.device)


def nce(scores: Tensor, target: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """InfoNCE of each row: log-sum-exp(scores) minus the positive (van den Oord et al. 2018, eq. 4).

    `scores` is [rows, candidates], `target` the column of each row's positive (the diagonal if not
    given), `mask` is True where a candidate must not count as a negative. Returns [rows].
    """
    scores = scores.float()
    if mask is not None:
        scores = scores.masked_fill(mask, float("-inf"))
    if target is None:
        target = torch.arange(len(scores), device=scores.device)
    return F.cross_entropy(scores, target, reduction="none")


def cz(negatives: Tensor, positive: Tensor, mask: Tensor | None = None) -> Tensor:
    """CZ-NCE of each row: log-sum-exp of the negatives' scores alone, minus the positive's.

    InfoNCE without the positive in its denominator (ML-CTL, arXiv 2202.13083): InfoNCE is its
    softplus, but its gradient does not vanish as the row is learned. `negatives` is
    [rows, candidates], `positive` [rows]; `mask` is True where a candidate must not count.
    Returns [rows].

    Raises:
        ValueError: a row has no negative, for which the value would be minus infinity.
    """
    negatives = negatives.float()
    alone = torch.full((len(negatives),), negatives.shape[1] == 0, device=negatives.device)
    if mask is not None:
        alone = alone | mask.all(1)
        negatives = negatives.masked_fill(mask, float("-inf"))
    if bool(alone.any()):
        raise ValueError(
            f"cz: {int(alone.sum())} of {len(negatives)} rows have no negative left; it needs at"
            " least one: give the stage more rows"
        )
    return torch.logsumexp(negatives, dim=1) - positive.float()


def kl_rows(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of each row of log-probabilities, [rows, columns] to [rows].

    Where p is zero (a masked column, minus infinity in both) nothing is added.
    """
    gone = log_p.isneginf()
    difference = log_p.masked_fill(gone, 0.0) - log_q.masked_fill(gone, 0.0)
    return (log_p.exp() * difference).sum(-1)


def cosine_distance(left: Tensor, right: Tensor) -> Tensor:
    """1 minus the cosine of each row's two vectors, [rows]."""
    return 1.0 - F.cosine_similarity(left.float(), right.float(), dim=-1)


def squared_distance(left: Tensor, right: Tensor) -> Tensor:
    """The squared Euclidean distance of each row's two vectors, [rows]."""
    return (left.float() - right.float()).square().sum(-1)


def masked_squares_rows(left: Tensor, right: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row, the sum of the squared differences that the mask keeps, and their count.

    `left` and `right` are [rows, ...], `mask` broadcasts to their shape. Returns two [rows].
    """
    kept = mask.expand(left.shape).to(torch.float32).flatten(1)
    squares = (left.float() - right.float()).square().flatten(1)
    # A masked position may hold anything, NaN too, of which 0 times is not 0.
    return squares.masked_fill(kept == 0, 0.0).sum(1), kept.sum(1)


def gather_rows(states: Tensor, partner: Tensor) -> Tensor:
    """At each position the state of its partner; a new tensor, the states stay as they are.

    `states` is [rows, length, width], `partner` int64 [rows, length] holds positions.
    """
    return states.gather(1, partner.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
