"""Taking the language out of a bundle's vectors: estimated on one half of the texts, shown on the other."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from service.types import Matrix
from training.centroids import (
    Projection,
    centroids_of,
    language_accuracy,
    removal,
    without_centroids,
)
from training.config.batches import ENGLISH
from training.corpus import HeldOut
from training.export.gate import Embed, translation_ndcg


def language_removal(
    embed: Embed, pairs: Sequence[HeldOut], *, rank: int | None
) -> tuple[Projection, dict[str, Any]]:
    """The map for the bundle, and what it does to texts that it was not estimated on.

    Reported for the vectors as they are, through the map, and with each language's own centroid
    subtracted, which a service cannot do: how well a linear classifier tells the language, and
    nDCG@10 of the translation among the pairs of a language, mean over languages.

    Raises:
        CentroidsInvalid: a language has too few texts.
    """
    fit, shown = _halves(pairs)
    vectors, languages = _embedded(embed, fit)
    centroids = centroids_of(vectors, languages)
    projection = removal(centroids, rank=rank)
    held, spoken = _embedded(embed, shown)
    ways = {
        "as_it_is": held,
        "in_the_bundle": projection(held),
        "with_known_language": without_centroids(held, spoken, centroids),
    }
    report: dict[str, Any] = {
        name: {
            "language_accuracy": round(language_accuracy(found, spoken), 4),
            "translation_ndcg": _mean_ndcg(found, shown),
        }
        for name, found in ways.items()
    }
    removed = projection.weight.shape[0] - int(np.linalg.matrix_rank(projection.weight, tol=1e-3))
    return projection, {**report, "removed_directions": removed, "texts": len(spoken)}


def _halves(pairs: Sequence[HeldOut]) -> tuple[list[HeldOut], list[HeldOut]]:
    """By the English text, so that no sentence is on both sides in two languages."""
    halves: tuple[list[HeldOut], list[HeldOut]] = ([], [])
    for pair in pairs:
        halves[zlib.crc32((pair.english or pair.foreign).encode()) & 1].append(pair)
    return halves


def _embedded(embed: Embed, pairs: Sequence[HeldOut]) -> tuple[Matrix, list[str]]:
    """Vectors of both sides, foreign first, and their languages."""
    with_english = [pair for pair in pairs if pair.english]
    texts = [pair.foreign for pair in pairs] + [pair.english for pair in with_english]
    languages = [pair.language for pair in pairs] + [ENGLISH] * len(with_english)
    return embed(texts, "passage"), languages


def _mean_ndcg(vectors: Matrix, pairs: Sequence[HeldOut]) -> float | None:
    rows: Mapping[str, list[tuple[int, int]]] = {pair.language: [] for pair in pairs}
    second = len(pairs)
    for first, pair in enumerate(pairs):
        if pair.english:
            rows[pair.language].append((first, second))
            second += 1
    found = [
        translation_ndcg(vectors[[a for a, _ in both]], vectors[[b for _, b in both]])
        for both in rows.values()
        if both
    ]
    return round(float(np.mean(found)), 3) if found else None
