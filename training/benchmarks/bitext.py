"""Bitext retrieval: each sentence's translation must be the nearest of all on the other side.

Tatoeba and MKQA (`LANG.tsv`: `english`, `foreign`), NTREX (`LANG.tsv`: `id`, `text`) and FLORES
(`dev/LANG.dev`, one sentence a line). Both directions of a pair are cells of their own; `accuracy`
is the share of nearest neighbours by cosine that are right (XTREME), `margin_accuracy` the same by
the ratio margin, and `xsim` its error rate as LASER reports it. MKQA matches translated questions.
Both sides have the query's prompt, as the sentences of training have: they are alike in role.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from service.types import Matrix, Role
from training import metrics
from training.benchmarks.embedding import Embed
from training.benchmarks.files import (
    ENGLISH,
    BenchmarkInvalid,
    by_language,
    chosen,
    lines,
    rows,
)
from training.config.evaluation import Benchmark
from training.results import Cell

ROLE: Role = "query"


@dataclass(frozen=True, slots=True)
class Pair:
    """Translations line by line; `clusters` names what lines belong together, e.g. documents."""

    left: str
    right: str
    left_texts: tuple[str, ...]
    right_texts: tuple[str, ...]
    ids: tuple[str, ...]
    clusters: tuple[str, ...] = ()

    def turned(self) -> "Pair":
        """The same pair in the other direction."""
        return replace(
            self,
            left=self.right,
            right=self.left,
            left_texts=self.right_texts,
            right_texts=self.left_texts,
        )


@dataclass(frozen=True, slots=True)
class Bitext:
    """All pairs of languages of a benchmark."""

    name: str
    pairs: tuple[Pair, ...]

    def texts(self) -> Iterator[tuple[str, str]]:
        """Everything that is embedded, with its language."""
        seen: set[tuple[str, str]] = set()
        for pair in self.pairs:
            for language, texts in ((pair.left, pair.left_texts), (pair.right, pair.right_texts)):
                for text in texts:
                    if (language, text) not in seen:
                        seen.add((language, text))
                        yield language, text

    def cells(self, embed: Embed) -> Iterator[Cell]:
        """Embed and match, each pair in both directions."""
        for pair in self.pairs:
            left = embed(pair.left_texts, ROLE)
            right = embed(pair.right_texts, ROLE)
            yield self._cell(pair, left, right)
            yield self._cell(pair.turned(), right, left)

    def _cell(self, pair: Pair, left: Matrix, right: Matrix) -> Cell:
        right_by_cosine = metrics.nearest_is_own(left, right, metrics.order_of(pair.ids))
        right_by_margin = metrics.margins(left, right)[1] == np.arange(len(left))
        values = {
            "accuracy": right_by_cosine.astype(np.float64),
            "margin_accuracy": right_by_margin.astype(np.float64),
            "xsim": 1.0 - right_by_margin,
        }
        keys = pair.clusters or pair.ids
        places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        return Cell(
            self.name,
            "bitext",
            pair.left,
            pair.right,
            metrics.percent(values),
            len(left),
            values=(values["accuracy"] * 100).astype(np.float32),
            clusters=np.array([places[key] for key in keys], dtype=np.int64),
        )


def read_with_english(benchmark: Benchmark, folder: Path) -> Bitext:
    """Tatoeba and MKQA: every file holds one language with its English."""
    found = chosen(
        by_language(folder / benchmark.place, "", ".tsv"),
        tuple(language for language in benchmark.languages if language != ENGLISH),
    )
    pairs = []
    for language, path in found.items():
        records = list(rows(path, "english", "foreign"))
        if not records:
            raise BenchmarkInvalid(f"{path}: is empty")
        ids = tuple(row.get("id") or f"{number:09}" for number, row in enumerate(records))
        english = tuple(row["english"] for row in records)
        foreign = tuple(row["foreign"] for row in records)
        pairs.append(Pair(language, ENGLISH, foreign, english, ids))
    return Bitext(benchmark.label, tuple(pairs))


def read_ntrex(benchmark: Benchmark, folder: Path) -> Bitext:
    """NTREX: a file a language, joined by id; sentences of a document belong together."""
    found = chosen(by_language(folder / benchmark.place, "", ".tsv"), benchmark.languages)
    sides: dict[str, dict[str, str]] = {}
    documents: dict[str, str] = {}
    for language, path in found.items():
        records = list(rows(path, "id", "text"))
        sides[language] = {row["id"]: row["text"] for row in records}
        documents.update((row["id"], row["doc"]) for row in records if "doc" in row)
        if len(sides[language]) < len(records):
            raise BenchmarkInvalid(f"{path}: an id occurs twice")
    return _joined(benchmark, folder / benchmark.place, sides, documents)


def read_flores(benchmark: Benchmark, folder: Path) -> Bitext:
    """FLORES: `SPLIT/LANG.SPLIT`, a sentence a line (the split is `devtest` if none is named)."""
    split = benchmark.split or "devtest"
    place = folder / benchmark.place / split
    found = chosen(by_language(place, "", f".{split}"), benchmark.languages)
    sides = {
        language: {f"{number:06}": text for number, text in enumerate(lines(path))}
        for language, path in found.items()
    }
    return _joined(benchmark, place, sides, {})


def _joined(
    benchmark: Benchmark,
    place: Path,
    sides: Mapping[str, Mapping[str, str]],
    documents: Mapping[str, str],
) -> Bitext:
    languages = list(sides)
    wanted = [
        (left, right)
        for number, left in enumerate(languages)
        for right in languages[number + 1 :]
        if benchmark.pairs == "all" or ENGLISH in {left, right}
    ]
    if not wanted:
        raise BenchmarkInvalid(
            f"{place}: no pair of languages among {', '.join(languages)}"
            f" (pairs = {benchmark.pairs!r})"
        )
    pairs = []
    for one, other in wanted:
        left, right = (other, one) if one == ENGLISH else (one, other)
        if sides[left].keys() != sides[right].keys():
            raise BenchmarkInvalid(f"{place}: {left} and {right} do not hold the same sentences")
        ids = tuple(sides[left])
        pairs.append(
            Pair(
                left,
                right,
                tuple(sides[left][identity] for identity in ids),
                tuple(sides[right][identity] for identity in ids),
                ids,
                tuple(documents[identity] for identity in ids) if documents else (),
            )
        )
    return Bitext(benchmark.label, tuple(pairs))
