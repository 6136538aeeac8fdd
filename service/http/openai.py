"""`/v1/embeddings` and `/v1/models`: what the unmodified OpenAI client asks and expects."""

from time import perf_counter
from typing import Annotated, Any, Literal, NamedTuple

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from starlette.responses import Response

from service.errors import NotFound
from service.http import roles
from service.http.context import SOUND, Here, Surface
from service.http.embed import TEXTS_SCHEMA, record, spent
from service.http.limits import pointing, shown
from service.http.vectors import base64s, floats, headers_of
from service.types import EmbedAnswer, ModelInfo, Role

router = APIRouter(tags=["openai"])


class ModelNotFound(NotFound):
    """A model was named that does not serve."""

    code = "model_not_found"


class EmbeddingsBody(BaseModel):
    """OpenAI's request; what it has beyond the documented keys is ignored, as clients rely on."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={"examples": [{"model": "starter", "input": ["one text", "another"]}]},
    )

    input: Annotated[Any, WithJsonSchema(TEXTS_SCHEMA)]
    model: str | None = Field(
        None,
        description="`name` or `name/version` of the live bundle; the suffix `:query` or `:passage`"
        " says the role. Without it, the live bundle.",
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="`base64` is little-endian float32."
    )
    dimensions: int | None = Field(None, ge=1, description="A length that the model allows.")
    input_type: str | None = Field(None, description=f"The role. {roles.DESCRIPTION}")
    user: str | None = Field(None, description="Ignored.")


class Wanted(NamedTuple):
    """A model string, taken apart: `name[/version][:role]`."""

    name: str
    version: str
    role: Role | None

    def is_served_by(self, bundle: str) -> bool:
        name, _, version = bundle.partition("/")
        return self.name == name and self.version in {"", version}


@router.post(
    "/v1/embeddings",
    response_class=Response,
    dependencies=SOUND,
    summary="Embed texts, the OpenAI way",
    responses={
        200: {
            "description": "One embedding for each input, in order.",
            "content": {
                "application/json": {
                    "schema": {"type": "object"},
                    "example": {
                        "object": "list",
                        "data": [{"object": "embedding", "index": 0, "embedding": [0.0132, -0.07]}],
                        "model": "first/0.1.0",
                        "usage": {"prompt_tokens": 5, "total_tokens": 5},
                    },
                }
            },
        }
    },
)
@router.post("/embeddings", response_class=Response, dependencies=SOUND, include_in_schema=False)
async def embeddings(body: EmbeddingsBody, request: Request, here: Here) -> Response:
    """Embed one text or up to 2048; the role is said by `input_type` or by the model's suffix."""
    texts = here.limits.texts(body.input, pointer="/input")
    wanted = parse_model(body.model) if body.model is not None else None
    role = roles.said({"input_type": body.input_type}) or (wanted.role if wanted else None)
    with pointing("/input", single=isinstance(body.input, str)):
        answer = await here.live.embed(
            texts,
            role or roles.DEFAULT,
            truncate=True,
            dimensions=body.dimensions,
            normalize=True,
            deadline_s=here.limits.request_deadline_s,
        )
    if wanted is not None and not wanted.is_served_by(answer.bundle):
        raise _not_served(
            wanted, answer.bundle
        )  # asked of the answer, as a cut-over may come first
    record(request, answer)
    began = perf_counter()
    content = await encode(answer, body.encoding_format)
    spent(request, here, perf_counter() - began)
    return Response(content, headers=headers_of(answer), media_type="application/json")


async def encode(answer: EmbedAnswer, encoding: Literal["float", "base64"]) -> bytes:
    """OpenAI's list of embeddings, written around the bytes of the vectors."""
    rows = base64s(answer.vectors) if encoding == "base64" else await floats(answer.vectors)
    data = b",".join(
        b'{"object":"embedding","index":%d,"embedding":%b}' % entry for entry in enumerate(rows)
    )
    tokens = int(sum(answer.tokens))
    tail = {
        "model": answer.bundle,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return b'{"object":"list","data":[%b],%b' % (data, orjson.dumps(tail)[1:])


@router.get("/v1/models", summary="The models that serve, the OpenAI way")
async def models(here: Here) -> dict[str, Any]:
    """Every name under which the live bundle answers."""
    active = await _active(here)
    return {"object": "list", "data": [_model(name) for name in _names(active)]}


@router.get("/v1/models/{model:path}", summary="One model, the OpenAI way")
async def model(model: str, here: Here) -> dict[str, Any]:
    """The model, if it is the one that serves."""
    wanted = parse_model(model)
    active = await _active(here)
    bundle = f"{active.name}/{active.version}" if active else ""
    if not wanted.is_served_by(bundle):
        raise _not_served(wanted, bundle)
    return _model(model)


def parse_model(text: str) -> Wanted:
    """`name`, `name/version`, either with `:query` or `:passage` behind it."""
    name, colon, suffix = text.rpartition(":")
    if not colon:
        name, suffix = text, ""
    if colon and suffix not in {"query", "passage"}:
        raise ModelNotFound(f"model {shown(text)}: the suffix is `:query` or `:passage`")
    name, _, version = name.partition("/")
    role: Role | None = None
    if suffix:
        role = "query" if suffix == "query" else "passage"
    return Wanted(name, version, role)


def _not_served(wanted: Wanted, bundle: str) -> ModelNotFound:
    asked = shown("/".join(filter(None, (wanted.name, wanted.version))))
    return ModelNotFound(f"model {asked} does not serve; {bundle!r} does")


async def _active(here: Surface) -> ModelInfo | None:
    found = [each for each in await here.inventory.models() if each.state == "active"]
    return found[0] if found else None


def _names(active: ModelInfo | None) -> list[str]:
    if active is None:
        return []
    full = f"{active.name}/{active.version}"
    return [active.name, full, f"{active.name}:query", f"{active.name}:passage"]


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "isogloss"}
