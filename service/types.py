"""The field on one page: the values that travel between the modules of the service."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Matrix: TypeAlias = NDArray[np.float32]
"""One row per text, L2-normalised unless said otherwise; shape [texts, dimension]."""

Role: TypeAlias = Literal["query", "passage"]
"""What a text is to the encoder; it chooses the prompt and the lane."""

FieldType: TypeAlias = Literal["keyword", "integer", "float", "datetime", "boolean"]
"""The type of a declared, filterable metadata field."""

Scalar: TypeAlias = str | int | float | bool
"""A metadata value that a filter can meet; a datetime travels as an RFC 3339 string."""

UNDETERMINED = "und"
"""BCP-47's code for a language that nobody could tell."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text after the tokenizer: its ids with special tokens, and whether its end was cut."""

    ids: NDArray[np.int64]
    truncated: bool = False

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of a request, in the order of its texts, with what they cost."""

    vectors: Matrix
    tokens: Sequence[int]
    truncated: Sequence[bool]


@dataclass(frozen=True, slots=True)
class Document:
    """A text as the user gave it; `language` is a BCP-47 code, or None to have it identified."""

    id: str
    text: str
    title: str = ""
    language: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """Where a passage lies in its document, in characters: `text[start:end]`."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found, with the document that it belongs to."""

    document: str
    number: int
    span: Span
    language: str
    score: float
    text: str
    title: str
    metadata: Mapping[str, Any]
    vector: Matrix | None = None
