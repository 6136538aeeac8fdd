"""Word pieces with the characters that they stand for: one text, or two as one sequence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from training.alignment.words import Span
from training.vocabulary import Pieces
from training.word_views.corruption import OUTSIDE

Numbers: TypeAlias = NDArray[np.int64]
SPECIAL = -1
"""The side of pieces that stand for no text."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A sequence within the length limit."""

    ids: Numbers
    """[length]"""
    side: Numbers
    """0 for the source, 1 for the target, `SPECIAL`, [length]"""
    begin: Numbers
    """First character of each piece in the text of its side, [length]"""
    end: Numbers
    """The one after its last."""
    limits: tuple[int | None, int | None]
    """By side, where the text is cut; None if it is not."""

    def pieces(self, span: Span, side: int) -> tuple[int, int] | None:
        """First and last piece that share characters with a word; None if it is not all there."""
        limit = self.limits[side]
        if limit is not None and span[1] > limit:
            return None
        touched = (self.side == side) & (self.begin < span[1]) & (self.end > span[0])
        places = np.flatnonzero(touched)
        return (int(places[0]), int(places[-1])) if len(places) else None

    def owners(self, words: Sequence[Span], side: int) -> Numbers:
        """The word of each piece of a side, `OUTSIDE` elsewhere, [length].

        Words that share a piece (Chinese characters do) are one.
        """
        owners = np.full(len(self.ids), OUTSIDE, np.int64)
        here = np.flatnonzero((self.side == side) & (self.end > self.begin))
        if not (words and len(here)):
            return owners
        first, last = np.array(words, np.int64).T
        # The first word that ends after the piece begins, and the last that begins before it ends.
        lowest = np.searchsorted(last, self.begin[here], side="right")
        highest = np.searchsorted(first, self.end[here], side="left") - 1
        inside = lowest <= highest
        merged = np.zeros(len(words) + 1, np.int64)
        np.add.at(merged, lowest[inside], 1)
        np.add.at(merged, highest[inside], -1)
        continued = np.cumsum(merged)[: len(words)] > 0
        joined = np.concatenate([[0], np.cumsum(~continued)])[: len(words)]
        owners[here[inside]] = joined[lowest[inside]]
        return owners


def single(pieces: Pieces, texts: Sequence[str]) -> list[Tokens]:
    """Each text with its special pieces, cut at its end."""
    encodings = pieces.tokenizer.encode_batch(list(texts))
    return [_cut(_of(encoding), pieces.max_tokens) for encoding in encodings]


def joined(pieces: Pieces, sources: Sequence[str], targets: Sequence[str]) -> list[Tokens]:
    """Two texts as one sequence; the longer one is cut first.

    By the tokenizer's own template for pairs if it puts something between the two, otherwise as
    start, source, end, target, end.
    """
    if _has_template(pieces):
        pairs = list(zip(sources, targets, strict=True))
        whole = [_of(encoding) for encoding in pieces.tokenizer.encode_batch(pairs)]
    else:
        plain = [
            [
                _of(encoding)
                for encoding in pieces.tokenizer.encode_batch(list(side), add_special_tokens=False)
            ]
            for side in (sources, targets)
        ]
        whole = [_framed(pieces, one, other) for one, other in zip(*plain, strict=True)]
    return [_cut(tokens, pieces.max_tokens) for tokens in whole]


def _has_template(pieces: Pieces) -> bool:
    sides = pieces.tokenizer.encode("a", "a").sequence_ids
    return None in sides[sides.index(0) : sides.index(1)] if {0, 1} <= set(sides) else False


def _of(encoding: Encoding) -> Tokens:
    side = np.array([SPECIAL if s is None else s for s in encoding.sequence_ids], np.int64)
    side[np.array(encoding.special_tokens_mask, np.bool_)] = SPECIAL
    places = np.array(encoding.offsets, np.int64).reshape(-1, 2)
    return Tokens(np.array(encoding.ids, np.int64), side, places[:, 0], places[:, 1], (None, None))


def _framed(pieces: Pieces, source: Tokens, target: Tokens) -> Tokens:
    start, end = _frame(pieces.start), _frame(pieces.end)
    second = Tokens(
        target.ids, np.where(target.side == SPECIAL, SPECIAL, 1), target.begin, target.end,
        target.limits,
    )  # fmt: skip
    parts = [start, source, end, second, end]
    return Tokens(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.side for part in parts]),
        np.concatenate([part.begin for part in parts]),
        np.concatenate([part.end for part in parts]),
        (None, None),
    )


def _frame(piece: int | None) -> Tokens:
    ids = np.array([] if piece is None else [piece], np.int64)
    nowhere = np.zeros_like(ids)
    return Tokens(ids, np.full_like(ids, SPECIAL), nowhere, nowhere, (None, None))


def _cut(tokens: Tokens, max_tokens: int) -> Tokens:
    """Within the limit, special pieces kept; of two texts the longer one loses its end first."""
    sizes = [int((tokens.side == side).sum()) for side in (0, 1)]
    room = max(0, max_tokens - int((tokens.side == SPECIAL).sum()))
    if sum(sizes) <= room:
        return tokens
    shorter = min(*sizes, room // 2)
    kept = [shorter, room - shorter] if sizes[0] < sizes[1] else [room - shorter, shorter]
    keep = tokens.side == SPECIAL
    limits: list[int | None] = [None, None]
    for side in (0, 1):
        places = np.flatnonzero(tokens.side == side)
        keep[places[: kept[side]]] = True
        if kept[side] < sizes[side]:
            limits[side] = int(tokens.end[places[: kept[side]]].max(initial=0))
    return Tokens(
        tokens.ids[keep],
        tokens.side[keep],
        tokens.begin[keep],
        tokens.end[keep],
        (limits[0], limits[1]),
    )
