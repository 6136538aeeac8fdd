"""`/migrations`: see how the next encoder comes, hold it, let it go live, and take it back.

A migration is asked for under `/models`, and named by the number of the generation that it makes.
"""

import re
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeAlias

import orjson
from fastapi import APIRouter, Depends, Header, Path, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response, StreamingResponse

from service.errors import InvalidInput
from service.http.context import Here, note
from service.http.events import EVENTS, UNBUFFERED, event_stream
from service.http.limits import shown
from service.http.problems import MEDIA_TYPE, of_service, request_id_of
from service.types import Migration, MigrationStep

router = APIRouter(tags=["migrations"])

MAX_ID: Final = 2**63 - 1

EXAMPLE: Final[dict[str, Any]] = {
    "generation": 2,
    "bundle": "starter",
    "version": "1.1.0",
    "precision": "fp32",
    "space": "6f1c…",
    "state": "active",
    "paused": False,
    "live": True,
    "epoch": 4,
    "created": "2026-01-31T10:00:00Z",
    "changed": "2026-01-31T10:04:00Z",
    "error": "",
    "options": {
        "hold": False,
        "queries_first": True,
        "override": [],
        "reason": "",
        "passages_per_s": 500,
        "soak_s": 600,
    },
    "collections": [
        {"name": "default", "state": "current", "applied": 9000, "total": 9000, "error": ""}
    ],
    "applied": 9000,
    "total": 9000,
    "passages_per_s": 310.5,
    "remaining_s": 0,
    "asking": False,
    "compatible": {
        "name": "compatible",
        "ok": False,
        "detail": "sentences: nDCG@10 over all languages is 0.801, and 0.874 by the live encoder's"
        " queries: more than 0.02 lower (ISOGLOSS_GATE_TOLERANCE)",
        "overridable": False,
        "measures": {},
    },
    "report": {
        "passed": True,
        "checks": [
            {
                "name": "recall",
                "ok": True,
                "detail": "no pair of languages lost more than 0.01",
                "overridable": True,
                "measures": {"de-en": {"new": 0.91, "old": 0.90}},
            }
        ],
        "overridden": [],
        "reason": "",
        "at": "2026-01-31T10:03:58Z",
        "seconds": 4.5,
    },
    "shadow": {"queries": 200, "overlap_at_10": 0.87},
    "soak_until": "2026-01-31T10:14:00Z",
    "pods": [{"id": "pod-1", "seen_s_ago": 0.8, "epoch": 4, "loaded": True, "refused": ""}],
}

_EPOCH = re.compile(r'"[0-9]{1,18}"|[0-9]{1,18}')


class _Shape(BaseModel):
    """What is read from the service's own values."""

    model_config = ConfigDict(from_attributes=True)


class OptionsBody(_Shape):
    """How the migration was asked to run; null where the settings decide."""

    hold: bool = Field(description="Stay ready until told to cut over.")
    queries_first: bool = Field(
        description="Ask its queries of the live passages as soon as it is proven that they find them."
    )
    override: list[str] = Field(description="Checks of the gate that may fail.")
    reason: str = Field(description="Why they may.")
    passages_per_s: float | None = Field(description="Embed no faster than this.")
    soak_s: float | None = Field(description="Keep the encoder before for so long.")


class CollectionProgressBody(_Shape):
    """How far it has come with one collection."""

    name: str
    state: str
    applied: int
    total: int
    error: str = Field(description="What holds it up.")


class CheckBody(_Shape):
    """One thing that the gate looked at."""

    name: str
    ok: bool
    detail: str
    overridable: bool
    measures: dict[str, Any] = Field(description="Its numbers, by language or pair of languages.")


class ReportBody(_Shape):
    """What was proven before it may go live."""

    passed: bool
    checks: list[CheckBody]
    overridden: list[str]
    reason: str
    at: str
    seconds: float


class PodBody(_Shape):
    """A process of the service, as it reported itself."""

    id: str
    seen_s_ago: float
    epoch: int
    loaded: bool = Field(description="It has the encoder open.")
    refused: str = Field(description="Why it could not open it.")


class MigrationBody(_Shape):
    """A generation on its way from registered to live, or from live to retired."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [EXAMPLE]})

    generation: int = Field(description="Its number, and the migration's.")
    bundle: str
    version: str
    precision: str
    space: str
    state: str = Field(
        description="`registered`, `building`, `indexing`, `catching_up`, `verifying`, `ready`; then"
        " `active`, while the one before is `soaking`, or `failed` or `aborted`; at the end"
        " `retiring`, `retired`."
    )
    paused: bool
    live: bool = Field(description="Searches are answered from it.")
    epoch: int = Field(description="Of the route; it grows with every cut-over.")
    created: str
    changed: str = Field(description="Since when it is in this state.")
    error: str
    options: OptionsBody
    collections: list[CollectionProgressBody]
    applied: int = Field(description="Passages done, of `total`.")
    total: int
    passages_per_s: float | None
    remaining_s: float | None
    asking: bool = Field(
        description="Its encoder embeds the queries already, and they find the passages of the live one."
    )
    compatible: CheckBody | None = Field(
        description="Whether they find them; null if its bundle does not declare it."
    )
    report: ReportBody | None = Field(description="The gate's, once it has looked.")
    shadow: dict[str, Any] | None = Field(
        description="How its answers to recent queries differ from those that were given."
    )
    soak_until: str | None = Field(description="Until when it can be taken back at once.")
    pods: list[PodBody]


class MigrationsBody(BaseModel):
    """All of them, the newest first."""

    migrations: list[MigrationBody]


async def _epoch(
    if_match: Annotated[
        str | None,
        Header(
            alias="If-Match",
            description='The epoch at which you looked, as the ETag said it: `"7"`. If the route has'
            " moved on since, nothing is done and 412 is answered. `*` takes any.",
        ),
    ] = None,
) -> int | None:
    given = if_match.strip() if if_match is not None else "*"
    if given == "*":
        return None
    if not _EPOCH.fullmatch(given):
        raise InvalidInput(
            f'If-Match: {shown(given)} is no epoch; "7", 7 and * are understood',
            pointer="/header/If-Match",
        )
    return int(given.strip('"'))


Epoch: TypeAlias = Annotated[int | None, Depends(_epoch)]
"""The type of a route's parameter that receives the epoch of If-Match; None takes any."""

