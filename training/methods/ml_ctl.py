"""ML-CTL: contrast vectors that hold a sentence and one of its words, with CZ-NCE.

Multi-level contrastive learning (arXiv 2202.13083, ICASSP 2022). With h1 and hL the states after
the first and the last layer, T all pieces of x, W those of its marked word, and sim the cosine
divided by tau:

    sent(x) = mean_T (h1 + hL),    word(x) = mean_W (h1 + hL)
    c(x)    = W2 relu(W1 [sent(x) ; word(x)] + b1) + b2
    CZ(x_i) = log sum_{k in N_i} exp sim(c(x_i), k) - sim(c(x_i), c(y_i))
    N_i     = {c(y_j), c(x_j) : j != i}
    L       = mean of CZ over anchors + a L_MLM,    InfoNCE = softplus(CZ)

Anchors are both languages' rows. Rows that mark the same word of the same sentence are no
negatives of each other; other words of it are. Our samplers never put a sentence into a batch twice,
though, so what forces the word into the vector there, a sentence against itself with another word
marked, is met only in batches that are made otherwise.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from training.batch import Facts, Outputs, View
from training.config.methods import MlCtl
from training.losses import NO_LABEL, cosines, cz, false_negative_mask, masked_mean
from training.mlm import MlmHead, embedding_table
from training.model import SentenceEncoder
from training.vocabulary import Pieces

SIDES = ("source", "target")


class MlCtlMethod:
    """`source` against `target`, and their masked copies for the masked-LM term."""

    def __init__(self, settings: MlCtl, encoder: SentenceEncoder, _pieces: Pieces) -> None:
        self.settings = settings
        self.vectors = frozenset(SIDES)
        self._backbone = encoder.backbone
        width = encoder.width * (2 if settings.level == "sentence_and_word" else 1)
        self._project = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self._mlm = MlmHead.of(encoder.backbone) if settings.mlm_weight > 0 else None
        parts: dict[str, nn.Module] = {"project": self._project}
        if self._mlm is not None:
            parts["mlm"] = self._mlm
        self.head = nn.ModuleDict(parts)

    def needs(self, views: frozenset[str]) -> dict[str, frozenset[str]]:
        """Raises ValueError if the batch lacks the masked copies that the settings ask for."""
        wanted: dict[str, frozenset[str]] = {}
        for side in SIDES:
            wanted[self._contrasted(side)] = frozenset({"first", "last"})
            if self._mlm is not None:
                masked = f"masked_{side}"
                wanted[masked] = wanted.get(masked, frozenset()) | {"last"}
        if missing := wanted.keys() - views:
            raise ValueError(
                f"ml_ctl: the batch has no {', '.join(sorted(missing))}; only `words` batches have"
                f" them, and this one has {', '.join(sorted(views))}"
            )
        return wanted

    def rows(self, outputs: Mapping[str, Outputs], views: Mapping[str, View]) -> dict[str, Tensor]:
        """c(x) under `source` and c(y) under `target`, [rows, width].

        Beside them `SIDE_span`, where the words are, [rows, 2], and of the masked-LM term sums,
        `SIDE_mlm`, and counts, `SIDE_count`, [rows].
        """
        found: dict[str, Tensor] = {}
        for side in SIDES:
            contrasted = self._contrasted(side)
            span = views[contrasted].extra["span"]
            found[side] = self._project(self._joined(outputs[contrasted], span))
            if self.settings.level == "sentence_and_word":
                found[f"{side}_span"] = span.float()
            if self._mlm is not None:
                states, labels = (
                    outputs[f"masked_{side}"].last,
                    views[f"masked_{side}"].extra["labels"],
                )
                table = embedding_table(self._backbone)
                found[f"{side}_mlm"] = self._mlm.cross_entropy_rows(_there(states), labels, table)
                found[f"{side}_count"] = (labels != NO_LABEL).sum(1).float()
        return found

    def loss(self, rows: Mapping[str, Tensor], facts: Facts) -> dict[str, Tensor]:
        """`contrast`, the mean over anchors, and `mlm`, a times the mean of both languages.

        Raises:
            ValueError: fewer than two rows, or no row has a negative.
        """
        parts = {"contrast": self._contrast(rows, facts)}
        if self._mlm is not None:
            each = [
                rows[f"{side}_mlm"].sum() / rows[f"{side}_count"].sum().clamp(min=1.0)
                for side in SIDES
            ]
            parts["mlm"] = self.settings.mlm_weight * torch.stack(each).mean()
        return parts

    def _contrast(self, rows: Mapping[str, Tensor], facts: Facts) -> Tensor:
        size = len(rows["source"])
        if size < 2:  # noqa: PLR2004
            raise ValueError(
                f"ml_ctl: {size} row in the batch; negatives are other rows, so the stage needs"
                " rows of at least 2"
            )
        same = self._same(rows, facts)
        if bool(same.all()):
            raise ValueError(
                f"ml_ctl: all {size} rows of the batch mark the same word of the same sentence, so"
                " none has a negative; give the stage more rows or other data"
            )
        anchors = ("source", "target") if self.settings.anchors == "both" else ("source",)
        values = [
            self._anchored(rows[anchor], rows[other], same)
            for anchor, other in zip(anchors, ("target", "source"), strict=False)
        ]
        return torch.cat(values).mean()

    def _anchored(self, anchors: Tensor, others: Tensor, same: Tensor) -> Tensor:
        """The loss of every anchor that has a negative, [at most rows]."""
        scale = 1.0 / self.settings.temperature
        across = scale * cosines(anchors, others)
        within = scale * cosines(anchors, anchors)
        kept = ~same.all(1)
        value = cz(
            torch.cat([across, within], 1)[kept],
            across.diagonal()[kept],
            mask=torch.cat([same, same], 1)[kept],
        )
        return value if self.settings.contrast == "cz" else F.softplus(value)

    def _same(self, rows: Mapping[str, Tensor], facts: Facts) -> Tensor:
        """True where rows have the same sentence and word on a side, and for each row itself."""
        size = len(rows["source"])
        found = torch.eye(size, dtype=torch.bool, device=rows["source"].device)
        for side in SIDES:
            keys = facts.keys[side]
            same = false_negative_mask(keys, keys)
            span = rows.get(f"{side}_span")
            if span is not None:
                same = same & (span.unsqueeze(1) == span.unsqueeze(0)).all(-1)
            found = found | same
        return found

    def _joined(self, outputs: Outputs, span: Tensor) -> Tensor:
        """[sent ; word], or sent alone, [rows, width or twice that]."""
        states = _there(outputs.first).float() + _there(outputs.last).float()
        sentence = masked_mean(states, outputs.mask)
        if self.settings.level == "sentence":
            return sentence
        place = torch.arange(states.shape[1], device=span.device)
        word = (place >= span[:, :1]) & (place <= span[:, 1:])
        return torch.cat([sentence, masked_mean(states, word)], dim=-1)

    def _contrasted(self, side: str) -> str:
        return f"masked_{side}" if self.settings.mask_views else side


def _there(states: Tensor | None) -> Tensor:
    if states is None:
        raise AssertionError("the states were asked for")
    return states
