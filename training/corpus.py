"""A run's training text in memory: distinct texts once, and tables of groups that point into them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.config.batches import TextRole
from training.groups import Links

Ids: TypeAlias = NDArray[np.int64]
NOTHING = -1


@dataclass(frozen=True, slots=True)
class GroupTable:
    """The groups of one data set; numbers of texts are positions in `Corpus.texts`."""

    name: str
    ids: Sequence[str]
    texts: Mapping[TextRole, NDArray[np.int32]]
    """By role, the text of each group in each language of the corpus, [groups, languages];
    NOTHING where there is none."""
    negatives: NDArray[np.int32]
    """Groups of this table that are hard negatives, [groups, most]; NOTHING after the last one."""
    targets: Mapping[TextRole, NDArray[np.int32]]
    """By role, the position in `Corpus.targets` of each group, [groups]; NOTHING where none."""
    links: Mapping[tuple[int, str, str], Links] = field(default_factory=dict)
    """Word links by group number and the two languages of its sentences."""
    sources: Sequence[str] = ()
    """Of each group; of one that several sources share, the first."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A pair that training never sees."""

    language: str
    english: str
    foreign: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """Everything that a run trains on."""

    texts: Sequence[str]
    text_language: Ids
    """Position in `languages` of each text."""
    keys: Ids
    """Equal for texts that differ only in case, width or spacing."""
    languages: Sequence[str]
    """English first."""
    sets: Mapping[str, GroupTable]
    targets: Sequence[Sequence[int]]
    """English texts whose teacher vectors' normalised mean is a target; the groups that have it
    have the texts in roles with one prompt."""
    held_out: Sequence[HeldOut]
    facts: Mapping[str, object]
    """For the run's folder: sources with licence, rows and hash, rows refused, leaks found."""
