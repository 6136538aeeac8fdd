"""Hybrid batch training: the contrast that meets monolingual and cross-lingual batches in turn.

arXiv 2408.10536 has no loss of its own: which languages meet in a batch is the stage's choice
(`hybrid` batches with their alpha). Its formula, as printed, is a sum over rows without a
temperature, whose denominator has the row's positive and the hard negatives of all rows, but not
the other rows' positives. *Why not so by default:* without a temperature a perfect batch of 100
cannot fall below log(1 + 100 e^-2) = 2.68, and its gradient hardly tells near from far; the text
itself speaks of in-batch negatives. `paper_strict` is the formula as printed, in
which a hard negative that is the row's own positive stays masked.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from training.batch import Facts, Outputs, View
from training.config.methods import Hybrid
from training.losses import cosines, nce
from training.methods.candidates import false_negatives, numbered, stacked
from training.methods.pooled import pooled_needs, pooled_rows


class HybridMethod:
    """`query` against `positive` and the hard negatives `negative0`, `negative1`, ..."""

    def __init__(self, settings: Hybrid, _encoder: object, _pieces: object) -> None:
        self.settings = settings
        self.head = nn.Identity()
        self.vectors = frozenset({"query", "positive", "negative*"})

    def needs(self, views: frozenset[str]) -> dict[str, frozenset[str]]:
        return pooled_needs("hybrid", views, self._read(views))

    def rows(self, outputs: Mapping[str, Outputs], views: Mapping[str, View]) -> dict[str, Tensor]:
        return pooled_rows(outputs, self._read(views))

    def loss(self, rows: Mapping[str, Tensor], facts: Facts) -> dict[str, Tensor]:
        """`nce`: the mean over rows; strictly as in the paper the sum over rows."""
        hard = numbered(rows, "negative")
        scores = cosines(rows["query"], stacked(rows, ["positive", *hard]))
        mask = false_negatives(facts, anchor="query", positive="positive", others=hard)
        if not self.settings.paper_strict:
            return {"nce": nce(scores / self.settings.temperature, mask=mask).mean()}
        count = len(scores)
        mask[:, :count] = ~torch.eye(count, dtype=torch.bool, device=mask.device)
        return {"nce": nce(scores, mask=mask).sum()}

    def _read(self, views: Collection[str]) -> list[str]:
        hard = numbered(views, "negative")
        if self.settings.paper_strict and not hard:
            raise ValueError(
                "hybrid: paper_strict has only hard negatives to tell the positive from, and the"
                " batch has none; set negatives of the stage's batches to 1 or more"
            )
        return ["query", "positive", *hard]
