"""InfoNCE over the batch: the query must pick its positive out of all candidates, and back.

Multiple-negatives ranking (Henderson et al. 2017, arXiv 1705.00652, eq. 4; van den Oord et al.
2018, arXiv 1807.03748, eq. 4) on cosines. The candidates are the positives and the hard negatives
of all rows; backwards, the positive must pick its query out of the queries of all rows. The
additive margin on the positives is LaBSE's (Feng et al. 2022, arXiv 2007.01852), who sum both
directions where the mean is taken here.
"""

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from training.batch import Facts, Outputs, View
from training.config.methods import InfoNce
from training.losses import cosines, nce, subtract_margin
from training.methods.candidates import false_negatives, numbered, stacked
from training.methods.pooled import pooled_needs, pooled_rows


class InfoNceMethod:
    """`query` against `positive` and, where the batch has them, `negative0`, `negative1`, ..."""

    def __init__(self, settings: InfoNce, _encoder: object, _pieces: object) -> None:
        self.settings = settings
        self.head = nn.Identity()
        self.vectors = frozenset({"query", "positive", "negative*"})

    def needs(self, views: frozenset[str]) -> dict[str, frozenset[str]]:
        return pooled_needs("info_nce", views, self._read(views))

    def rows(self, outputs: Mapping[str, Outputs], views: Mapping[str, View]) -> dict[str, Tensor]:
        return pooled_rows(outputs, self._read(views))

    def loss(self, rows: Mapping[str, Tensor], facts: Facts) -> dict[str, Tensor]:
        """`nce`: the mean over rows, and over both directions if symmetric."""
        hard = numbered(rows, "negative")
        there = self._direction(rows, facts, anchor="query", positive="positive", hard=hard)
        if not self.settings.symmetric:
            return {"nce": there}
        back = self._direction(rows, facts, anchor="positive", positive="query", hard=[])
        return {"nce": 0.5 * (there + back)}

    def _direction(
        self,
        rows: Mapping[str, Tensor],
        facts: Facts,
        *,
        anchor: str,
        positive: str,
        hard: list[str],
    ) -> Tensor:
        scores = cosines(rows[anchor], stacked(rows, [positive, *hard]))
        scores = subtract_margin(scores, self.settings.margin) / self.settings.temperature
        mask = false_negatives(facts, anchor=anchor, positive=positive, others=hard)
        return nce(scores, mask=mask).mean()

    @staticmethod
    def _read(views: Collection[str]) -> list[str]:
        return ["query", "positive", *numbered(views, "negative")]
