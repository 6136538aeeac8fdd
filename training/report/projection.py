"""The 2-D map of parallel sentences: which ones are taken, and where each model puts them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.types import Matrix
from training.benchmarks import bitext
from training.benchmarks.embedding import Embed
from training.config.evaluation import Benchmark


@dataclass(frozen=True, slots=True)
class LanguageMap:
    """Points of every model, [languages x sentences, 2], language by language, English first."""

    points: Mapping[str, NDArray[np.float32]]
    languages: Sequence[str]
    sentences: Sequence[str]
    """The English ones."""


def parallel_sentences(
    folder: Path, *, languages: Sequence[str], count: int
) -> dict[str, list[str]]:
    """NTREX sentences, evenly spread over the file, by language; English first.

    `folder` is the one that holds `ntrex/`; no languages means all that lie there.

    Raises:
        BenchmarkMissing: there are no such files.
    """
    pairs = bitext.read_ntrex(Benchmark(name="ntrex", languages=tuple(languages)), folder).pairs
    texts: dict[str, Sequence[str]] = {}
    for pair in pairs:  # all hold the same sentences, which the benchmark's reader has checked
        texts |= {pair.left: pair.left_texts, pair.right: pair.right_texts}
    lines = len(next(iter(texts.values())))
    places = np.linspace(0, lines - 1, min(count, lines)).round().astype(int)
    ordered = sorted(texts, key=lambda code: (code != "en", code))
    return {code: [texts[code][place] for place in places] for code in ordered}


def language_map(models: Mapping[str, Embed], parallel: Mapping[str, Sequence[str]]) -> LanguageMap:
    """Embed the sentences with each model and project each model's vectors by itself."""
    flat = [text for texts in parallel.values() for text in texts]
    points = {name: project(embed(flat, "query")) for name, embed in models.items()}
    return LanguageMap(points, list(parallel), list(next(iter(parallel.values()))))


def project(vectors: Matrix) -> NDArray[np.float32]:
    """The two directions of largest variance, [texts, dimension] to [texts, 2].

    Signs are fixed (the largest component is positive), so that the same vectors give the same map.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    strongest = directions[:2]
    largest = np.abs(strongest).argmax(axis=1)
    signs = np.sign(strongest[np.arange(len(strongest)), largest])
    points: NDArray[np.float32] = (centred @ (strongest * signs[:, None]).T).astype(np.float32)
    return points
