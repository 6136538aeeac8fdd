"""EAR: every text and a perturbed copy are pushed apart where they enter, and must mean the same.

Ding et al., COLING 2022 (arXiv 2210.09934), in a form for retrieval:

    InfoNCE(q, p) + InfoNCE(q', p') + alpha mean(L_EP(q), L_EP(p)) + beta mean(L_AP(q), L_AP(p))

    L_EP = - mean (m(x) - m(x'))^2     m: mean of the embedding layer's output over the pieces
    L_AP =   mean (A(x) - A(x'))^2     A: the attention probabilities of one layer, all its heads

The authors train a classifier, so the two InfoNCE stand where their two cross-entropies do. A copy
is a candidate for copies alone: q never meets p', which would be a negative that is a positive.

*Why* attention is compared word by word: a synonym may have another number of pieces, after which
position t of the one view is no longer position t of the other; `strict` compares positions all
the same, and the padding, as the authors' code does. In training mode the probabilities come after
dropout, so that L_AP is above 0 even for equal views, there as here.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from training.batch import Facts, Outputs, View
from training.config.methods import Ear
from training.losses import cosines, masked_mean, masked_squares_rows, nce
from training.methods.candidates import false_negatives, numbered, stacked
from training.methods.pooled import pooled_needs, pooled_rows
from training.model import SentenceEncoder
from training.vocabulary import Pieces

TEXTS = ("query", "positive")
COPY = "perturbed_"
COMPARED = (*TEXTS, *(COPY + text for text in TEXTS))


class EarMethod:
    """Embedding push, attention pull, robust targets."""

    def __init__(self, settings: Ear, encoder: SentenceEncoder, pieces: Pieces) -> None:
        """Choose the layer.

        Raises:
            ValueError: the encoder has no such layer.
        """
        del pieces
        layer = (encoder.layers - 1) // 2 if settings.layer is None else settings.layer
        if layer >= encoder.layers:
            raise ValueError(
                f"ear: layer = {layer}, but the encoder has {encoder.layers} layers, counted from 0"
            )
        self.layer = layer
        self.head: nn.Module = nn.Identity()
        self._settings = settings

    def needs(self, views: frozenset[str]) -> Mapping[str, frozenset[str]]:
        """Vectors of everything; the embeddings and the attention only where they have a weight."""
        needs = pooled_needs("ear", views, _read(views))
        inner: set[str] = set()
        if self._settings.alpha:
            inner.add("embedded")
        if self._settings.beta:
            inner.add(f"attention:{self.layer}")
        return {
            name: names | (inner if name in COMPARED else set()) for name, names in needs.items()
        }

    def rows(self, outputs: Mapping[str, Outputs], views: Mapping[str, View]) -> dict[str, Tensor]:
        """Vectors by view; by text `push_…` [rows], and `pull_…_sum`, `pull_…_count` [rows]."""
        found = pooled_rows(outputs, _read(views))
        for text in TEXTS:
            one, other = outputs[text], outputs[COPY + text]
            if self._settings.alpha:
                found[f"push_{text}"] = embedding_distance(
                    _there(one.embedded), one.mask, _there(other.embedded), other.mask
                )
            if self._settings.beta:
                sums, counts = self._pull(one, other, views[text], views[COPY + text])
                found[f"pull_{text}_sum"], found[f"pull_{text}_count"] = sums, counts
        return found

    @property
    def vectors(self) -> frozenset[str]:
        """All vectors of texts; what is pushed and pulled are numbers."""
        return frozenset({*COMPARED, "negative*"})

    def loss(self, rows: Mapping[str, Tensor], facts: Facts) -> dict[str, Tensor]:
        """`task` and `robust`; `push` and `pull` where they have a weight."""
        settings = self._settings
        parts = {
            "task": self._contrast(rows, facts, ""),
            "robust": self._contrast(rows, facts, COPY),
        }
        if settings.alpha:
            pushed = torch.stack([rows[f"push_{text}"].mean() for text in TEXTS])
            if settings.push_bound is not None:
                pushed = pushed.clamp(max=settings.push_bound)
            parts["push"] = settings.alpha * -pushed.mean()
        if settings.beta:
            pulled = [
                rows[f"pull_{text}_sum"].sum() / rows[f"pull_{text}_count"].sum().clamp(min=1.0)
                for text in TEXTS
            ]
            parts["pull"] = settings.beta * torch.stack(pulled).mean()
        return parts

    def _contrast(self, rows: Mapping[str, Tensor], facts: Facts, prefix: str) -> Tensor:
        """InfoNCE of queries with the positives of the same view, and with hard negatives."""
        hard = numbered(rows, "negative")
        candidates = stacked(rows, [f"{prefix}positive", *hard])
        scores = cosines(rows[f"{prefix}query"], candidates) / self._settings.temperature
        mask = false_negatives(facts, anchor="query", positive="positive", others=hard)
        return nce(scores, mask=mask).mean()

    def _pull(self, one: Outputs, other: Outputs, view: View, copy: View) -> tuple[Tensor, Tensor]:
        left, right = _there(one.attention).float(), _there(other.attention).float()
        if self._settings.strict:
            return masked_squares_rows(left, right, torch.ones_like(left, dtype=torch.bool))
        if "words" not in view.extra:  # then the copy has the same positions
            seen = (one.mask.bool() & other.mask.bool()).unsqueeze(1)
            return masked_squares_rows(left, right, seen.unsqueeze(-1) & seen.unsqueeze(-2))
        pieces = view.extra["words"], copy.extra["words"]
        specials = max(int(_specials(*of).sum(1).max()) for of in _both(pieces, one, other))
        units = specials + int(max(words.max() for words in pieces)) + 1
        first, second = (
            word_units(words, mask, specials=specials, units=units)
            for words, mask in _both(pieces, one, other)
        )
        seen = (first.any(1) & second.any(1)).unsqueeze(1)
        return masked_squares_rows(
            word_attention(left, first),
            word_attention(right, second),
            seen.unsqueeze(-1) & seen.unsqueeze(-2),
        )


def embedding_distance(
    left: Tensor, left_mask: Tensor, right: Tensor, right_mask: Tensor
) -> Tensor:
    """The mean square of m(x) - m(x'), row by row; [rows, length, width] twice to [rows].

    L_EP is minus its mean.
    """
    gap = masked_mean(left, left_mask) - masked_mean(right, right_mask)
    return gap.square().mean(-1)


def word_units(words: Tensor, mask: Tensor, *, specials: int, units: int) -> Tensor:
    """Which piece belongs to which unit, bool [rows, length, units].

    Units are the special pieces in their order, then the words: a special piece is compared with
    the one in its place in the other view, wherever that stands.
    """
    special = _specials(words, mask)
    unit = torch.where(special, special.cumsum(1) - 1, words + specials)
    belongs = F.one_hot(unit.clamp(min=0), units).bool()
    return belongs & mask.bool().unsqueeze(-1)


def word_attention(attention: Tensor, belongs: Tensor) -> Tensor:
    """Attention between units: the sum over target pieces, the mean over source pieces.

    [rows, heads, length, length] and [rows, length, units] to [rows, heads, units, units].
    """
    target = belongs.to(attention.dtype).unsqueeze(1)
    source = target / target.sum(2, keepdim=True).clamp(min=1.0)
    # The encoder's autocast would round what is about to be told apart to eight bits.
    with torch.autocast(attention.device.type, enabled=False):
        return source.transpose(2, 3) @ attention @ target


def _read(views: Collection[str]) -> list[str]:
    return [*COMPARED, *numbered(views, "negative")]


def _specials(words: Tensor, mask: Tensor) -> Tensor:
    return (words < 0) & mask.bool()


def _both(
    pieces: tuple[Tensor, Tensor], one: Outputs, other: Outputs
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return (pieces[0], one.mask), (pieces[1], other.mask)


def _there(wanted: Tensor | None) -> Tensor:
    if wanted is None:
        raise AssertionError("the encoder did not say what the method needs")
    return wanted
