"""Which texts of a data set are asked and which can be found, and what is known to belong together."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.config.batches import TextRole
from training.corpus import NOTHING, Corpus, GroupTable, Ids
from training.mining.settings import Mining


class MiningImpossible(ValueError):
    """There is nothing to mine in the data set; the message says what it lacks."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Which texts are asked and which can be found, and what belongs together."""

    queries: NDArray[np.int32]
    """Text that each group asks with, or NOTHING, [groups]."""
    passages: Ids
    """Texts, each distinct one once, in the order of the groups."""
    place: Ids
    """Position in `passages` of each group's own, or NOTHING, [groups]."""
    of_passage: Sequence[NDArray[np.int64]]
    """The groups of each passage, ascending."""
    alike: Mapping[int, Sequence[frozenset[int]]]
    """By group, the passages of sets of groups that ask the same as it; only where there are any."""
    spoken: NDArray[np.bool_]
    """Whether a group asks in each of the languages that are mined for, [groups, languages]."""

    @classmethod
    def of(cls, corpus: Corpus, table: GroupTable, mining: Mining) -> "Pool":
        asking, answering = (_texts(table, role) for role in mining.roles)
        code = {name: number for number, name in enumerate(corpus.languages)}
        wanted = {mining.query_language, mining.passage_language, *mining.languages}
        if unknown := sorted(wanted - code.keys()):
            raise MiningImpossible(
                f"--set {table.name}: there is no text in {', '.join(unknown)}"
                " (--query-language, --passage-language, --languages); it has"
                f" {', '.join(corpus.languages)}"
            )
        found = answering[:, code[mining.passage_language]]
        groups = np.flatnonzero(found != NOTHING)
        _, first, inverse = np.unique(
            corpus.keys[found[groups]], return_index=True, return_inverse=True
        )
        order = np.argsort(first)  # as the groups have them, which is also how ties are broken
        place = np.full(len(table), NOTHING, dtype=np.int64)
        place[groups] = np.argsort(order)[inverse]
        by_place = groups[np.argsort(place[groups], kind="stable")]
        return cls(
            queries=asking[:, code[mining.query_language]],
            passages=found[groups[first[order]]].astype(np.int64),
            place=place,
            of_passage=np.split(by_place, np.cumsum(np.bincount(place[groups]))[:-1]),
            alike=_alike(corpus, asking, place),
            spoken=asking[:, [code[name] for name in mining.languages]] != NOTHING,
        )

    def asked(self) -> Ids:
        """The groups that negatives are mined for."""
        usable = (self.queries != NOTHING) & (self.place != NOTHING)
        if self.spoken.shape[1]:
            usable &= self.spoken.any(1)
        if not usable.any():
            raise MiningImpossible(
                "no group of the data set has a text to ask with, in --query-language (and in one of"
                " --languages), and one to be found, in --passage-language"
            )
        return np.flatnonzero(usable)

    def positives(self, group: int) -> list[int]:
        """The passages that may answer a group's query."""
        return sorted({int(self.place[group])}.union(*self.alike.get(group, ())) - {NOTHING})


def _texts(table: GroupTable, role: TextRole) -> NDArray[np.int32]:
    if role not in table.texts:
        raise MiningImpossible(f"--set {table.name}: no group has a {role} (--roles)")
    return table.texts[role]


def _alike(
    corpus: Corpus, asking: NDArray[np.int32], place: Ids
) -> dict[int, list[frozenset[int]]]:
    """By group, the passages of the groups that ask the same in some language."""
    found: dict[int, list[frozenset[int]]] = defaultdict(list)
    for column in asking.T:
        groups = np.flatnonzero(column != NOTHING)
        keys = corpus.keys[column[groups]]
        order = np.argsort(keys, kind="stable")
        borders = np.flatnonzero(np.diff(keys[order])) + 1
        edges = np.concatenate([[0], borders, [len(groups)]])
        for number in np.flatnonzero(np.diff(edges) > 1):
            run = groups[order[edges[number] : edges[number + 1]]]
            passages = frozenset(place[run].tolist())
            for group in run.tolist():
                found[group].append(passages)
    return dict(found)
