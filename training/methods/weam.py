"""WEAM: predict masked words from their own vectors and from those of their translations.

Word-exchange aligning model (Yang et al. 2021, MRQA; arXiv 2106.01732). With R the last states of
a corrupted `<s> x </s> y </s>`, M the positions to predict, z the true pieces, and pi(t) the
partner of t where its word is linked, t elsewhere (Figure 1 of the paper):

    L_mp = -1/|M| sum_{t in M} log p(z_t | R_t)
    L_cp = -1/|M| sum_{t in M} log p(z_t | R_pi(t))
    L    = L_mp + lambda L_cp

p is the masked-LM head, whose output table is the encoder's input table. Gradients flow through
the exchanged vectors. M is that of the whole batch: rows give sums and counts, not means.
"""

from collections.abc import Mapping

from torch import Tensor

from training.batch import Facts, Outputs, View
from training.config.methods import Weam
from training.losses import NO_LABEL, gather_rows
from training.mlm import MlmHead, embedding_table
from training.model import SentenceEncoder
from training.vocabulary import Pieces

VIEW = "joined"


class WeamMethod:
    """Multilingual (`own`) and cross-lingual (`exchanged`) prediction of masked words."""

    def __init__(self, settings: Weam, encoder: SentenceEncoder, _pieces: Pieces) -> None:
        self.settings = settings
        self.head = MlmHead.of(encoder.backbone)
        self.vectors: frozenset[str] = frozenset()
        self._backbone = encoder.backbone

    def needs(self, views: frozenset[str]) -> dict[str, frozenset[str]]:
        """Raises ValueError if the batch is of another kind."""
        if VIEW not in views:
            raise ValueError(
                f"weam: the batch has no {VIEW}; only `translation` batches have it, and this one"
                f" has {', '.join(sorted(views))}"
            )
        return {VIEW: frozenset({"last"})}

    def rows(self, outputs: Mapping[str, Outputs], views: Mapping[str, View]) -> dict[str, Tensor]:
        """Summed cross-entropies of each row, [rows], and how many positions they are of."""
        states, extra = outputs[VIEW].last, views[VIEW].extra
        if states is None:
            raise AssertionError("last was asked for")
        labels = extra["labels"]
        found = {
            "count": (labels != NO_LABEL).sum(1).float(),
            "own": self._sums(states, labels),
        }
        if self.settings.exchange_weight > 0:
            found["exchanged"] = self._sums(gather_rows(states, extra["partner"]), labels)
        return found

    def loss(self, rows: Mapping[str, Tensor], facts: Facts) -> dict[str, Tensor]:  # noqa: ARG002
        """`own` is L_mp, `exchanged` lambda L_cp."""
        count = rows["count"].sum().clamp(min=1.0)
        parts = {"own": rows["own"].sum() / count}
        if "exchanged" in rows:
            parts["exchanged"] = self.settings.exchange_weight * rows["exchanged"].sum() / count
        return parts

    def _sums(self, states: Tensor, labels: Tensor) -> Tensor:
        return self.head.cross_entropy_rows(states, labels, embedding_table(self._backbone))
