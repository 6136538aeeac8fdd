"""Retrieval benchmarks of a data folder, for anything that turns texts into unit vectors.

Bitext accuracy (Tatoeba, NTREX): the share of sentences whose nearest neighbour on the other side
is their translation, in both directions. XQuAD: nDCG@10 of finding the one relevant paragraph of a
question, for every pair of question language and paragraph language. A candidate that scores the
same as the relevant one counts as ranked before it, so no order of the files can flatter a model.

*Why by hand*: with one relevant candidate, nDCG@10 is 1 / log2(1 + rank) down to rank 10.
"""

import csv
import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.types import Matrix, Role
from training.config import Evaluation

Embed: TypeAlias = Callable[[Sequence[str], Role], Matrix]
DEPTH = 10


class BenchmarkMissing(ValueError):
    """A benchmark of the recipe is not in the data folder; the message names the file."""


@dataclass(frozen=True, slots=True)
class Scores:
    """All cells, in percent: `bitext[set][language]`, and `xquad[question][paragraph]`."""

    bitext: dict[str, dict[str, float]] = field(default_factory=dict)
    xquad: dict[str, dict[str, float]] = field(default_factory=dict)

    def summary(self) -> dict[str, float]:
        """Macro-averages over languages; `xquad_cross` is over the pairs of two languages."""
        means = {name: _mean(list(cells.values())) for name, cells in self.bitext.items()}
        same = [row[language] for language, row in self.xquad.items()]
        cross = [v for q, row in self.xquad.items() for p, v in row.items() if p != q]
        if same:
            means["xquad_same"] = _mean(same)
        if cross:
            means["xquad_cross"] = _mean(cross)
        return {name: round(value, 2) for name, value in means.items()}

    def as_json(self) -> dict[str, object]:
        return {"summary": self.summary(), "bitext": self.bitext, "xquad": self.xquad}


def evaluate(embed: Embed, folder: Path, options: Evaluation) -> Scores:
    """Run every benchmark that the recipe names.

    Raises:
        BenchmarkMissing: a file is not there.
    """
    scores = Scores()
    if options.ntrex:
        english = _ntrex(folder, "eng")
        scores.bitext["ntrex"] = {
            language: bitext_accuracy(
                embed(english, "passage"), embed(_ntrex(folder, code), "passage")
            )
            for language, code in options.ntrex.items()
        }
    if options.tatoeba:
        scores.bitext["tatoeba"] = {}
        for language, code in options.tatoeba.items():
            rows = _table(folder / "tatoeba" / f"{code}.tsv.gz")
            left = embed([row["english"] for row in rows], "passage")
            right = embed([row["foreign"] for row in rows], "passage")
            scores.bitext["tatoeba"][language] = bitext_accuracy(left, right)
    if options.xquad:
        scores.xquad.update(_xquad(embed, folder / "xquad", options.xquad))
    return scores


def bitext_accuracy(left: Matrix, right: Matrix) -> float:
    """Percent of rows whose translation is nearest, the mean of both directions."""
    similarities = left @ right.T
    ranks = [_ranks(scores, np.arange(len(scores))) for scores in (similarities, similarities.T)]
    return round(100.0 * float(np.mean([rank == 1 for rank in ranks])), 2)


def bitext_ndcg(left: Matrix, right: Matrix) -> float:
    """nDCG@10 in percent of finding each row's translation, the mean of both directions."""
    own = np.arange(len(left))
    return round((ndcg(left, right, own) + ndcg(right, left, own)) / 2, 2)


def ndcg(queries: Matrix, corpus: Matrix, relevant: NDArray[np.int64]) -> float:
    """nDCG@10 in percent, where query i has the one relevant candidate `relevant[i]`."""
    ranks = _ranks(queries @ corpus.T, relevant)
    gains = np.where(ranks <= DEPTH, 1.0 / np.log2(1.0 + ranks), 0.0)
    return round(100.0 * float(gains.mean()), 2)


def _ranks(scores: Matrix, relevant: NDArray[np.int64]) -> NDArray[np.int64]:
    own = np.take_along_axis(scores, relevant[:, None], axis=1)
    ranks: NDArray[np.int64] = (scores >= own).sum(axis=1)
    return ranks


def _xquad(embed: Embed, folder: Path, languages: Sequence[str]) -> dict[str, dict[str, float]]:
    wanted = {row["query-id"]: row["corpus-id"] for row in _table(folder / "qrels.tsv")}
    questions, paragraphs, numbers = {}, {}, {}
    for language in languages:
        rows = _objects(folder / f"queries.{language}.jsonl.gz")
        corpus = _objects(folder / f"corpus.{language}.jsonl.gz")
        places = {row["_id"]: place for place, row in enumerate(corpus)}
        numbers[language] = [wanted[row["_id"]] for row in rows]
        questions[language] = embed([row["text"] for row in rows], "query")
        paragraphs[language] = (embed([row["text"] for row in corpus], "passage"), places)
    return {
        asked: {
            found: ndcg(
                questions[asked],
                vectors,
                np.array([places[identity] for identity in numbers[asked]], dtype=np.int64),
            )
            for found, (vectors, places) in paragraphs.items()
        }
        for asked in languages
    }


def _ntrex(folder: Path, code: str) -> list[str]:
    return [row["text"] for row in _table(folder / "ntrex" / f"{code}.tsv.gz")]


def _text(path: Path) -> list[str]:
    try:
        if path.suffix == ".gz":
            return gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
        return path.read_text("utf-8").split("\n")
    except OSError as error:
        raise BenchmarkMissing(f"{path}: {error.strerror or error}") from error


def _table(path: Path) -> list[dict[str, str]]:
    lines = [line for line in _text(path) if line]
    return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def _objects(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in _text(path) if line]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
