"""Words: bilingual lexicon induction, bilingual lexical similarity, and word alignment.

A word's vector is `alone` (the word as a text), `static` (the mean of its pieces' input embeddings)
or `contextual` (the mean of its pieces' last states in whole sentences); the latter two are looked
at where the encoder shows them, which a bundle or a service does not.

*Why* the similarity is never reported alone: the cosine of translations minus that of random pairs
also changes when all vectors of a language shrink into a cone, which CSLS corrects for. The
candidates of a word are the foreign words of the file, not a vocabulary of 200,000: the scores
compare with each other, not with MUSE's tables.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.types import Matrix
from training import metrics
from training.benchmarks.embedding import Embed, SeesWords, seen_words
from training.benchmarks.files import (
    ENGLISH,
    BenchmarkInvalid,
    by_language,
    chosen,
    lines,
    located,
    rows,
)
from training.config.evaluation import Benchmark
from training.results import Cell

CSLS_NEIGHBOURS = 10
DEPTH = 5
AROUND = re.compile(r"^\W+|\W+$")
OCCURRENCES = 20
"""Of a word whose contextual vectors are averaged, the first ones."""


@dataclass(frozen=True, slots=True)
class Lexicon:
    """English words, foreign words, and which translate which."""

    english: tuple[str, ...]
    foreign: tuple[str, ...]
    gold: tuple[frozenset[int], ...]
    """Numbers of the foreign words that each English word has."""

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]]) -> "Lexicon":
        """Distinct words in the order of the file."""
        english: dict[str, set[str]] = {}
        for one, other in pairs:
            english.setdefault(one, set()).add(other)
        foreign = {word: number for number, word in enumerate(dict.fromkeys(w for _, w in pairs))}
        gold = tuple(frozenset(foreign[word] for word in words) for words in english.values())
        return cls(tuple(english), tuple(foreign), gold)

    def known(self, english: NDArray[np.bool_], foreign: NDArray[np.bool_]) -> "Lexicon":
        """The pairs both of whose words are known."""
        return Lexicon.of(
            [
                (word, self.foreign[number])
                for place, word in enumerate(self.english)
                for number in sorted(self.gold[place])
                if english[place] and foreign[number]
            ]
        )


@dataclass(frozen=True, slots=True)
class Induction:
    """The lexicons of a benchmark by foreign language, and sentences where there are any."""

    name: str
    lexicons: Mapping[str, Lexicon]
    sentences: Mapping[str, tuple[str, ...]]

    def texts(self) -> Iterator[tuple[str, str]]:
        """Every word with its language, and every sentence."""
        for language, lexicon in self.lexicons.items():
            yield from ((ENGLISH, word) for word in lexicon.english)
            yield from ((language, word) for word in lexicon.foreign)
        for language, sentences in self.sentences.items():
            yield from ((language, sentence) for sentence in sentences)

    def cells(self, embed: Embed) -> Iterator[Cell]:
        """English to foreign, by every kind of vector that the encoder shows."""
        inner = seen_words(embed)
        for language, lexicon in self.lexicons.items():
            if inner is None:
                left, right = embed(lexicon.english, "query"), embed(lexicon.foreign, "query")
                yield self._cell("alone", language, lexicon, left=left, right=right)
                continue
            for task, vectors in (("alone", inner.alone), ("static", inner.static)):
                left, right = vectors(lexicon.english), vectors(lexicon.foreign)
                yield self._cell(task, language, lexicon, left=left, right=right)
            if {ENGLISH, language} <= self.sentences.keys():
                yield from self._contextual(language, lexicon, inner)

    def _contextual(self, language: str, lexicon: Lexicon, inner: SeesWords) -> Iterator[Cell]:
        english, foreign = (
            [word.casefold() for word in words] for words in (lexicon.english, lexicon.foreign)
        )
        there = _in_context(self.sentences[ENGLISH], inner, frozenset(english))
        here = _in_context(self.sentences[language], inner, frozenset(foreign))
        known = lexicon.known(
            np.array([form in there for form in english]),
            np.array([form in here for form in foreign]),
        )
        if len(known.foreign) > DEPTH:
            left = np.stack([there[word.casefold()] for word in known.english])
            right = np.stack([here[word.casefold()] for word in known.foreign])
            yield self._cell("contextual", language, known, left=left, right=right)

    def _cell(
        self, task: str, language: str, lexicon: Lexicon, *, left: Matrix, right: Matrix
    ) -> Cell:
        cosines, hubs = csls(left, right)
        order = metrics.order_of(lexicon.foreign)
        values: dict[str, NDArray[np.float64]] = {}
        for prefix, scores in (("csls_", hubs), ("", cosines)):
            ranks = best_ranks(scores, lexicon.gold, order)
            values[f"{prefix}p@1"] = (ranks == 1).astype(np.float64)
            values[f"{prefix}p@{DEPTH}"] = (ranks <= DEPTH).astype(np.float64)
            values[f"{prefix}mrr"] = 1.0 / ranks
        similarity = lexical_similarity(cosines, lexicon.gold)
        return Cell(
            self.name,
            task,
            ENGLISH,
            language,
            {**metrics.percent(values), "lexical_similarity": round(100 * similarity, 4)},
            len(lexicon.english),
            values=(values["csls_p@1"] * 100).astype(np.float32),
        )


def csls(left: Matrix, right: Matrix) -> tuple[Matrix, Matrix]:
    """Cosines of all pairs, and cross-domain similarity local scaling; both [lefts, rights].

    2 cos(x, y) - r(x) - r(y), r being the mean cosine to the 10 nearest of the other side (Conneau
    et al. 2018, arXiv 1710.04087, eq. 3).
    """
    cosines = np.concatenate([block for _, block in metrics.score_blocks(left, right)])
    there = metrics.nearest(left, right, CSLS_NEIGHBOURS)[0].mean(axis=1)
    back = metrics.nearest(right, left, CSLS_NEIGHBOURS)[0].mean(axis=1)
    return cosines, 2 * cosines - there[:, None] - back[None, :]


def best_ranks(
    scores: Matrix, gold: Sequence[frozenset[int]], order: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The rank (1 is best) of each row's best translation; [rows].

    Among equal scores the higher `order` comes first, as everywhere in `training.metrics`.
    """
    ranks = np.empty(len(scores), dtype=np.int64)
    for row, (own, right) in enumerate(zip(scores, gold, strict=True)):
        translations = np.array(sorted(right))
        best = own[translations].max()
        first = order[translations[own[translations] == best]].max()
        ranks[row] = 1 + np.count_nonzero((own > best) | ((own == best) & (order > first)))
    return ranks


