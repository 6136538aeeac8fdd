"""A dealer: rows of some decks, drawn a block at a time, cut into batches of texts of like length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from training.config.batches import ENGLISH, TextRole
from training.config.recipe import Stage
from training.corpus import NOTHING, Corpus, GroupTable, Ids
from training.samplers.decks import Deck
from training.samplers.layout import Layout, NothingToDeal

BLOCK, ROUND = 1, 2
"""Begin the seeds of what is drawn for a block and for a round of a deck."""
BLOCK_BATCHES = 32
EVEN = 8
"""A batch that the token budget makes smaller has a multiple of so many rows if it can."""
SMALLEST = 2
"""Rows of a batch: one alone would have no negatives."""
PATIENCE = 1000
"""Blocks without a single batch, after which the rows are taken never to fit together."""

Lengths: TypeAlias = Mapping[TextRole, Ids]
"""By role, the pieces of each text of the corpus, [texts]."""


class Position(TypedDict):
    """How far a dealer is."""

    block: int
    """Blocks that were opened."""
    next: int
    """Batches of the open block that were dealt."""
    dealt: list[int]
    """Rows of each deck that were drawn for the blocks before."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The rows of one batch over all processes; all arrays have a number a row."""

    set: str
    kind: str
    """As in the recipe; a batch of `hybrid` is `mono` or `cross`."""
    feed: int
    """Which of the stage's `batches` it is of."""
    texts: Mapping[str, Ids]
    """By view, positions in `Corpus.texts`."""
    groups: Mapping[str, Ids]
    """By view, the groups of the data set that the texts are from."""
    roles: Mapping[str, TextRole]
    """By view, the role of the texts."""

    def __len__(self) -> int:
        return len(next(iter(self.texts.values())))


