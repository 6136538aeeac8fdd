"""Language in the vectors: centroids, removing them, and how well a language can still be told.

Two ways to remove it. With the language of every text known, each vector loses its language's
centroid (Libovicky et al. 2020, arXiv 2004.05160): `without_centroids`, for measuring. A service
does not know the language of a query, so what a bundle can carry is one affine map for all texts:
the subspace that the centroids span around their mean is projected out, and the mean subtracted
(low-rank subtraction, Xie et al. 2022, EMNLP, of the full rank unless said otherwise). Both move
every centroid to zero; the map also takes whatever else lay in these directions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.types import Matrix

RIDGE = 1e-3
FEWEST = 32
"""Texts of a language below which its centroid is mostly the texts' own meaning."""


class CentroidsInvalid(ValueError):
    """Centroids cannot be estimated; the message says of which language, and why."""


@dataclass(frozen=True, slots=True)
class Projection:
    """`normalise(weight @ e + bias)`: weight [out, in], bias [out] or none."""

    weight: Matrix
    bias: NDArray[np.float32] | None = None

    def __call__(self, vectors: Matrix) -> Matrix:
        moved = vectors @ self.weight.T
        return unit(moved if self.bias is None else moved + self.bias)


def unit(vectors: Matrix) -> Matrix:
    """Rows of unit length; a zero row stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, np.finfo(np.float32).tiny), dtype=np.float32)


def centroids_of(
    vectors: Matrix, languages: Sequence[str], *, fewest: int = FEWEST
) -> dict[str, NDArray[np.float32]]:
    """The mean vector of each language, [width].

    Raises:
        CentroidsInvalid: a language has too few texts, or there is only one.
    """
    found: dict[str, NDArray[np.float32]] = {}
    names = np.array(languages)
    for language in sorted(set(languages)):
        chosen = vectors[names == language]
        if len(chosen) < fewest:
            raise CentroidsInvalid(
                f"{language}: {len(chosen)} texts are too few for a centroid, it needs {fewest};"
                " give more with --language-texts"
            )
        found[language] = chosen.mean(axis=0)
    if len(found) < 2:  # noqa: PLR2004 - one centroid differs from nothing
        raise CentroidsInvalid(f"centroids of {', '.join(found)} alone span nothing to remove")
    return found


def without_centroids(
    vectors: Matrix, languages: Sequence[str], centroids: Mapping[str, NDArray[np.float32]]
) -> Matrix:
    """Subtract each text's centroid: normalise(e - mu_l). Every text's language must have one."""
    return unit(vectors - np.stack([centroids[language] for language in languages]))


def removal(centroids: Mapping[str, NDArray[np.float32]], *, rank: int | None = None) -> Projection:
    """The map for all languages: (I - B B^T)(e - mean), B the first `rank` directions.

    The directions are the left singular vectors of the centroids around their mean, largest first;
    without `rank` all, which are one fewer than there are languages.

    Raises:
        CentroidsInvalid: `rank` is out of its bounds, or nothing of the space would remain.
    """
    stacked = np.stack([centroids[language] for language in sorted(centroids)]).astype(np.float64)
    languages, width = stacked.shape
    most = min(languages - 1, width - 1)
    if not 1 <= (chosen := most if rank is None else rank) <= most:
        raise CentroidsInvalid(
            f"rank = {rank}: {languages} centroids of width {width} have 1 to {most} directions"
        )
    mean = stacked.mean(axis=0)
    _, _, directions = np.linalg.svd(stacked - mean, full_matrices=False)
    basis = directions[:chosen]
    weight = np.eye(width) - basis.T @ basis
    return Projection(weight.astype(np.float32), (-weight @ mean).astype(np.float32))


def language_accuracy(vectors: Matrix, languages: Sequence[str], *, seed: int = 0) -> float:
    """Share of texts whose language a linear classifier tells; lower means more neutral.

    Ridge regression onto one-hot languages, fitted on one half of each language's texts and tested
    on the other, then the other way round.
    """
    names, labels = np.unique(np.array(languages), return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    half = np.zeros(len(labels), dtype=bool)
    for label in range(len(names)):
        half[order[labels[order] == label][::2]] = True
    features = np.hstack([vectors, np.ones((len(vectors), 1))]).astype(np.float64)
    right = 0
    for fit in (half, ~half):
        inputs, wanted = features[fit], np.eye(len(names))[labels[fit]]
        gram = inputs.T @ inputs + RIDGE * len(inputs) * np.eye(inputs.shape[1])
        weights = np.linalg.solve(gram, inputs.T @ wanted)
        right += int((np.argmax(features[~fit] @ weights, axis=1) == labels[~fit]).sum())
    return right / len(labels)
