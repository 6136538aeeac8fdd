"""Which rows meet in a batch: languages by temperature, texts of like length, a token budget.

A sampler deals each language's rows as shuffled decks, so that every row is seen equally often
within its language, and cuts length-sorted blocks into batches, so that little is padding. What it
deals depends on the seed and on how far it is, and `position` says how far, so a resumed run
continues with the very batch that the interrupted one would have had.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.config import SourceName, Stage
from training.data import NOTHING, Corpus, Ids, Rows
from training.vocabulary import MASK, SPECIAL, TokenTable

BLOCK_BATCHES = 16


@dataclass(frozen=True, slots=True)
class View:
    """One side of a batch, on the device: tokens, and per row its group and teacher vector."""

    ids: Tensor
    mask: Tensor
    groups: Tensor
    target: Tensor | None


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that meet in one step; `right` is None where the source has one side."""

    source: SourceName
    left: View
    right: View | None


class RowSampler:
    """Deals batches of row numbers of one source, for ever."""

    def __init__(
        self, rows: Rows, lengths: NDArray[np.int64], *, stage: Stage, seed: list[int]
    ) -> None:
        self._lengths = lengths
        self._batch_rows, self._batch_tokens = stage.batch_rows, stage.batch_tokens
        self._seed = seed
        languages = np.unique(rows.language)
        self._decks = [np.flatnonzero(rows.language == language) for language in languages]
        shares = np.array([len(deck) for deck in self._decks]) ** stage.language_exponent
        self._shares = shares / shares.sum()
        self._dealt = np.zeros(len(self._decks), dtype=np.int64)
        self._block, self._next = 0, 0
        self._batches: list[Ids] = []

    def deal(self) -> Ids:
        """The row numbers of the next batch."""
        if self._next >= len(self._batches):
            self._advance()
        batch = self._batches[self._next]
        self._next += 1
        return batch

    @property
    def position(self) -> dict[str, int]:
        """How far the sampler is: complete blocks, and batches of the current one."""
        return {"block": self._block, "next": self._next}

    def seek(self, position: Mapping[str, int]) -> None:
        """Go where another sampler of the same recipe was, from the beginning."""
        for _ in range(position["block"]):
            self._advance(cut=False)
        if self._block:
            self._batches = self._cut(self._rows_of_block)
        self._next = position["next"]

    def _advance(self, *, cut: bool = True) -> None:
        rng = np.random.default_rng([*self._seed, self._block])
        wanted = rng.multinomial(self._batch_rows * BLOCK_BATCHES, self._shares)
        self._rows_of_block = [
            self._from_deck(deck, int(count)) for deck, count in enumerate(wanted) if count
        ]
        self._block += 1
        self._next = 0
        self._batches = self._cut(self._rows_of_block) if cut else []

    def _from_deck(self, deck: int, count: int) -> tuple[int, int, int]:
        start = int(self._dealt[deck])
        self._dealt[deck] += count
        return deck, start, start + count

    def _cut(self, drawn: list[tuple[int, int, int]]) -> list[Ids]:
        rows = np.concatenate([self._slice(*part) for part in drawn])
        rng = np.random.default_rng([*self._seed, self._block, 1])
        rows = rng.permutation(rows)
        rows = rows[np.argsort(self._lengths[rows], kind="stable")]
        batches, stop = [], len(rows)
        while stop > 0:
            longest = int(self._lengths[rows[stop - 1]])
            size = min(self._batch_rows, max(2, self._batch_tokens // longest))
            start = max(0, stop - size)
            batches.append(rows[start:stop])
            stop = start
        if len(batches) > 1 and len(batches[-1]) == 1:  # one row has no negatives
            batches.pop()
        return [batches[i] for i in rng.permutation(len(batches))]

    def _slice(self, deck: int, start: int, stop: int) -> Ids:
        cards, size = self._decks[deck], len(self._decks[deck])
        rounds = range(start // size, (stop - 1) // size + 1)
        shuffled = np.concatenate(
            [
                np.random.default_rng([*self._seed, 2, deck, turn]).permutation(cards)
                for turn in rounds
            ]
        )
        offset = start - rounds.start * size
        return shuffled[offset : offset + stop - start]


class BatchSampler:
    """A stage's batches: draws a source for every step, cuts its rows out of the token table."""

    def __init__(
        self,
        corpus: Corpus,
        table: TokenTable,
        targets: Tensor | None,
        *,
        stage: Stage,
        seed: list[int],
    ) -> None:
        self._table, self._targets = table, targets
        self._seed = seed
        self._dropout = stage.token_dropout
        self._device = table.flat.device
        self._groups = torch.from_numpy(corpus.groups).to(self._device)
        self._sources: list[SourceName] = list(stage.data)
        shares = np.array([stage.data[source] for source in self._sources])
        self._shares = shares / shares.sum()
        lengths = table.lengths.cpu().numpy()
        self._rows = {source: corpus.rows[source] for source in self._sources}
        self._samplers = {
            source: RowSampler(
                rows,
                np.maximum(lengths[rows.left], np.where(rows.right < 0, 0, lengths[rows.right])),
                stage=stage,
                seed=[*seed, place],
            )
            for place, (source, rows) in enumerate(self._rows.items())
        }
        self._lengths = lengths

    @property
    def position(self) -> dict[str, dict[str, int]]:
        return {source: sampler.position for source, sampler in self._samplers.items()}

    def seek(self, position: Mapping[str, Mapping[str, int]]) -> None:
        for source, place in position.items():
            self._samplers[source].seek(place)  # type: ignore[index]  # read from our own state

    def batch(self, step: int) -> Batch:
        """The batch of a step of this stage; steps must be asked for in order."""
        rng = np.random.default_rng([*self._seed, 1_000, step])
        source = self._sources[int(rng.choice(len(self._sources), p=self._shares))]
        rows, chosen = self._rows[source], self._samplers[source].deal()
        left = self._view(rows.left[chosen], rows.left_target[chosen])
        paired = rows.right[chosen[0]] != NOTHING
        right = self._view(rows.right[chosen], rows.right_target[chosen]) if paired else None
        return Batch(source, left, right)

    def _view(self, texts: Ids, targets: Ids) -> View:
        index = torch.from_numpy(texts).to(self._device, non_blocking=True)
        ids, mask = self._table.padded(index, int(self._lengths[texts].max()))
        if self._dropout:
            dropped = torch.rand(ids.shape, device=ids.device) < self._dropout
            ids = torch.where(dropped & (ids >= len(SPECIAL)), SPECIAL.index(MASK), ids)
        target = None
        if self._targets is not None:
            target = self._targets[torch.from_numpy(targets).to(self._device)].float()
        return View(ids, mask, self._groups[index], target)
