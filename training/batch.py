"""A batch as named views, and the contract between an encoder, a method and the step of training.

Row i of all views belongs together. A method reads what it needs of the encoder's outputs *row by
row* (`rows`), and takes its loss over the rows of the whole batch (`loss`). That one cut carries
the gradient cache and training on several processes: rows can be computed in chunks, on any
device, and thrown away; only the loss must see them all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class View:
    """One list of tokenised texts, on the device; every tensor has a row a text."""

    ids: Tensor
    """Word pieces, int64 [rows, length]."""
    mask: Tensor
    """1 where there is a piece, 0 where there is padding, int64 [rows, length]."""
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """What only some methods read: `target` [rows, width] the teacher's vectors; `span`
    [rows, 2] first and last piece of a word, inclusive; `labels` [rows, length] the piece to be
    predicted, -100 where none; `partner` [rows, length] the position exchanged with, its own where
    none; `clean` [rows, length] the pieces before corruption; `words` [rows, length] the word
    number of every piece, -1 for special pieces and padding; `noise` [rows, length, width]."""
    fixed: bool = False
    """Whether a loss reads the padding too, so that no part may be shorter than the whole."""

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, rows: slice) -> "View":
        """Some rows, cut to the longest text among them unless the length is fixed."""
        whole = self.ids.shape[1]
        length = whole if self.fixed else int(self.mask[rows].sum(1).max())
        return View(
            self.ids[rows, :length],
            self.mask[rows, :length],
            {
                name: value[rows, :length]
                if value.dim() > 1 and value.shape[1] == whole and name not in {"target", "span"}
                else value[rows]
                for name, value in self.extra.items()
            },
            fixed=self.fixed,
        )


@dataclass(frozen=True, slots=True)
class Facts:
    """What the losses must know of every row of the *whole* batch, over all processes."""

    groups: Mapping[str, Tensor]
    """By view: the group that each text is from, int64 [rows]."""
    keys: Mapping[str, Tensor]
    """By view: equal for texts that differ only in case, width or spacing, int64 [rows]."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that meet in one step: the views of this process's rows, the facts of all rows."""

    kind: str
    views: Mapping[str, View]
    facts: Facts

    def __len__(self) -> int:
        return len(next(iter(self.views.values())))


@dataclass(frozen=True, slots=True)
class Outputs:
    """What an encoder said of one view: only what was asked for is there."""

    mask: Tensor
    pooled: Tensor | None = None
    """[rows, width], float32, not normalised."""
    first: Tensor | None = None
    """Hidden states after the first layer, [rows, length, width]."""
    last: Tensor | None = None
    """Hidden states after the last layer, [rows, length, width]."""
    embedded: Tensor | None = None
    """Output of the embedding layer, [rows, length, width]."""
    attention: Tensor | None = None
    """Attention probabilities of one layer, [rows, heads, length, length]."""


class Method(Protocol):
    """One method of the literature: what it reads, per row, and its loss over all rows."""

    @property
    def head(self) -> nn.Module:
        """Parameters that live as long as the stage and are not exported; may be empty."""

    def needs(self, views: frozenset[str]) -> Mapping[str, frozenset[str]]:
        """By view, the `Outputs` that the method reads; `attention:N` for layer N."""

    def rows(self, outputs: Mapping[str, Outputs], views: Mapping[str, View]) -> dict[str, Tensor]:
        """Named tensors with a row for each row of the views.

        Where a loss is a mean over positions, these are the sum and the count of each row.
        """

    @property
    def vectors(self) -> frozenset[str]:
        """The names among `rows` that are vectors of texts, which Matryoshka may cut.

        One that ends in `*` is a prefix.
        """

    def loss(self, rows: Mapping[str, Tensor], facts: Facts) -> dict[str, Tensor]:
        """Named parts, whose sum is the loss; no parameter is read here."""
