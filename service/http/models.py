"""`/models`: the registry, what each bundle is, and the way from one to the next.

A bundle is named, never located: no path and no address comes in over HTTP.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Path, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.responses import Response

from service.errors import BundleInvalid, InvalidInput
from service.http.context import SOUND, Here, note
from service.http.migrations import Epoch, MigrationBody, actor_of, answer, refusals
from service.inventory import ModelCard
from service.manifest import SAFE_NAME, Precision
from service.types import MigrationOptions, ModelInfo, ModelState

router = APIRouter(tags=["models"])

MAX_OVERRIDES: Final = 32
CHECK_CHARACTERS: Final = 64
REASON_CHARACTERS: Final = 1000
KEY_CHARACTERS: Final = 200
MAX_PASSAGES_PER_S: Final = 1_000_000
MAX_SOAK_S: Final = 30 * 24 * 3600

_KEY = re.compile(rf"[!-~]{{1,{KEY_CHARACTERS}}}")


class BundleRefused(InvalidInput):
    """The bundle that the request names breaks the contract."""

    code = "bundle_refused"


class ModelBody(BaseModel):
    """A bundle; of an invalid one, only the reason is known."""

    name: str
    version: str
    state: ModelState
    reason: str = Field(description="Why it is invalid.")
    space: str
    dimension: int
    dimensions: list[int] = Field(description="Lengths that a vector may be cut to.")
    max_tokens: int
    languages: list[str]
    precisions: list[str]
    roles: list[str]
    licence: str


class ModelsBody(BaseModel):
    """The registry."""

    models: list[ModelBody]


class DataBody(BaseModel):
    """A source of training data."""

    name: str
    licence: str
    rows: int


class ProvenanceBody(BaseModel):
    """Where a bundle comes from."""

    base_model: str
    recipe: str = Field(description="The name of the recipe.")
    commit: str
    data: list[DataBody]
    tools: dict[str, str] = Field(description="Versions of what made it.")


class UseBody(BaseModel):
    """A generation that it made."""

    generation: int
    precision: str
    state: str
    live: bool


class CardBody(ModelBody):
    """A bundle in full."""

    created: str
    spaces: dict[Precision, str] = Field(description="The space of each precision.")
    evaluation: dict[str, Any] = Field(description="What its maker measured.")
    provenance: ProvenanceBody
    generations: list[UseBody] = Field(description="Those that it made, the newest first.")


class ProofBody(BaseModel):
    """One precision works here."""

    precision: Precision
    space: str
    memory_bytes: int = Field(description="What it took at most.")
    seconds: float


class VerifiedBody(BaseModel):
    """What was proven of a bundle by opening it."""

    name: str
    version: str
    proofs: list[ProofBody] = Field(description="One for each precision.")


class ActivateBody(BaseModel):
    """How the migration is to run; what is left out is left to the settings."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {"precision": "fp32", "hold": True, "passages_per_s": 100, "soak_s": 600},
                {"override": ["latency"], "reason": "the larger encoder may take its time"},
            ]
        },
    )

    precision: Precision | None = Field(
        None, description="Variant of the bundle; the service chooses if it is left out."
    )
    hold: bool = Field(False, description="Stay ready, and cut over only when told to.")
    queries_first: bool = Field(
        True,
        description="If the bundle declares that its queries find the live passages, and that proves"
        " to be so here, ask them at once and index the passages behind.",
    )
    override: list[Annotated[str, Field(min_length=1, max_length=CHECK_CHARACTERS)]] = Field(
        [], max_length=MAX_OVERRIDES, description="Checks of the gate that may fail."
    )
    reason: str = Field(
        "", max_length=REASON_CHARACTERS, description="Why they may; required with `override`."
    )
    passages_per_s: float | None = Field(
        None,
        gt=0,
        le=MAX_PASSAGES_PER_S,
        allow_inf_nan=False,
        description="Embed no faster than this, to leave room for searches.",
    )
    soak_s: float | None = Field(
        None,
        ge=0,
        le=MAX_SOAK_S,
        allow_inf_nan=False,
        description="Keep the encoder before for so long after the cut-over.",
    )

    def options(self) -> MigrationOptions:
        """The options, or `InvalidInput` if checks are overridden without a reason."""
        if self.override and not self.reason.strip():
            raise InvalidInput(
                "`override` lets checks of the gate fail, so `reason` must say why",
                pointer="/reason",
            )
        return MigrationOptions(
            hold=self.hold,
            queries_first=self.queries_first,
            override=tuple(self.override),
            reason=self.reason,
            passages_per_s=self.passages_per_s,
            soak_s=self.soak_s,
        )


NOTHING_SAID: Final = ActivateBody()


def _safe(name: str) -> str:
    if not SAFE_NAME.fullmatch(name):
        raise ValueError(
            "no name in the registry: 1 to 64 of a-z, 0-9, '.', '_' and '-', a letter or a digit"
            " first"
        )
    return name


