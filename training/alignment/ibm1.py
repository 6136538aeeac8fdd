"""IBM model 1 with a diagonal prior: which word of a sentence each word of its translation renders.

The form is that of fast_align (Dyer et al. 2013, NAACL, eq. 1-3): with m source and n target words,

    p(a_j = null) = p0,    p(a_j = i) = (1 - p0) exp(-lambda |i/m - j/n|) / Z_j,
    p(t | s) by EM with a sparse Dirichlet prior (variational Bayes),

in both directions, symmetrised. *Why* arrays by shape: pairs with the same (m, n) share their prior
and form one dense [pairs, m, n] block of numbers of co-occurring word pairs, so that a step of EM
is a handful of array operations for thousands of pairs; both directions use the same numbers.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from training.alignment.links import grow_diag_final_and
from training.alignment.words import form
from training.config.aligners import Ibm1
from training.groups import Links

Floats: TypeAlias = NDArray[np.float32]
Numbers: TypeAlias = NDArray[np.int32]
Pairs: TypeAlias = Sequence[tuple[list[str], list[str]]]

_CONCENTRATION = 0.01
"""Of the Dirichlet prior: below 1, rare words do not become the translation of everything."""
BLOCK = 2_000_000
"""Co-occurrences that are handled at a time; bounds the memory beside the table itself."""


@dataclass(frozen=True, slots=True)
class _Block:
    """Pairs of one shape; the words and the co-occurrences are numbers into the tables."""

    pairs: NDArray[np.int64]
    source: Numbers
    """[pairs, m]"""
    target: Numbers
    """[pairs, n]"""
    both: Numbers
    """[pairs, m, n]"""


@dataclass(slots=True)
class _Table:
    """p(word | other word) in one direction, by number of co-occurrence, and p(word | null)."""

    known: Floats
    null: Floats


@dataclass(frozen=True, slots=True)
class _Types:
    """The distinct co-occurrences: which source and which target word each one is."""

    source: Numbers
    target: Numbers
    sources: int
    targets: int


class Ibm1Aligner:
    """Trains on the very pairs that it aligns; the same pairs give the same links."""

    def __init__(self, settings: Ibm1, *, block: int = BLOCK) -> None:
        self._settings = settings
        self._block = block

    def align(self, pairs: Pairs) -> list[Links]:
        """Links of each pair of word lists; pairs without words on a side have none."""
        blocks, types = _blocks(pairs, self._block)
        forward, backward = self._train(blocks, types)
        found: list[Links] = [() for _ in pairs]
        for block in blocks:
            there = self._best(self._posterior(block, forward), transposed=False)
            back = self._best(self._posterior(block, backward, transposed=True), transposed=True)
            for pair, links in zip(block.pairs, self._joined(there, back), strict=True):
                found[pair] = links
        return found

    def _train(self, blocks: list[_Block], types: _Types) -> tuple[_Table, _Table]:
        """EM in both directions, from the uniform table."""
        size = len(types.source)
        forward = _Table(np.ones(size, np.float32), np.ones(types.targets, np.float32))
        backward = _Table(np.ones(size, np.float32), np.ones(types.sources, np.float32))
        for _ in range(self._settings.iterations):
            forward = self._iterated(blocks, forward, types.source, types.sources)
            backward = self._iterated(
                blocks, backward, types.target, types.targets, transposed=True
            )
        return forward, backward

    def _iterated(
        self,
        blocks: list[_Block],
        table: _Table,
        given: Numbers,
        words: int,
        *,
        transposed: bool = False,
    ) -> _Table:
        known = np.zeros(len(table.known), np.float64)
        null = np.zeros(len(table.null), np.float64)
        for block in blocks:
            inner, outer = self._posterior(block, table, transposed=transposed)
            rendered = block.source if transposed else block.target
            _add(known, block.both, inner)
            _add(null, rendered, outer)
        totals = np.bincount(given, weights=known, minlength=words)
        fanned = np.bincount(given, minlength=words)
        return _Table(
            _expected(known, (totals + _CONCENTRATION * fanned)[given]),
            _expected(null, np.full(1, null.sum() + _CONCENTRATION * len(null))),
        )

    def _posterior(
        self, block: _Block, table: _Table, *, transposed: bool = False
    ) -> tuple[Floats, Floats]:
        """p(a_j = i) [pairs, m, n] and p(a_j = null) [pairs, n], or for the other direction."""
        settings = self._settings
        m, n = block.both.shape[1:]
        axis = 2 if transposed else 1
        scores = table.known[block.both] * _prior(m, n, settings.diagonal, axis=axis - 1)
        scores *= 1 - settings.null_probability
        rendered = block.source if transposed else block.target
        null = settings.null_probability * table.null[rendered]
        total = np.maximum(scores.sum(axis) + null, np.float32(1e-30))
        scores /= np.expand_dims(total, axis)
        return scores, null / total

    @staticmethod
    def _best(posterior: tuple[Floats, Floats], *, transposed: bool) -> NDArray[np.bool_]:
        """True at the likeliest place of each word that is likelier than null, [pairs, m, n]."""
        scores, null = posterior
        axis = 2 if transposed else 1
        best = np.zeros(scores.shape, np.bool_)
        places = np.expand_dims(scores.argmax(axis), axis)
        likelier = np.take_along_axis(scores, places, axis) > np.expand_dims(null, axis)
        np.put_along_axis(best, places, likelier, axis)
        return best

    def _joined(self, there: NDArray[np.bool_], back: NDArray[np.bool_]) -> Iterator[Links]:
        if self._settings.symmetrise == "intersection":
            return _of_matrices(there & back)
        pairs = zip(_of_matrices(there), _of_matrices(back), strict=True)
        return (grow_diag_final_and(one, other) for one, other in pairs)


def _blocks(pairs: Pairs, block: int) -> tuple[list[_Block], _Types]:
    sources, targets = _Vocabulary(), _Vocabulary()
    shapes: dict[tuple[int, int], list[tuple[int, Numbers, Numbers]]] = {}
    for number, (source, target) in enumerate(pairs):
        if source and target:
            place = shapes.setdefault((len(source), len(target)), [])
            place.append((number, sources.numbers(source), targets.numbers(target)))
    plain: list[tuple[NDArray[np.int64], Numbers, Numbers]] = []
    for (m, n), rows in sorted(shapes.items()):
        size = max(1, block // (m * n))
        for start in range(0, len(rows), size):
            chosen = rows[start : start + size]
            plain.append(
                (
                    np.array([row[0] for row in chosen], np.int64),
                    np.stack([row[1] for row in chosen]),
                    np.stack([row[2] for row in chosen]),
                )
            )
    shapes.clear()
    width = len(targets)
    keys = _merged(_keys(source, target, width) for _, source, target in plain)
    blocks = [
        _Block(rows, source, target, _places(keys, _keys(source, target, width)))
        for rows, source, target in plain
    ]
    return blocks, _Types(
        (keys // max(width, 1)).astype(np.int32),
        (keys % max(width, 1)).astype(np.int32),
        len(sources),
        width,
    )


class _Vocabulary:
    """Numbers of words, equal for words of one form."""

    def __init__(self) -> None:
        self._forms: dict[str, int] = {}
        self._words: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._forms)

    def numbers(self, words: list[str]) -> Numbers:
        known = self._words
        for word in words:
            if word not in known:
                known[word] = self._forms.setdefault(form(word), len(self._forms))
        return np.array([known[word] for word in words], np.int32)


def _keys(source: Numbers, target: Numbers, width: int) -> NDArray[np.int64]:
    """One number for each co-occurrence of two words, [pairs, m, n]."""
    return source[:, :, None].astype(np.int64) * width + target[:, None, :]


def _merged(parts: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    """All distinct keys in order, without holding all of them with their repetitions."""
    held = np.zeros(0, np.int64)
    waiting: list[NDArray[np.int64]] = []
    size = 0
    for part in parts:
        waiting.append(_distinct(part.ravel()))
        size += len(waiting[-1])
        if size > max(len(held), 4 * BLOCK):
            held, waiting, size = _distinct(np.concatenate([held, *waiting])), [], 0
    return _distinct(np.concatenate([held, *waiting]))


def _distinct(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """As `np.unique`, which takes many times as long on integers (numpy 2.4)."""
    ordered = np.sort(keys)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(keys) else keys


def _places(keys: NDArray[np.int64], wanted: NDArray[np.int64]) -> Numbers:
    """Where the wanted ones stand among the keys; sorted first, because that spares the caches."""
    distinct, inverse = np.unique(wanted, return_inverse=True)
    found = np.searchsorted(keys, distinct).astype(np.int32)
    return found[inverse].reshape(wanted.shape)


def _prior(m: int, n: int, diagonal: float, *, axis: int) -> Floats:
    """How likely the places are before the words are known, [m, n]; sums to 1 along the axis."""
    source = (np.arange(m) + 0.5)[:, None] / m
    target = (np.arange(n) + 0.5)[None, :] / n
    weights = np.exp(-diagonal * np.abs(source - target))
    shares: Floats = (weights / weights.sum(axis, keepdims=True)).astype(np.float32)
    return shares


def _add(counts: NDArray[np.float64], places: Numbers, amounts: Floats) -> None:
    """`np.add.at`, by torch's kernel, which is ten times as fast and adds in the same order."""
    torch.from_numpy(counts).index_add_(
        0, torch.from_numpy(places.ravel()), torch.from_numpy(amounts.ravel()).double()
    )


def _expected(counts: NDArray[np.float64], totals: NDArray[np.float64]) -> Floats:
    """exp(E[log p]) under the Dirichlet posterior of these counts."""
    logs = torch.special.digamma(torch.from_numpy(counts + _CONCENTRATION))
    logs -= torch.special.digamma(torch.from_numpy(totals))
    found: Floats = logs.exp().float().numpy()
    return found


def _of_matrices(taken: NDArray[np.bool_]) -> Iterator[Links]:
    """The links of each pair, [pairs, m, n]."""
    pair, left, right = np.nonzero(taken)
    ends = np.searchsorted(pair, np.arange(1, len(taken) + 1))
    start = 0
    lefts, rights = left.tolist(), right.tolist()
    for end in ends.tolist():
        yield tuple(zip(lefts[start:end], rights[start:end], strict=True))
        start = end
