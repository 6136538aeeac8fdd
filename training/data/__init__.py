"""Training text: the files of a recipe, filtered, merged and split, as one table in memory."""

from training.data.reading import read_corpus

__all__ = ["read_corpus"]