def _key(key: str | None) -> str | None:
    if key is not None and not _KEY.fullmatch(key):
        raise ValueError(f"not 1 to {KEY_CHARACTERS} visible ASCII characters")
    return key


PATTERN: Final = {"pattern": SAFE_NAME.pattern}
Name = Annotated[
    str,
    AfterValidator(_safe),
    Path(description="The bundle's name.", json_schema_extra=PATTERN),
]
Version = Annotated[
    str,
    AfterValidator(_safe),
    Path(description="The bundle's version.", json_schema_extra=PATTERN),
]
IdempotencyKey = Annotated[
    str | None,
    AfterValidator(_key),
    Header(
        alias="Idempotency-Key",
        description=f"Up to {KEY_CHARACTERS} visible ASCII characters of your own; the same request"
        " with the same key is carried out once, and answered again.",
    ),
]


@router.get("/models", summary="The registry of models")
async def models(here: Here) -> ModelsBody:
    """Every bundle version: `active` serves, `available` could, `invalid` breaks the contract."""
    return ModelsBody(models=[ModelBody(**_shape(each)) for each in await here.inventory.models()])


@router.get("/models/{name}/{version}", summary="See a model", responses=refusals(404, 422))
async def read(name: Name, version: Version, here: Here) -> CardBody:
    """What it is, where it comes from, how well it did, and which generations it made."""
    return _card(await here.inventory.model(name, version))


@router.post(
    "/models/{name}/{version}/verify",
    summary="Verify a model",
    responses=refusals(404, 422),
)
async def verify(name: Name, version: Version, request: Request, here: Here) -> VerifiedBody:
    """Check every file, and open it in a process of its own; 422 says what is wrong with it."""
    note(request, bundle=f"{name}/{version}")
    with _refusing():
        proofs = await here.migrations.verify(name, version)
    return VerifiedBody(
        name=name, version=version, proofs=[ProofBody(**asdict(each)) for each in proofs]
    )


@router.delete(
    "/models/{name}/{version}",
    status_code=204,
    response_class=Response,
    summary="Remove a model",
    responses=refusals(404, 409, 422),
)
async def remove(name: Name, version: Version, request: Request, here: Here) -> Response:
    """Take it out of the registry; while a generation uses it, that is a conflict."""
    note(request, bundle=f"{name}/{version}")
    await here.migrations.remove(name, version)
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.post(
    "/models/{name}/{version}/activate",
    status_code=202,
    response_model=MigrationBody,
    dependencies=SOUND,
    summary="Make a model the live one",
    responses={
        202: {
            "description": "The migration has begun, or goes on if the key is known.",
            "headers": {
                "Location": {
                    "description": "Where the migration is seen.",
                    "schema": {"type": "string"},
                },
                "ETag": {"description": "The route's epoch.", "schema": {"type": "string"}},
            },
        },
        **refusals(404, 409, 412, 422),
    },
)
async def activate(
    *,
    name: Name,
    version: Version,
    request: Request,
    here: Here,
    epoch: Epoch,
    body: ActivateBody = NOTHING_SAID,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Index everything anew by it beside the live one, prove it, and let it answer from then on."""
    note(request, bundle=f"{name}/{version}")
    with _refusing():
        migration = await here.migrations.activate(
            name,
            version,
            precision=body.precision,
            options=body.options(),
            idempotency_key=idempotency_key,
            epoch=epoch,
            actor=actor_of(request),
        )
    note(request, generation=migration.generation)
    location = f"/migrations/{migration.generation}"
    return answer(migration, status=HTTPStatus.ACCEPTED, location=location)


@contextmanager
def _refusing() -> Iterator[None]:
    """A bundle that the client chose is the client's to put right, and the reason is told."""
    try:
        yield
    except BundleInvalid as error:
        raise BundleRefused(error.detail) from error


def _shape(model: ModelInfo) -> dict[str, Any]:
    return {
        "name": model.name,
        "version": model.version,
        "state": model.state,
        "reason": model.reason,
        "space": model.space,
        "dimension": model.dimension,
        "dimensions": list(model.dimensions),
        "max_tokens": model.max_tokens,
        "languages": list(model.languages),
        "precisions": list(model.precisions),
        "roles": list(model.roles),
        "licence": model.licence,
    }


def _card(card: ModelCard) -> CardBody:
    provenance = ProvenanceBody(
        base_model=card.base_model,
        recipe=card.recipe,
        commit=card.commit,
        data=[DataBody(name=each.name, licence=each.licence, rows=each.rows) for each in card.data],
        tools=dict(card.tools),
    )
    return CardBody(
        **_shape(card.model),
        created=card.created,
        spaces=dict(card.spaces),
        evaluation=dict(card.evaluation),
        provenance=provenance,
        generations=[UseBody(**asdict(each)) for each in card.uses],
    )
