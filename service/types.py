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

GroupBy: TypeAlias = Literal["document", "language"]
"""What the hits of a search are grouped by."""

Wait: TypeAlias = Literal["stored", "visible"]
"""When a write is answered: when it is safe in the catalog, or when searches see it as well."""

ModelState: TypeAlias = Literal["active", "available", "invalid"]
"""A bundle of the registry: it serves, it could serve, or it breaks the contract."""

MigrationStep: TypeAlias = Literal["pause", "resume", "abort", "rollback", "cut-over", "finish"]
"""What an operator may do to a migration that is under way, or to a generation that soaks."""

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


@dataclass(frozen=True, slots=True)
class EmbedAnswer:
    """The vectors of one request, in the order of its texts; `bundle` is `name/version`."""

    vectors: Matrix
    tokens: Sequence[int]
    truncated: Sequence[bool]
    bundle: str
    space: str
    role: Role


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """The hits of one query, best first; hits of one group are adjacent, best group first."""

    hits: Sequence[Hit]
    collection: str
    generation: int
    bundle: str
    space: str
    query_bundle: str
    """Whose encoder embedded the query: `bundle`, unless a compatible one is on its way."""
    query_space: str
    query_language: str
    truncated: bool
    stages: Mapping[str, float] = field(default_factory=dict)
    """Seconds that the request spent in each stage, shared by all of its queries."""


@dataclass(frozen=True, slots=True)
class Written:
    """A write in the catalog at `revision`; `visible` if searches saw it when it was answered."""

    accepted: int
    revision: int
    visible: bool = False


@dataclass(frozen=True, slots=True)
class Deleted:
    """How many documents were there and are gone as of `revision`."""

    deleted: int
    revision: int
    visible: bool = False


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as the catalog holds it; `language` was given or identified."""

    id: str
    text: str
    title: str
    language: str
    metadata: Mapping[str, Any]
    passages: Sequence[Span]


@dataclass(frozen=True, slots=True)
class DocumentSummary:
    """A document in a list: everything but its text."""

    id: str
    title: str
    language: str
    metadata: Mapping[str, Any]
    characters: int
    passages: int


@dataclass(frozen=True, slots=True)
class DocumentPage:
    """A page of documents in the order of their first arrival; no cursor on the last page."""

    documents: Sequence[DocumentSummary]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection with its size; `lag` counts revisions that searches do not see yet."""

    name: str
    fields: Mapping[str, FieldType]
    documents: int
    passages: int
    languages: Mapping[str, int]
    """Passages of each language."""
    revision: int
    lag: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A bundle of the registry. Of an invalid one only the name, version, state and reason are known."""

    name: str
    version: str
    state: ModelState
    reason: str = ""
    space: str = ""
    dimension: int = 0
    dimensions: Sequence[int] = ()
    """Every length that a vector may be cut to, its own included."""
    max_tokens: int = 0
    languages: Sequence[str] = ()
    precisions: Sequence[str] = ()
    roles: Sequence[Role] = ()
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that the service needs: `encoder`, `catalog` or `index`, and how it is."""

    name: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """How the service is. `applied` of `total` passage revisions are visible to searches."""

    checks: Sequence[Check]
    generation: int
    epoch: int
    bundle: str
    space: str
    applied: int
    total: int


@dataclass(frozen=True, slots=True)
class MigrationOptions:
    """How a migration is to run. What is None is left to the settings.

    `hold`: stay ready until told to cut over. `queries_first`: if the bundle declares that its
    queries find the live passages, and the gate finds it so, they are asked at once. `override`: the quality checks of the gate that may
    fail, for the stated `reason`.
    """

    hold: bool = False
    queries_first: bool = True
    override: Sequence[str] = ()
    reason: str = ""
    passages_per_s: float | None = None
    soak_s: float | None = None


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One thing that the gate looked at; `measures` are its numbers, by language or pair of languages."""

    name: str
    ok: bool
    detail: str
    overridable: bool
    measures: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class GateReport:
    """What was proven of a generation before it may go live, and which failures were overridden, why."""

    passed: bool
    checks: Sequence[GateCheck]
    overridden: Sequence[str]
    reason: str
    at: str
    seconds: float


@dataclass(frozen=True, slots=True)
class CollectionProgress:
    """How far a generation has come with one collection; `error` says what holds it up."""

    name: str
    state: str
    applied: int
    total: int
    error: str


@dataclass(frozen=True, slots=True)
class PodState:
    """A process of the service, as it reported itself: whether it has the generation open."""

    id: str
    seen_s_ago: float
    epoch: int
    loaded: bool
    refused: str


@dataclass(frozen=True, slots=True)
class Migration:
    """A generation on its way from registered to live, or from live to retired."""

    generation: int
    bundle: str
    version: str
    precision: str
    space: str
    state: str
    paused: bool
    live: bool
    epoch: int
    created: str
    changed: str
    error: str
    options: MigrationOptions
    collections: Sequence[CollectionProgress]
    applied: int
    total: int
    passages_per_s: float | None
    remaining_s: float | None
    asking: bool
    """Its encoder embeds the queries already, which look for passages of the live one."""
    compatible: GateCheck | None
    """Whether it may, as the gate found it."""
    report: GateReport | None
    shadow: Mapping[str, Any] | None
    soak_until: str | None
    pods: Sequence[PodState]
