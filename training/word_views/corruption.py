"""Corruption of masked language modelling: which units must be predicted, and what is shown there.

A unit is a piece, or all pieces of a word: then none can be read off its sibling. That some of the
units stay visible is not a detail: without it WEAM aligns nothing (methods of WEAM, pitfall 1).
"""

from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.losses import NO_LABEL
from training.vocabulary import Pieces

Numbers: TypeAlias = NDArray[np.int64]
OUTSIDE = -1
"""The unit of a piece that is never predicted: special ones, punctuation."""


class NoMaskPiece(ValueError):
    """The tokenizer has no mask piece, and a method must mask."""


@dataclass(frozen=True, slots=True)
class Corruption:
    """Shares of BERT's corruption (Devlin et al. 2019, sec. 3.1), and the pieces it takes."""

    rate: float
    """Share of the units that must be predicted, in expectation; at least one a row."""
    mask_share: float
    """Of these, how many become the mask piece."""
    random_share: float
    """And how many random pieces; the rest stay as they are."""
    mask: int
    replacements: Numbers
    """What a random piece may be: everything that stands for text."""

    @classmethod
    def of(
        cls, pieces: Pieces, rate: float, *, mask_share: float = 0.8, random_share: float = 0.1
    ) -> Self:
        """Raises NoMaskPiece where the tokenizer cannot."""
        if pieces.mask is None:
            raise NoMaskPiece(
                "the tokenizer has no mask piece ([MASK], <mask>), and the method masks words; start"
                " from a model with one"
            )
        texts = np.setdiff1d(np.arange(pieces.size), np.array(sorted(pieces.special), np.int64))
        return cls(rate, mask_share, random_share, pieces.mask, texts)

    def __call__(
        self, ids: Numbers, units: Numbers, rng: np.random.Generator
    ) -> tuple[Numbers, Numbers]:
        """Corrupted pieces, and labels: the true piece at predicted positions, -100 elsewhere.

        `units` gives the unit of each piece, `OUTSIDE` for those that are never predicted.
        """
        shown, labels = ids.copy(), np.full_like(ids, NO_LABEL)
        known = np.unique(units[units != OUTSIDE])
        if self.rate == 0 or not len(known):
            return shown, labels
        count = max(1, int(self.rate * len(known) + rng.random()))
        chosen = rng.choice(known, size=min(count, len(known)), replace=False)
        fate = rng.random(len(chosen))
        masked = np.isin(units, chosen[fate < self.mask_share])
        among = (fate >= self.mask_share) & (fate < self.mask_share + self.random_share)
        replaced = np.isin(units, chosen[among])
        shown[masked] = self.mask
        shown[replaced] = rng.choice(self.replacements, size=int(replaced.sum()))
        predicted = np.isin(units, chosen)
        labels[predicted] = ids[predicted]
        return shown, labels
