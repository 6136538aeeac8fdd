"""BUCC bitext mining: find the translations hidden in two monolingual corpora.

The official layout: `XX-en/XX-en.SPLIT.XX`, `….en` (id, tab, text) and `….gold` (id, tab, id).
Pairs are scored by the ratio margin in both directions, taken one to one from the best on, and kept
above the threshold that has the best F1 on the `training` part (Artetxe and Schwenk 2019,
arXiv 1811.01136). This is not mteb's BUCC, which embeds the gold sentences alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training import metrics
from training.benchmarks.embedding import Embed
from training.benchmarks.files import ENGLISH, BenchmarkInvalid, BenchmarkMissing, iso, lines
from training.config.evaluation import Benchmark
from training.results import Cell

TUNED_ON = "training"


@dataclass(frozen=True, slots=True)
class Corpora:
    """Two monolingual corpora, and the pairs of row numbers that are translations."""

    left: tuple[str, ...]
    right: tuple[str, ...]
    gold: frozenset[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Mining:
    """The language pairs of the benchmark: each with the part tuned on and the part measured."""

    name: str
    pairs: dict[str, tuple[Corpora, Corpora]]

    def texts(self) -> Iterator[tuple[str, str]]:
        """Everything that is embedded, with its language."""
        for language, parts in self.pairs.items():
            for part in parts:
                yield from ((language, text) for text in part.left)
                yield from ((ENGLISH, text) for text in part.right)

    def cells(self, embed: Embed) -> Iterator[Cell]:
        """Tune the threshold, mine, score."""
        for language, (tuning, measured) in self.pairs.items():
            threshold = best_threshold(*mine(tuning, embed), tuning.gold)
            scores, found = mine(measured, embed)
            kept = [pair for score, pair in zip(scores, found, strict=True) if score >= threshold]
            hits = len(measured.gold.intersection(kept))
            precision = hits / len(kept) if kept else 0.0
            recall = hits / len(measured.gold)
            f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
            shares = {"f1": f1, "precision": precision, "recall": recall}
            yield Cell(
                self.name,
                "mining",
                language,
                ENGLISH,
                {name: round(100 * value, 4) for name, value in shares.items()},
                len(measured.gold),
            )


def mine(corpora: Corpora, embed: Embed) -> tuple[NDArray[np.float32], list[tuple[int, int]]]:
    """Pairs of rows and their margins, best first, each row in one pair at most."""
    left, right = embed(corpora.left, "passage"), embed(corpora.right, "passage")
    scores_there, places_there = metrics.margins(left, right)
    scores_back, places_back = metrics.margins(right, left)
    scores = np.concatenate([scores_there, scores_back])
    rows = np.concatenate([np.arange(len(left)), places_back])
    columns = np.concatenate([places_there, np.arange(len(right))])
    taken_rows: set[int] = set()
    taken_columns: set[int] = set()
    kept, found = [], []
    for number in np.lexsort((columns, rows, -scores)):
        row, column = int(rows[number]), int(columns[number])
        if row not in taken_rows and column not in taken_columns:
            taken_rows.add(row)
            taken_columns.add(column)
            kept.append(scores[number])
            found.append((row, column))
    return np.array(kept, dtype=np.float32), found


def best_threshold(
    scores: NDArray[np.float32], found: list[tuple[int, int]], gold: frozenset[tuple[int, int]]
) -> float:
    """The least score that is kept where F1 is best; the highest such one if several are.

    `scores` fall; pairs of equal scores are kept or left together.
    """
    hits = np.cumsum([pair in gold for pair in found])
    f1 = 2 * hits / (np.arange(1, len(found) + 1) + len(gold))
    last_of_its_score = np.append(scores[1:] != scores[:-1], True)
    return float(scores[int(np.argmax(np.where(last_of_its_score, f1, -1.0)))])


def read(benchmark: Benchmark, folder: Path) -> Mining:
    """Read the files; `folder` is the evaluation folder.

    Raises:
        BenchmarkMissing, BenchmarkInvalid: as `files` says.
    """
    place = folder / benchmark.place
    if not place.is_dir():
        raise BenchmarkMissing(f"{place}: no such folder; see evaluation.benchmarks and --data")
    split = benchmark.split or "test"
    if split == TUNED_ON:
        raise BenchmarkInvalid(f"{place}: split = {split!r} is what the threshold is tuned on")
    found = {iso(path.name.removesuffix("-en")): path for path in sorted(place.glob("*-en"))}
    wanted = [tag for tag in benchmark.languages if tag != ENGLISH] or list(found)
    if missing := [tag for tag in wanted if tag not in found]:
        raise BenchmarkMissing(f"{place}: no folder {missing[0]}-en; there are {', '.join(found)}")
    if not wanted:
        raise BenchmarkMissing(f"{place}: holds no folder LANGUAGE-en")
    return Mining(
        benchmark.label,
        {tag: (_corpora(found[tag], TUNED_ON), _corpora(found[tag], split)) for tag in wanted},
    )


def _corpora(folder: Path, split: str) -> Corpora:
    stem = folder / f"{folder.name}.{split}"
    left = _sentences(stem.with_name(f"{stem.name}.{folder.name.removesuffix('-en')}"))
    right = _sentences(stem.with_name(f"{stem.name}.en"))
    rows = {identity: number for number, identity in enumerate(left)}
    columns = {identity: number for number, identity in enumerate(right)}
    gold = stem.with_name(f"{stem.name}.gold")
    pairs = set()
    for line in lines(gold):
        one, _, other = line.partition("\t")
        if one not in rows or other not in columns:
            raise BenchmarkInvalid(f"{gold}: {line!r} names a sentence that is not there")
        pairs.add((rows[one], columns[other]))
    if not pairs:
        raise BenchmarkInvalid(f"{gold}: is empty")
    return Corpora(tuple(left.values()), tuple(right.values()), frozenset(pairs))


def _sentences(path: Path) -> dict[str, str]:
    found = {}
    for line in lines(path):
        identity, tab, text = line.partition("\t")
        if not tab or not text:
            raise BenchmarkInvalid(f"{path}: {line[:80]!r} is not an id, a tab and a text")
        found[identity] = text
    return found