def lexical_similarity(cosines: Matrix, gold: Sequence[frozenset[int]]) -> float:
    """Mean cosine of the dictionary's pairs minus that of as many random other pairs.

    The random pairs are the same for every encoder; a translation is never among them.
    """
    pairs = np.array([(row, word) for row, words in enumerate(gold) for word in sorted(words)])
    right = np.zeros(cosines.shape, dtype=np.bool_)
    right[pairs[:, 0], pairs[:, 1]] = True
    rng = np.random.default_rng(0)
    wrong = np.flatnonzero(~right)
    if not len(wrong):
        raise ValueError("every word translates every other one: there are no random pairs")
    drawn = rng.choice(wrong, len(pairs), replace=len(pairs) > len(wrong))
    return float(cosines[right].mean() - cosines.ravel()[drawn].mean())


def read(benchmark: Benchmark, folder: Path) -> Induction:
    """`en-XX.tsv` with the columns `english` and `foreign`, one pair of words a row.

    Beside them, perhaps, `sentences.en.txt` and `sentences.XX.txt`.
    """
    place = folder / benchmark.place
    wanted = tuple(language for language in benchmark.languages if language != ENGLISH)
    found = chosen(by_language(place, "en-", ".tsv"), wanted)
    lexicons = {}
    for language, path in found.items():
        pairs = [(row["english"], row["foreign"]) for row in rows(path, "english", "foreign")]
        lexicons[language] = Lexicon.of(pairs)
        if len(lexicons[language].foreign) <= DEPTH:
            raise BenchmarkInvalid(f"{path}: has only {len(pairs)} pairs; P@{DEPTH} needs more")
    sentences = {
        language: tuple(lines(path))
        for language in (ENGLISH, *found)
        if located(path := place / f"sentences.{language}.txt") is not None
    }
    return Induction(benchmark.place, lexicons, sentences)


def _in_context(
    sentences: Sequence[str], inner: SeesWords, wanted: frozenset[str]
) -> dict[str, Matrix]:
    """The unit mean vector of each wanted word over its first occurrences, in lower case.

    Words are what stands between spaces, without punctuation around it.
    """
    split = [sentence.split() for sentence in sentences]
    sums: dict[str, Matrix] = {}
    counts: dict[str, int] = {}
    for words, vectors in zip(split, inner.contextual(split), strict=True):
        for word, vector in zip(words, vectors, strict=True):
            form = AROUND.sub("", word).casefold()
            if form in wanted and counts.get(form, 0) < OCCURRENCES and vector.any():
                sums[form] = sums.get(form, np.zeros_like(vector)) + vector
                counts[form] = counts.get(form, 0) + 1
    return {form: total / np.linalg.norm(total) for form, total in sums.items()}