Generation = Annotated[
    int, Path(ge=1, le=MAX_ID, description="The number of the generation that it makes.")
]


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What the schema says of these statuses."""
    meanings = {
        HTTPStatus.NOT_FOUND: "There is no such thing.",
        HTTPStatus.CONFLICT: "What is there does not allow it; the detail says what would.",
        HTTPStatus.PRECONDITION_FAILED: "The route is at another epoch than If-Match says.",
        HTTPStatus.UNPROCESSABLE_ENTITY: "A name, a value or the bundle is wrong.",
    }
    schema = {"$ref": "#/components/schemas/ProblemDocument"}
    return {
        status: {
            "description": meanings[HTTPStatus(status)],
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status in statuses
    }


def shape(migration: Migration) -> MigrationBody:
    """A migration as clients see it."""
    return MigrationBody.model_validate(migration)


def answer(
    migration: Migration, *, status: int = HTTPStatus.OK, location: str | None = None
) -> Response:
    """A migration as a response; its ETag is the epoch, so no cache may keep it."""
    headers = {"ETag": f'"{migration.epoch}"', "Cache-Control": "no-store"}
    if location is not None:
        headers["Location"] = location
    # Not through FastAPI: a number that is none must be null here as it is in the events.
    return Response(shape(migration).model_dump_json(), status, headers, "application/json")


def actor_of(request: Request) -> str:
    """Who asked, as the events of the catalog keep it."""
    return f"http {request.client.host}" if request.client else "http"


@router.get(
    "/migrations",
    response_model=MigrationsBody,
    summary="List migrations",
)
async def list_migrations(here: Here) -> Response:
    """Every generation that there was, the newest first, with how far it has come."""
    found = await here.migrations.list()
    body = MigrationsBody(migrations=[shape(each) for each in found])
    headers = {"Cache-Control": "no-store"}
    if found:
        headers["ETag"] = f'"{found[0].epoch}"'
    return Response(body.model_dump_json(), HTTPStatus.OK, headers, "application/json")


@router.get(
    "/migrations/{generation}",
    response_model=MigrationBody,
    summary="See a migration",
    responses=refusals(404, 422),
)
async def read(generation: Generation, here: Here) -> Response:
    """Its state, how far each collection is, what the gate found, and who has it open."""
    return answer(await here.migrations.get(generation))


@router.get(
    "/migrations/{generation}/events",
    response_class=StreamingResponse,
    summary="Watch a migration",
    responses={
        200: {
            "description": "Server-sent events: `migration` now and at every change, with what"
            " `GET /migrations/{generation}` answers; `end` when it is at rest, so that a browser"
            " need not ask again; `problem` when it can be watched no longer. A stream that ends"
            " otherwise was cut off.",
            "content": {
                EVENTS: {
                    "schema": {"type": "string"},
                    "example": "event: migration\nid: 1\n"
                    f"data: {orjson.dumps(EXAMPLE).decode()}\n\nevent: end\ndata: {{}}\n\n",
                }
            },
        },
        **refusals(404, 422),
    },
)
async def events(generation: Generation, request: Request, here: Here) -> StreamingResponse:
    """The migration as it goes on; a client that leaves is watched for no longer."""
    await here.migrations.get(generation)  # what is not there is 404, not an empty stream
    note(request, generation=generation)
    content = event_stream(
        here.migrations.watch(generation),
        name="migration",
        write=lambda migration: shape(migration).model_dump_json().encode(),
        stopping=lambda: here.draining,
        problem=lambda error: of_service(error).document(
            path=request.url.path, request_id=request_id_of(request.scope)
        ),
    )
    return StreamingResponse(content, media_type=EVENTS, headers=UNBUFFERED)


@router.post(
    "/migrations/{generation}/{step}",
    status_code=202,
    response_model=MigrationBody,
    summary="Pause, resume, abort, cut over, roll back or finish",
    responses={202: {"description": "It will be done."}, **refusals(404, 409, 412, 422)},
)
async def take(
    *,
    generation: Generation,
    step: Annotated[
        MigrationStep,
        Path(
            description="`pause` and `resume` the work; `abort` it, what is live stays; `cut-over`"
            " as soon as it is ready; `rollback` while the one before soaks; `finish` the soak."
        ),
    ],
    request: Request,
    here: Here,
    epoch: Epoch,
) -> Response:
    """One step of an operator; the answer is the migration as it is now."""
    note(request, generation=generation, step=step)
    actor = actor_of(request)
    migration = await here.migrations.step(generation, step, epoch=epoch, actor=actor)
    return answer(migration, status=HTTPStatus.ACCEPTED)
