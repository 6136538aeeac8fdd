"""InfoNCE over the batch: the left side must pick its right side out of all, and back.

Multiple-negatives ranking (van den Oord et al. 2018; Henderson et al. 2017) on cosines, with an
optional additive margin on the positives (LaBSE, Feng et al. 2022). A row whose group another row
has too is no negative of it: in multi-way parallel text the same sentence meets itself.
"""

from torch import Tensor

from training.config import InfoNce
from training.losses import false_negative_mask, nce, subtract_margin
from training.samplers import Batch


def loss(settings: InfoNce, batch: Batch, left: Tensor, right: Tensor | None) -> dict[str, Tensor]:
    """The parts of the loss; `left` and `right` are unit vectors, [rows, dimension]."""
    if right is None or batch.right is None:
        raise ValueError(f"info_nce needs pairs, and {batch.source} rows have one side")
    scores = left @ right.T
    if settings.margin:
        scores = subtract_margin(scores, settings.margin)
    scores = scores / settings.temperature
    mask = false_negative_mask(batch.left.groups, batch.left.groups)
    mask |= false_negative_mask(batch.right.groups, batch.right.groups)
    forward = nce(scores, mask)
    if not settings.symmetric:
        return {"nce": forward}
    return {"nce": 0.5 * (forward + nce(scores.T, mask.T))}
