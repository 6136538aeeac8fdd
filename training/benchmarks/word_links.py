"""Word alignment against gold links: mutual nearest neighbours among an encoder's word vectors.

`en-XX.en`, `en-XX.XX` (words between spaces, a sentence a line) and `en-XX.gold`: `0-0` is a sure
link, `1?2` (or `1p2`) a possible one. Two words are linked if each is the other's nearest (SimAlign,
Sabet et al. 2020, arXiv 2004.08728, sec. 2.1); the vectors are those of `training.benchmarks.words`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from service.types import Matrix
from training.benchmarks.embedding import Embed, seen_words
from training.benchmarks.files import ENGLISH, BenchmarkInvalid, by_language, chosen, lines
from training.config.evaluation import Benchmark
from training.groups import Links
from training.metrics import error_rate
from training.results import Cell

Sentences: TypeAlias = Sequence[Sequence[str]]
LINK = re.compile(r"(\d+)([-?p])(\d+)")
SURE = "-"


@dataclass(frozen=True, slots=True)
class Linked:
    """Translations as words, with the links that people drew."""

    english: tuple[tuple[str, ...], ...]
    foreign: tuple[tuple[str, ...], ...]
    sure: tuple[Links, ...]
    possible: tuple[Links, ...]
    """The sure ones too."""


@dataclass(frozen=True, slots=True)
class WordAlignment:
    """The translations of a benchmark, by foreign language."""

    name: str
    pairs: Mapping[str, Linked]

    def texts(self) -> Iterator[tuple[str, str]]:
        """Every sentence with its language."""
        for language, linked in self.pairs.items():
            yield from ((ENGLISH, " ".join(words)) for words in linked.english)
            yield from ((language, " ".join(words)) for words in linked.foreign)

    def cells(self, embed: Embed) -> Iterator[Cell]:
        """Align with every kind of word vectors that the encoder shows."""
        inner = seen_words(embed)
        tasks: dict[str, Callable[[Sentences], Iterable[Matrix]]]
        if inner is None:
            tasks = {"alone": _by_form(lambda words: embed(words, "query"))}
        else:
            tasks = {
                "alone": _by_form(inner.alone),
                "static": _by_form(inner.static),
                "contextual": inner.contextual,
            }
        for language, linked in self.pairs.items():
            for task, vectors in tasks.items():
                sides = zip(vectors(linked.english), vectors(linked.foreign), strict=True)
                found = [mutual_links(left, right) for left, right in sides]
                yield _cell(self.name, task, language, linked=linked, found=found)


def mutual_links(left: Matrix, right: Matrix) -> Links:
    """Pairs of rows each of which is the other's nearest; of equal ones, the first is the nearest.

    Rows of zeros, words that the encoder did not see, have no neighbour.
    """
    cosines = left @ right.T
    there, back = cosines.argmax(1), cosines.argmax(0)
    return tuple(
        (i, j)
        for i, j in enumerate(there.tolist())
        if back[j] == i and left[i].any() and right[j].any()
    )


def read(benchmark: Benchmark, folder: Path) -> WordAlignment:
    """Read the three files of each language.

    Raises:
        BenchmarkInvalid: their lines differ in number, or a link is none or leads nowhere.
    """
    place = folder / benchmark.place
    wanted = tuple(language for language in benchmark.languages if language != ENGLISH)
    found = chosen(by_language(place, "en-", ".gold"), wanted)
    return WordAlignment(
        benchmark.place, {language: _linked(path) for language, path in found.items()}
    )


def _linked(gold: Path) -> Linked:
    stem = gold.name.removesuffix(".gold")
    foreign_path = gold.with_name(f"{stem}.{stem.removeprefix('en-')}")
    english = tuple(tuple(line.split()) for line in lines(gold.with_name(f"{stem}.{ENGLISH}")))
    foreign = tuple(tuple(line.split()) for line in lines(foreign_path))
    drawn = list(lines(gold))
    if not len(english) == len(foreign) == len(drawn):
        raise BenchmarkInvalid(
            f"{gold}: {len(drawn)} lines of links for {len(english)} English and {len(foreign)}"
            " foreign sentences; an empty line counts as none"
        )
    sure, possible = [], []
    for number, (line, left, right) in enumerate(zip(drawn, english, foreign, strict=True), 1):
        links: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        for word in line.split():
            match = LINK.fullmatch(word)
            ends = (int(match[1]), int(match[3])) if match else (len(left), len(right))
            if match is None or ends[0] >= len(left) or ends[1] >= len(right):
                raise BenchmarkInvalid(
                    f"{gold}: line {number}: {word!r} is no link i-j or i?j between"
                    f" {len(left)} and {len(right)} words, counted from 0"
                )
            links[match[2] == SURE].append(ends)
        sure.append(tuple(links[True]))
        possible.append(tuple(links[True] + links[False]))
    return Linked(english, foreign, tuple(sure), tuple(possible))


def _by_form(vectors: Callable[[Sequence[str]], Matrix]) -> Callable[[Sentences], list[Matrix]]:
    """Sentences to matrices where a word has the same vector wherever it stands."""

    def of_sentences(sentences: Sentences) -> list[Matrix]:
        forms = list(dict.fromkeys(word for words in sentences for word in words))
        places = {form: place for place, form in enumerate(forms)}
        table = vectors(forms)
        return [table[[places[word] for word in words]] for words in sentences]

    return of_sentences


def _cell(name: str, task: str, language: str, *, linked: Linked, found: Sequence[Links]) -> Cell:
    """F1 comes first, because more is better; precision is against possible links (as the rate)."""
    drawn = sum(map(len, found))
    hits = [len(set(a) & set(b)) for a, b in zip(found, linked.possible, strict=True)]
    certain = [len(set(a) & set(b)) for a, b in zip(found, linked.sure, strict=True)]
    precision = sum(hits) / max(drawn, 1)
    recall = sum(certain) / max(sum(map(len, linked.sure)), 1)
    shares = {
        "f1": 2 * precision * recall / max(precision + recall, np.finfo(float).tiny),
        "precision": precision,
        "recall": recall,
        "error_rate": error_rate(found, linked.sure, linked.possible),
    }
    metrics = {metric: round(100 * share, 4) for metric, share in shares.items()}
    return Cell(name, task, ENGLISH, language, metrics, len(found))
