"""Decks: for every pair of languages, the groups of a data set that a row can be made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.config.batches import Batches, TextRole
from training.corpus import NOTHING, Corpus, GroupTable, Ids
from training.samplers.layout import Layout, NothingToDeal

Usable: TypeAlias = Callable[[Ids, Ids], NDArray[np.bool_]]
"""Of source and target texts, the rows that word views can be made of."""
FEW = 256
"""Groups of a deck that are looked at first, when some distinct ones are wanted."""


@dataclass(frozen=True, slots=True)
class Deck:
    """Groups that make a row in these two languages, given by number."""

    groups: NDArray[np.int32]
    languages: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Found:
    """The decks of one data set that batches can be dealt from."""

    decks: Sequence[Deck]
    left_out: int
    """Rows whose texts are there, but not what the stage's methods need of them."""

    @property
    def groups(self) -> int:
        """Distinct groups among the decks."""
        seen = np.zeros(1 + max(int(deck.groups.max()) for deck in self.decks), dtype=np.bool_)
        for deck in self.decks:
            seen[deck.groups] = True
        return int(seen.sum())


def find_decks(
    corpus: Corpus,
    table: GroupTable,
    layout: Layout,
    batches: Batches,
    *,
    least: int,
    taught: bool = False,
    usable: Usable | None = None,
) -> Found:
    """The decks of a data set, without those (or all) that cannot fill a batch of `least` rows.

    Args:
        corpus: Where the texts are.
        table: The data set.
        layout: What a row is made of.
        batches: Says which languages are taken.
        least: Rows of the smallest batch.
        taught: Whether a text of a row must have a teacher's vector.
        usable: Which source and target texts word views can be made of; None takes all.

    Raises:
        NothingToDeal: a language is not in the corpus.
    """
    roles = {role for role, _ in layout.own.values()}
    if not roles <= table.texts.keys():
        return Found([], 0)
    here = {role: np.ascontiguousarray((table.texts[role] != NOTHING).T) for role in roles}
    enough = _Negatives(corpus, table, layout)
    numbers = _languages(corpus, batches)
    decks, left_out = [], 0
    for pair in ((a, b) for a in numbers for b in numbers if layout.pairs(a, b)):
        fits = np.ones(len(table), dtype=np.bool_)
        for role, side in layout.own.values():
            fits &= here[role][pair[side]]
        if layout.negatives and fits.any():
            fits &= enough.of(pair)
        groups = np.flatnonzero(fits)
        kept = groups[_taught(table, layout, groups)] if taught else groups
        if usable is not None and len(kept):
            (one, first), (other, second) = layout.own.values()
            sources = table.texts[one][kept, pair[first]].astype(np.int64)
            targets = table.texts[other][kept, pair[second]].astype(np.int64)
            kept = kept[usable(sources, targets)]
        left_out += len(groups) - len(kept)
        if len(kept):
            decks.append(Deck(kept.astype(np.int32), pair))
    hands = [[deck] for deck in decks] if layout.one_language else [decks]
    full = [hand for hand in hands if _fill(corpus, table, layout, (hand, least))]
    return Found([deck for hand in full for deck in hand], left_out)


def refusal(table: GroupTable, layout: Layout, batches: Batches, left_out: int) -> str:
    """Why a data set is refused for batches of this layout."""
    needed = ", ".join(f"{view} (a {role})" for view, (role, _) in layout.own.items())
    reason = (
        f"{layout.kind!r} batches find too few rows among the {len(table)} groups of the data set"
        f" {table.name!r}; they need {needed}; languages: {', '.join(batches.languages) or 'all'}"
    )
    if layout.negatives:
        named = (table.negatives != NOTHING).sum(1)
        reason += (
            f"; negatives = {layout.negatives}, but the set names {int(named.sum())} hard negatives,"
            f" at most {int(named.max(initial=0))} a group, of which only those count that have all"
            " these texts: mine more, or lower negatives"
        )
    if left_out:
        reason += f"; {left_out} rows lack the teacher's vector or linked words"
    return reason


class _Negatives:
    """Which groups have enough negatives in a pair of languages; looked up once a language."""

    def __init__(self, corpus: Corpus, table: GroupTable, layout: Layout) -> None:
        self._corpus, self._table, self._layout = corpus, table, layout
        self._sides = sorted({layout.own[view][1] for view in layout.hard.values()})
        self._named = np.flatnonzero((table.negatives != NOTHING).sum(1) >= layout.negatives)
        self._known: dict[tuple[int, ...], NDArray[np.bool_]] = {}

    def of(self, pair: tuple[int, int]) -> NDArray[np.bool_]:
        key = tuple(pair[side] for side in self._sides)
        if key not in self._known:
            groups = self._named
            for view in self._layout.hard.values():
                role, side = self._layout.own[view]
                groups = groups[self._table.texts[role][groups, pair[side]] != NOTHING]
            first, second = (np.full(len(groups), language) for language in pair)
            fits = self._layout.fitting_negatives(
                self._corpus, self._table, groups, (first, second)
            )
            found = np.zeros(len(self._table), dtype=np.bool_)
            found[groups] = fits.sum(1) >= self._layout.negatives
            self._known[key] = found
        return self._known[key]


def _languages(corpus: Corpus, batches: Batches) -> list[int]:
    known = {code: number for number, code in enumerate(corpus.languages)}
    if unknown := [code for code in batches.languages if code not in known]:
        raise NothingToDeal(
            f"{batches.kind!r} batches: languages names {', '.join(unknown)}, which the corpus does"
            f" not have; it has {', '.join(corpus.languages)}"
        )
    return [known[code] for code in batches.languages] or list(known.values())


def _taught(table: GroupTable, layout: Layout, groups: Ids) -> NDArray[np.bool_]:
    found = np.zeros(len(groups), dtype=np.bool_)
    for role, _ in layout.own.values():
        if role in table.targets:
            found |= table.targets[role][groups] != NOTHING
    return found


def _fill(
    corpus: Corpus, table: GroupTable, layout: Layout, hand: tuple[Sequence[Deck], int]
) -> bool:
    """Whether some decks have so many distinct groups, and as many distinct texts in every view."""

    def texts(role: TextRole, side: int, deck: Deck, limit: int | None) -> Ids:
        keys: Ids = corpus.keys[table.texts[role][deck.groups[:limit], deck.languages[side]]]
        return keys

    decks, least = hand
    columns = [lambda deck, limit: deck.groups[:limit]]
    columns += [partial(texts, *place) for place in layout.own.values()]
    return all(_has_distinct(decks, column, least) for column in columns)


def _has_distinct(
    decks: Sequence[Deck], column: Callable[[Deck, int | None], Ids], least: int
) -> bool:
    seen: set[int] = set()
    for limit in (FEW, None):  # only a set of nothing but repetitions is read to its end
        for deck in decks:
            seen.update(column(deck, limit).tolist())
            if len(seen) >= least:
                return True
    return False
