"""The first rows of new pieces: means of the rows of the English pieces near them in a static space.

WECHSEL (Minixhofer et al. 2022, arXiv 2112.06598, eq. 3 and 4): the nearest by cosine, weighted by a
softmax of the cosines. A mean is shorter than what it is a mean of, and the body expects lengths as
it has seen them: so every new row gets the mean length of the kept ones.
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its name everywhere

CHUNK = 2048


def new_rows(
    space: Tensor, rows: Tensor, *, sources: Tensor, neighbours: int, sharpness: float
) -> Tensor:
    """Rows of the pieces after the kept ones, [new, width].

    Args:
        space: Static vectors of the kept pieces and then the new ones, [kept + new, any].
        rows: Rows of the kept pieces, [kept, width].
        sources: Numbers of the kept pieces that may be neighbours, int64.
        neighbours: How many each new piece has.
        sharpness: Temperature of the softmax.
    """
    kept = len(rows)
    english = F.normalize(space[sources], dim=1)
    length = rows[sources].norm(dim=1).mean()
    count = min(neighbours, len(sources))
    found = []
    for start in range(kept, len(space), CHUNK):
        near = F.normalize(space[start : start + CHUNK], dim=1) @ english.T
        cosines, places = near.topk(count, dim=1)
        weights = torch.softmax(cosines / sharpness, dim=1)
        mixed = (weights.unsqueeze(2) * rows[sources[places]]).sum(1)
        found.append(F.normalize(mixed, dim=1) * length)
    return torch.cat(found) if found else rows[:0]
