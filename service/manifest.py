"""`bundle.json`: what a bundle says of itself, and which of it shapes its vectors.

A bundle's identity is its *space*, a hash of everything that shapes a vector. Its name, version,
languages and scores may change while its vectors stay comparable; nothing else may.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias, get_args

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from service.sealed_folder import check_name
from service.types import Role

MANIFEST, TOKENIZER, PROBES = "bundle.json", "tokenizer.json", "probes.npz"
GOLDEN = "golden.jsonl"
"""Optional: see `service.golden`."""

DIMENSION_LIMIT = 65_536
MAX_TOKENS_LIMIT = 131_072
SAFE_NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,63}$")
"""Of a bundle and of a version: both are names of folders."""

LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|[0-9]{3}))?")

Precision: TypeAlias = Literal["fp32", "fp16", "int8"]  # the fullest first
SafeName: TypeAlias = Annotated[str, StringConstraints(pattern=SAFE_NAME.pattern)]
FilePath: TypeAlias = Annotated[str, AfterValidator(check_name)]
Sha256: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
SpaceId: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


def _full_dimension(fields: dict[str, Any]) -> list[int]:
    return [fields["dimension"]] if "dimension" in fields else []


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class DataSource(_Record):
    """What one source of training data was: its licence, how much of it, and which bytes."""

    licence: str
    rows: Annotated[int, Field(ge=0)]
    sha256: Sha256


class Provenance(_Record):
    """Where a bundle comes from. `tools` are the versions of the libraries that made it."""

    base_model: str
    recipe: str | dict[str, Any]
    data: dict[str, DataSource]
    commit: str
    licence: str
    created: AwareDatetime
    tools: dict[str, str] = {}


class Compatibility(_Record):
    """A claim, measured: queries of this bundle find passages that an older one has embedded."""

    space: SpaceId
    """Of the older bundle."""
    precision: Precision
    """Of this bundle, by which the queries were embedded."""
    ndcg: Annotated[dict[str, tuple[Share, Share]], Field(min_length=1)]
    """By languages of query and passage, e.g. `de-en`: nDCG@10 in the older space alone, and of
    the new queries in it."""
    tolerance: Share
    """No pair of languages may lose more."""
    measured_on: Annotated[str, StringConstraints(min_length=1, max_length=500)]

    @model_validator(mode="after")
    def _holds(self) -> Self:
        for pair, (old, new) in self.ndcg.items():
            if (lost := round(old - new, 6)) > self.tolerance:
                raise ValueError(f"{pair} loses {lost}, more than {self.tolerance}")
        return self


class Declaration(_Record):
    """What the maker of a bundle says about it; the rest of the manifest is computed."""

    name: SafeName
    version: SafeName
    dimension: Annotated[int, Field(ge=1, le=DIMENSION_LIMIT)]
    dimensions: Annotated[list[int], Field(default_factory=_full_dimension, min_length=1)]
    max_tokens: Annotated[int, Field(ge=4, le=MAX_TOKENS_LIMIT)]
    pooling: Literal["mean", "cls", "last"]
    normalised: Literal[True] = True
    prompts: Annotated[dict[Role, str], Field(validate_default=True)] = {}
    languages: list[str] = []
    precisions: Annotated[dict[Precision, FilePath], Field(min_length=1)]
    evaluation: dict[str, Any] = {}
    compatible_with: list[Compatibility] = []
    provenance: Provenance

    @field_validator("prompts")
    @classmethod
    def _every_role_has_a_prompt(cls, prompts: dict[Role, str]) -> dict[Role, str]:
        if any("\0" in prompt for prompt in prompts.values()):
            raise ValueError("a prompt holds a NUL character")
        return {role: prompts.get(role, "") for role in get_args(Role)}

    @field_validator("languages")
    @classmethod
    def _languages_are_codes(cls, languages: list[str]) -> list[str]:
        for language in languages:
            if not LANGUAGE.fullmatch(language):
                raise ValueError(f"{language!r} is not a BCP-47 code such as de, zh-Hans or pt-BR")
        return sorted(set(languages))

    @model_validator(mode="after")
    def _dimensions_fit(self) -> Self:
        if sorted(set(self.dimensions)) != self.dimensions or self.dimensions[0] < 1:
            raise ValueError(f"dimensions {self.dimensions} are not ascending and positive")
        if self.dimensions[-1] != self.dimension:
            raise ValueError(f"dimensions {self.dimensions} do not end at {self.dimension}")
        return self

    @model_validator(mode="after")
    def _claims_are_of_graphs_that_are_there(self) -> Self:
        for claim in self.compatible_with:
            if claim.precision not in self.precisions:
                raise ValueError(
                    f"compatible_with: {claim.precision} is no precision of this bundle"
                )
        return self

    @model_validator(mode="after")
    def _graphs_are_graphs(self) -> Self:
        for graph in self.precisions.values():
            if not graph.endswith(".onnx"):
                raise ValueError(f"precisions: {graph} does not end in .onnx")
        return self


class Manifest(Declaration):
    """`bundle.json`: the declaration, sealed with a hash of every file and the spaces they make."""

    format: Literal[1] = 1
    space: dict[Precision, SpaceId]
    files: dict[FilePath, Sha256]

    @property
    def fullest(self) -> Precision:
        """The precision, of those that it has, whose weights are rounded least."""
        return next(one for one in get_args(Precision) if one in self.precisions)

    @model_validator(mode="after")
    def _what_is_needed_is_listed(self) -> Self:
        if self.space.keys() != self.precisions.keys():
            raise ValueError("space and precisions name different precisions")
        for name in (TOKENIZER, PROBES, *self.precisions.values()):
            if name not in self.files:
                raise ValueError(f"{name} is not listed in files")
        if MANIFEST in self.files:
            raise ValueError(f"{MANIFEST} cannot list itself")
        return self


def space_id(
    declared: Declaration, precision: Precision, *, files: Mapping[str, str], weights: set[str]
) -> str:
    """The identity of the vectors of one precision: equal for two bundles only if all of it is.

    `files` has the SHA-256 of each file; `weights` names those that the graph of the precision
    opens beside itself.
    """
    shape = {
        "format": 1,
        "precision": precision,
        "graph": files[declared.precisions[precision]],
        "weights": {name: files[name] for name in weights},
        "tokenizer": files[TOKENIZER],
        "prompts": declared.prompts,
        "pooling": declared.pooling,
        "normalised": declared.normalised,
        "max_tokens": declared.max_tokens,
        "dimension": declared.dimension,
    }
    canonical = json.dumps(shape, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]