@dataclass(frozen=True, slots=True)
class Budget:
    """How large a batch may be."""

    rows: int
    tokens: int
    processes: int = 1
    """Every batch is trimmed to a multiple of so many rows. Batches are cut as for one process, so
    that any number of processes trains on the same ones, but for the trimmed rows."""
    stage: str = ""
    """Whose it is."""

    @classmethod
    def of(cls, stage: Stage, processes: int) -> "Budget":
        """The budget of a stage.

        Raises:
            NothingToDeal: there are more processes than rows.
        """
        if stage.rows < processes:
            raise NothingToDeal(
                f"stage {stage.name!r}: rows = {stage.rows} cannot be shared by {processes}"
                " processes; raise rows"
            )
        return cls(stage.rows, stage.tokens, processes, stage.name)

    @property
    def least(self) -> int:
        """Rows of the smallest batch."""
        return max(SMALLEST, self.processes)

    def size(self, longest: int) -> int:
        """Rows of a batch whose longest text has so many pieces; two, however long they are."""
        fits = min(self.rows, self.tokens // longest)
        if EVEN < fits < self.rows:
            fits -= fits % EVEN
        return max(SMALLEST, fits)

    def trimmed(self, rows: Ids) -> Ids:
        """The rows that can be shared evenly; none if there are fewer than processes."""
        return rows[: len(rows) - len(rows) % self.processes]

    def cut(self, lengths: Ids, labels: Ids) -> list[Ids]:
        """Batches of row numbers, longest texts first; no two rows of a batch share a label.

        Rows that conflict wait for a later batch; what fits in none is left out, and so is a
        remainder of less than half a batch: its rows would have few negatives, and count as much.

        Args:
            lengths: Pieces of the longest text of each row, [rows], falling.
            labels: What must differ from row to row, [rows, any number].
        """
        batches: list[Ids] = []
        waiting = np.arange(len(lengths))
        while len(waiting):
            size = self.size(int(lengths[waiting[0]]))
            chosen, waiting = _distinct(waiting, labels, size)
            if len(chosen) < SMALLEST:  # all others conflict with it
                break
            if batches and 2 * len(chosen) < size:
                break
            batches.append(chosen)
        return batches


class Dealer:
    """Deals the batches of one layout out of some decks of one data set, for ever."""

    def __init__(
        self,
        corpus: Corpus,
        table: GroupTable,
        layout: Layout,
        decks: Sequence[Deck],
        *,
        exponent: float,
        lengths: Lengths,
        budget: Budget,
        feed: int,
        seed: list[int],
    ) -> None:
        self._corpus, self._table, self._layout = corpus, table, layout
        self._decks = decks
        self._lengths = lengths
        self._budget = budget
        self._feed = feed
        self._seed = seed
        sizes = np.array([len(deck.groups) for deck in decks])
        self._shares = sizes**exponent / (sizes**exponent).sum()
        # A small set is in a block about once: the same groups again would only wait for each other.
        once = max(int(sizes.max()), min(budget.rows, int(sizes.sum())))
        self._block_rows = min(budget.rows * BLOCK_BATCHES, once)
        self._roles = layout.roles()
        self._shuffled: dict[int, tuple[int, NDArray[np.int32]]] = {}
        self._start()

    def deal(self) -> Plan:
        """The next batch.

        Raises:
            NothingToDeal: no rows ever fit together.
        """
        most = 1
        for _ in range(PATIENCE):
            while self._next < len(self._batches):
                rows = self._batches[self._next]
                most = max(most, len(rows))
                self._next += 1
                if len(rows := self._budget.trimmed(rows)):
                    return self._plan(rows)
            self._open(self._block + 1, self._before + self._drawn)
        raise NothingToDeal(self._refusal(most))

    @property
    def position(self) -> Position:
        return {"block": self._block, "next": self._next, "dealt": self._before.tolist()}

    def seek(self, position: Position) -> None:
        """Go where another dealer of the same rows was."""
        self._start()
        if position["block"]:
            self._open(position["block"], np.array(position["dealt"], dtype=np.int64))
        self._next = position["next"]

    def _refusal(self, most: int) -> str:
        """Why nothing can be dealt where no more than `most` rows ever fit together."""
        budget, there = self._budget, sum(len(deck.groups) for deck in self._decks)
        if most >= SMALLEST:
            change = f"raise tokens or start fewer than {budget.processes} processes"
        elif self._block_rows < there:
            change = (
                f"raise rows, which draws more than {self._block_rows} rows at a time, or give the"
                " set more distinct texts"
            )
        else:
            change = "give the set more distinct texts, or leave it out of the stage's data"
        return (
            f"stage {budget.stage!r}, {self._layout.kind!r} batches of the data set"
            f" {self._table.name!r}: rows = {budget.rows} asks for up to {budget.rows} rows, and at"
            f" least {budget.least}, with all different groups and texts, and of its {there} rows"
            f" no more than {most} go together within tokens = {budget.tokens}; {change}"
        )

    def _start(self) -> None:
        self._block, self._next = 0, 0
        self._before = np.zeros(len(self._decks), dtype=np.int64)
        self._drawn = self._before
        self._batches: list[Ids] = []

    def _open(self, block: int, before: Ids) -> None:
        """Draw a block: it depends on its number and on what was dealt before, and on nothing else."""
        rng = np.random.default_rng([BLOCK, *self._seed, block])
        drawn = rng.multinomial(self._block_rows, self._shares)
        parts = [
            self._cards(deck, int(before[deck]), count)
            for deck, count in enumerate(drawn.tolist())
            if count
        ]
        order = rng.permutation(self._block_rows)
        groups = np.concatenate(parts)[order].astype(np.int64)
        pairs = np.array([deck.languages for deck in self._decks])
        first, second = np.repeat(pairs, drawn, axis=0)[order].T
        texts, origins = self._rows(groups, (first, second), rng)
        lengths = np.stack([self._lengths[self._roles[view]][texts[view]] for view in texts])
        longest = lengths.sum(0) if self._layout.joined else lengths.max(0)
        order = np.argsort(-longest, kind="stable")
        self._texts = {view: column[order] for view, column in texts.items()}
        self._groups = {view: column[order] for view, column in origins.items()}
        batches = self._budget.cut(longest[order], self._labels(groups[order]))
        self._batches = [batches[place] for place in rng.permutation(len(batches))]
        self._block, self._before, self._drawn, self._next = block, before, drawn, 0

    def _labels(self, groups: Ids) -> Ids:
        """What no two rows of a batch may share, [rows, any number]: group, texts, and English.

        A second translation of a sentence is in a group of its own; where neither row shows the
        English, only the English of their groups tells that they mean the same.
        """
        keys = [self._corpus.keys[self._texts[view]] for view in self._layout.own]
        english = self._corpus.languages.index(ENGLISH)
        meanings = []
        for role in {role for role, _ in self._layout.own.values()}:
            texts = self._table.texts[role][groups, english]
            alone = NOTHING - 1 - groups  # unlike any other
            meanings.append(np.where(texts == NOTHING, alone, self._corpus.keys[texts]))
        return np.stack([groups, *keys, *meanings], axis=1)

    def _rows(
        self, groups: Ids, languages: tuple[Ids, Ids], rng: np.random.Generator
    ) -> tuple[dict[str, Ids], dict[str, Ids]]:
        """By view, the texts of the rows and the groups that they are from."""
        layout, table = self._layout, self._table

        def of(view: str, chosen: Ids) -> Ids:
            role, side = layout.own[view]
            return table.texts[role][chosen, languages[side]].astype(np.int64)

        texts = {view: of(view, groups) for view in layout.own}
        origins = dict.fromkeys(layout.own, groups)
        if layout.negatives:
            fits = layout.fitting_negatives(self._corpus, table, groups, languages)
            drawn = np.where(fits, rng.random(fits.shape), 2.0)
            places = np.argsort(drawn, axis=1)[:, : layout.negatives]
            chosen = np.take_along_axis(table.negatives[groups], places, axis=1).astype(np.int64)
            for prefix, view in layout.hard.items():
                for k in range(layout.negatives):
                    texts[f"{prefix}{k}"] = of(view, chosen[:, k])
                    origins[f"{prefix}{k}"] = chosen[:, k]
        return texts, origins

    def _cards(self, deck: int, start: int, count: int) -> NDArray[np.int32]:
        """Cards of a deck that is shuffled anew each round, so that each comes equally often."""
        parts, size = [], len(self._decks[deck].groups)
        while count:
            turn, offset = divmod(start, size)
            part = self._round(deck, turn)[offset : offset + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(parts)

    def _round(self, deck: int, turn: int) -> NDArray[np.int32]:
        known = self._shuffled.get(deck)
        if known is None or known[0] != turn:
            rng = np.random.default_rng([ROUND, *self._seed, deck, turn])
            known = self._shuffled[deck] = turn, rng.permutation(self._decks[deck].groups)
        return known[1]

    def _plan(self, rows: Ids) -> Plan:
        return Plan(
            set=self._table.name,
            kind=self._layout.kind,
            feed=self._feed,
            texts={view: column[rows] for view, column in self._texts.items()},
            groups={view: column[rows] for view, column in self._groups.items()},
            roles=self._roles,
        )


def _distinct(waiting: Ids, labels: Ids, size: int) -> tuple[Ids, Ids]:
    """The first `size` rows without a common label, and the rest, both in order."""
    head = waiting[:size]
    ordered = np.sort(labels[head], axis=0)
    if not (ordered[1:] == ordered[:-1]).any():
        return head, waiting[size:]
    seen: set[tuple[int, int]] = set()
    taken = np.zeros(len(waiting), dtype=np.bool_)
    found = 0
    for place, values in enumerate(labels[waiting].tolist()):
        own = list(enumerate(values))
        if seen.isdisjoint(own):
            seen.update(own)
            taken[place] = True
            found += 1
            if found == size:
                break
    return waiting[taken], waiting[~taken]
