"""Kinds of batches as data: which text of a group stands in which view, in which pairs of languages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.config.batches import (
    Batches,
    Bridged,
    Cross,
    HybridBatches,
    MixedRows,
    Mono,
    Single,
    TextRole,
    Translation,
    Words,
)
from training.corpus import NOTHING, Corpus, GroupTable, Ids

FIRST, SECOND = 0, 1
"""The languages of a row, which are the same one in `mono`, `mixed_rows` and `single` batches."""
Place: TypeAlias = tuple[TextRole, int]
"""A text of a group by role and by FIRST or SECOND language of the row."""
Pairs: TypeAlias = Callable[[int, int], bool]


class NothingToDeal(ValueError):
    """A stage's batches cannot be made of the corpus; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a row is made of, and which languages it may have."""

    kind: str
    own: Mapping[str, Place]
    """By view, the text of the row's own group."""
    pairs: Pairs
    """Whether two languages, by number, may be the first and the second of a row."""
    hard: Mapping[str, str] = field(default_factory=dict)
    """By prefix of the views of hard negatives, the own view whose role and language they have."""
    negatives: int = 0
    one_language: bool = False
    """Whether a batch keeps to one pair of languages."""
    joined: bool = False
    """Whether the texts of a row become one sequence."""

    def roles(self) -> dict[str, TextRole]:
        """The role of each view's texts."""
        hard = {
            f"{prefix}{k}": self.own[view][0]
            for prefix, view in self.hard.items()
            for k in range(self.negatives)
        }
        return {name: role for name, (role, _) in self.own.items()} | hard

    def fitting_negatives(
        self, corpus: Corpus, table: GroupTable, groups: Ids, languages: tuple[Ids, Ids]
    ) -> NDArray[np.bool_]:
        """Which of the groups that each row's group names can be its negatives, [rows, most].

        They must have all texts that are needed, and none that is alike to the row's own.
        """
        named = table.negatives[groups]
        fits: NDArray[np.bool_] = (named != NOTHING) & (named != groups[:, None])
        for view in self.hard.values():
            role, side = self.own[view]
            texts, language = table.texts[role], languages[side]
            theirs = texts[named, language[:, None]]
            own = corpus.keys[texts[groups, language]]
            fits &= (theirs != NOTHING) & (corpus.keys[theirs] != own[:, None])
        return fits


def layouts(batches: Batches, languages: Sequence[str]) -> list[tuple[Layout, float]]:
    """The layouts of a feed, each with the probability that a batch has it.

    Raises:
        NothingToDeal: the pivot is no language of the corpus.
    """
    match batches:
        case Mono():
            return [(_paired(batches, "mono", _same, one_language=True), 1.0)]
        case MixedRows():
            return [(_paired(batches, "mixed_rows", _same), 1.0)]
        case Cross():
            return [(_paired(batches, "cross", _differ(batches.pivot, languages)), 1.0)]
        case HybridBatches():
            mono = _paired(batches, "mono", _same, one_language=True)
            cross = _paired(batches, "cross", _differ(batches.pivot, languages))
            both = [(mono, batches.alpha), (cross, 1 - batches.alpha)]
            return [(layout, probability) for layout, probability in both if probability]
        case Bridged():
            return [(_bridged(batches, languages), 1.0)]
        case Single():
            return [(Layout("single", {"query": (batches.role, FIRST)}, _same), 1.0)]
        case Words() | Translation():
            return [(_translated(batches, languages), 1.0)]


def _paired(
    batches: Mono | Cross | MixedRows | HybridBatches,
    kind: str,
    pairs: Pairs,
    *,
    one_language: bool = False,
) -> Layout:
    anchor, positive = batches.roles
    return Layout(
        kind=kind,
        own={"query": (anchor, FIRST), "positive": (positive, SECOND)},
        pairs=pairs,
        hard={"negative": "positive"},
        negatives=batches.negatives,
        one_language=one_language,
    )


def _bridged(batches: Bridged, languages: Sequence[str]) -> Layout:
    return Layout(
        kind="bridged",
        own={
            "query": ("query", FIRST),
            "positive": ("passage", FIRST),
            "cross_query": ("query", SECOND),
        },
        pairs=_out_of(batches.pivot, languages),
        hard={"negative": "positive", "cross_negative": "cross_query"},
        negatives=batches.negatives,
    )


def _translated(batches: Words | Translation, languages: Sequence[str]) -> Layout:
    return Layout(
        kind=batches.kind,
        own={"source": ("sentence", FIRST), "target": ("sentence", SECOND)},
        pairs=_out_of(batches.pivot, languages),
        joined=isinstance(batches, Translation),
    )


def _same(first: int, second: int) -> bool:
    return first == second


def _differ(pivot: str | None, languages: Sequence[str]) -> Pairs:
    if pivot is None:
        return lambda first, second: first != second
    number = _number(pivot, languages)
    return lambda first, second: first != second and number in {first, second}


def _out_of(pivot: str, languages: Sequence[str]) -> Pairs:
    number = _number(pivot, languages)
    return lambda first, second: first == number != second


def _number(pivot: str, languages: Sequence[str]) -> int:
    if pivot not in languages:
        raise NothingToDeal(f"pivot = {pivot!r}: the corpus has only {', '.join(languages)}")
    return list(languages).index(pivot)
