"""Retrieval in one language, across two, and in a pool of all: what is asked, and how it is scored.

Ids of queries are the same in every language, so a pair of languages needs no files of its own.
`mono` and `cross` search the candidates of one language; `pool` searches those of all languages at
once, where a relevant candidate of every language counts (LAReQA, Roy et al. 2020).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.types import Matrix
from training import metrics
from training.benchmarks.embedding import Embed
from training.benchmarks.files import ENGLISH, BenchmarkInvalid
from training.results import Cell

Task: TypeAlias = Literal["mono", "cross", "pool"]
Judgements: TypeAlias = Mapping[str, Mapping[str, int]]
"""Query id to relevant document id to grade."""
POOL = "*"


@dataclass(frozen=True, slots=True)
class Texts:
    """The queries or the candidates of one language."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    clusters: tuple[str, ...] = ()
    """Of candidates: what they belong to, e.g. the paragraph of a sentence; their own id if empty."""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """A benchmark in memory."""

    name: str
    queries: Mapping[str, Texts]
    candidates: Mapping[str, Texts]
    relevant: Mapping[str, Judgements]
    """By language of the candidates. A query that is not named there is not asked there."""
    tasks: tuple[Task, ...]
    measures: tuple[str, ...]
    """Of `ndcg@K`, `recall@K`, `map`, `mrr`, `rank_distance` (in pools only); the first is main."""
    with_english: bool = False
    """Of the pairs of two languages, only those with English."""

    def texts(self) -> Iterator[tuple[str, str]]:
        """Everything that is embedded, with its language."""
        for side in (self.queries, self.candidates):
            for language, own in side.items():
                yield from ((language, text) for text in own.texts)

    def cells(self, embed: Embed) -> Iterator[Cell]:
        """Embed, search exhaustively, score."""
        found = {tag: embed(own.texts, "passage") for tag, own in self.candidates.items()}
        asked = {tag: embed(own.texts, "query") for tag, own in self.queries.items()}
        for query_language, candidate_language in self._pairs():
            own = self.candidates[candidate_language]
            yield from self._cell(
                query_language,
                asked[query_language],
                _Setting(
                    "mono" if query_language == candidate_language else "cross",
                    candidate_language,
                    own.ids,
                    found[candidate_language],
                    own.clusters,
                    self.relevant[candidate_language],
                ),
            )
        if "pool" in self.tasks:
            pool = self._pool(found)
            for query_language in self.queries:
                yield from self._cell(query_language, asked[query_language], pool)

    def _pairs(self) -> Iterator[tuple[str, str]]:
        for query_language in self.queries:
            for language in self.candidates:
                same = query_language == language
                wanted = same or not self.with_english or ENGLISH in {query_language, language}
                if wanted and ("mono" if same else "cross") in self.tasks:
                    yield query_language, language

    def _pool(self, found: Mapping[str, Matrix]) -> "_Setting":
        ids: list[str] = []
        clusters: list[str] = []
        relevant: dict[str, dict[str, int]] = {}
        for tag, own in self.candidates.items():
            ids += [f"{tag}:{identity}" for identity in own.ids]
            clusters += own.clusters or own.ids
            for query, grades in self.relevant[tag].items():
                named = {f"{tag}:{identity}": grade for identity, grade in grades.items()}
                relevant.setdefault(query, {}).update(named)
        return _Setting(
            "pool",
            POOL,
            tuple(ids),
            np.concatenate(list(found.values())),
            tuple(clusters),
            relevant,
        )

    def _cell(self, language: str, vectors: Matrix, setting: "_Setting") -> Iterator[Cell]:
        own = self.queries[language]
        rows = [row for row, identity in enumerate(own.ids) if identity in setting.judgements]
        if not rows:
            return
        label = f"{self.name}: queries {language}, candidates {setting.language}"
        numbers, grades = setting.relevant([own.ids[row] for row in rows], label)
        ranks = metrics.ranks_of(vectors[rows], setting.vectors, numbers, setting.order)
        measures = [
            name for name in self.measures if setting.task == "pool" or name != "rank_distance"
        ]
        values = _values(ranks, grades, measures)
        yield Cell(
            self.name,
            setting.task,
            language,
            setting.language,
            metrics.percent(values),
            len(rows),
            values=(values[measures[0]] * 100).astype(np.float32),
            clusters=setting.clusters_of(numbers),
        )


@dataclass(frozen=True)
class _Setting:
    """The candidates of one search, with what is relevant among them."""

    task: Task
    language: str
    ids: tuple[str, ...]
    vectors: Matrix
    clusters: tuple[str, ...]
    judgements: Judgements

    @cached_property
    def order(self) -> NDArray[np.int64]:
        return metrics.order_of(self.ids)

    @cached_property
    def places(self) -> dict[str, int]:
        return {identity: place for place, identity in enumerate(self.ids)}

    def relevant(
        self, queries: Sequence[str], label: str
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The numbers of each query's relevant candidates, and their grades; [queries, most]."""
        most = max(len(self.judgements[query]) for query in queries)
        numbers = np.full((len(queries), most), metrics.NONE, dtype=np.int64)
        grades = np.zeros((len(queries), most), dtype=np.int64)
        for row, query in enumerate(queries):
            judged = self.judgements[query]
            if not judged:
                raise BenchmarkInvalid(f"{label}: query {query!r} has no relevant candidate")
            if missing := [identity for identity in judged if identity not in self.places]:
                raise BenchmarkInvalid(
                    f"{label}: query {query!r} has the relevant candidate {missing[0]!r}, which"
                    " is not in the corpus"
                )
            numbers[row, : len(judged)] = [self.places[identity] for identity in judged]
            grades[row, : len(judged)] = list(judged.values())
        return numbers, grades

    def clusters_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """For each query, a number that it shares with those whose answer is in the same place."""
        names = self.clusters or self.ids
        keys = [
            min(names[number] for number in row if number != metrics.NONE)
            for row in numbers.tolist()
        ]
        places = {key: place for place, key in enumerate(sorted(set(keys)))}
        return np.array([places[key] for key in keys], dtype=np.int64)


def _values(
    ranks: metrics.Ranks, grades: NDArray[np.int64], measures: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    cut = [name for name in measures if "@" in name]
    found = metrics.cut_off(ranks, grades, cut) if cut else {}
    whole = {
        "map": metrics.average_precision,
        "mrr": metrics.reciprocal_rank,
        "rank_distance": metrics.rank_distance,
    }
    return {name: found[name] if name in found else whole[name](ranks) for name in measures}
