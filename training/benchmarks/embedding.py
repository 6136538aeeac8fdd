"""What a benchmark embeds with: texts to unit vectors, each distinct text once, checked."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np

from service.types import Matrix, Role

Embed: TypeAlias = Callable[[Sequence[str], Role], Matrix]
LENGTH_TOLERANCE = 1e-2


class VectorsInvalid(ValueError):
    """An encoder gave vectors that cannot be measured; the message names the text."""


@runtime_checkable
class SeesWords(Protocol):
    """An encoder that shows what it makes of words; no prompt stands before them."""

    def alone(self, words: Sequence[str]) -> Matrix:
        """Unit vectors of words as texts of their own, [words, width]."""

    def static(self, words: Sequence[str]) -> Matrix:
        """Unit means of the input embeddings of each word's pieces, [words, width]."""

    def contextual(self, sentences: Sequence[Sequence[str]]) -> Iterable[Matrix]:
        """For each sentence the unit means of the last states of each word's pieces.

        [words, width] each, zeros for words beyond the length limit.
        """


class Memory:
    """An `Embed` over another one: equal texts get the very same vector, and are embedded once.

    Queries are kept for the next benchmark (XQuAD and XQuAD-R ask the same ones), passages until
    `forget`.
    """

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._known: dict[Role, dict[str, Matrix]] = {"query": {}, "passage": {}}

    def __call__(self, texts: Sequence[str], role: Role) -> Matrix:
        known = self._known[role]
        if new := [text for text in dict.fromkeys(texts) if text not in known]:
            vectors = np.asarray(self._embed(new, role), dtype=np.float32)
            _check(vectors, new)
            known.update(zip(new, vectors, strict=True))
        if not texts:
            raise VectorsInvalid("there is no text to embed: a file of the benchmark is empty")
        return np.stack([known[text] for text in texts])

    @property
    def inner(self) -> Embed:
        """What it embeds with."""
        return self._embed

    def forget(self) -> None:
        """Drop the passages."""
        self._known["passage"].clear()


def seen_words(embed: Embed) -> SeesWords | None:
    """The encoder's words, if it shows them."""
    inner: object = embed.inner if isinstance(embed, Memory) else embed
    return inner if isinstance(inner, SeesWords) else None


def _check(vectors: Matrix, texts: Sequence[str]) -> None:
    if vectors.ndim != 2 or len(vectors) != len(texts):  # noqa: PLR2004 - rows and columns
        raise VectorsInvalid(f"{len(texts)} texts gave vectors of shape {vectors.shape}")
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    wrong = ~(np.abs(lengths - 1.0) < LENGTH_TOLERANCE)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise VectorsInvalid(
            f"the vector of {texts[row][:80]!r} has length {lengths[row]:.4g}, not 1"
        )
