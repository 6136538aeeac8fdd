"""`POST /embed`: texts to vectors, in the shape of Text Embeddings Inference."""

from time import perf_counter
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from starlette.responses import Response

from service.http import roles
from service.http.context import SOUND, Here, note, timed
from service.http.limits import pointing
from service.http.vectors import (
    MSGPACK,
    Encoding,
    base64s,
    floats,
    headers_of,
    packed,
    wants_msgpack,
)
from service.types import EmbedAnswer, Role

router = APIRouter(tags=["embed"], dependencies=SOUND)

TEXTS_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
    ],
    "description": "One text or a list of texts.",
}


class EmbedBody(BaseModel):
    """A text or texts, and how their vectors shall be."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [{"inputs": ["Wie kommt der Honig ins Glas?"], "role": "query"}]
        },
    )

    inputs: Annotated[Any, WithJsonSchema(TEXTS_SCHEMA)]
    role: Role | None = Field(None, description="What the texts are to a search.")
    input_type: str | None = Field(
        None, description=f"The role, by Cohere's and OpenAI's servers' name. {roles.DESCRIPTION}"
    )
    prompt_name: str | None = Field(
        None, description=f"The role, by TEI's name. {roles.DESCRIPTION}"
    )
    normalize: bool = Field(True, description="Scale the vectors to length 1.")
    truncate: bool = Field(True, description="Cut texts that are too long; if not, refuse them.")
    truncation_direction: Literal["right", "Right"] = Field(
        "right", description="The end that is cut."
    )
    dimensions: int | None = Field(
        None, ge=1, description="A shorter length that the model allows."
    )
    encoding_format: Encoding = Field(
        "float",
        description="JSON floats, or base64 or msgpack of little-endian float32."
        f" `Accept: {MSGPACK}` asks for msgpack as well.",
    )


@router.post(
    "/embed",
    response_class=Response,
    summary="Embed texts",
    responses={
        200: {
            "description": "One vector for each text, in order. The headers name the model, the"
            " space and the role, and count tokens and truncated texts.",
            "headers": {
                name: {"schema": {"type": "string"}}
                for name in (
                    "X-Isogloss-Model",
                    "X-Isogloss-Space",
                    "X-Isogloss-Role",
                    "X-Isogloss-Tokens",
                    "X-Isogloss-Truncated",
                )
            },
            "content": {
                "application/json": {
                    "schema": {
                        "type": "array",
                        "items": {
                            "anyOf": [
                                {"type": "array", "items": {"type": "number"}},
                                {"type": "string", "contentEncoding": "base64"},
                            ]
                        },
                    },
                    "example": [[0.0132, -0.0771, 0.0204]],
                },
                MSGPACK: {"schema": {"type": "string", "format": "binary"}},
            },
        }
    },
)
async def embed(body: EmbedBody, request: Request, here: Here) -> Response:
    """Embed one text or many; the answer is always a list of vectors."""
    texts = here.limits.texts(body.inputs, pointer="/inputs")
    role = body.role or roles.said({"input_type": body.input_type, "prompt_name": body.prompt_name})
    with pointing("/inputs", single=isinstance(body.inputs, str)):
        answer = await here.live.embed(
            texts,
            role or roles.DEFAULT,
            truncate=body.truncate,
            dimensions=body.dimensions,
            normalize=body.normalize,
            deadline_s=here.limits.request_deadline_s,
        )
    record(request, answer)
    encoding = body.encoding_format
    if encoding == "float" and wants_msgpack(request):
        encoding = "msgpack"
    began = perf_counter()
    content, media_type = await encode(answer, encoding)
    spent(request, here, perf_counter() - began)
    return Response(content, headers=headers_of(answer), media_type=media_type)


async def encode(answer: EmbedAnswer, encoding: Encoding) -> tuple[bytes, str]:
    """The vectors as a response's body, and its media type."""
    if encoding == "msgpack":
        return packed(answer.vectors), MSGPACK
    rows = base64s(answer.vectors) if encoding == "base64" else await floats(answer.vectors)
    return b"[%b]" % b",".join(rows), "application/json"


def record(request: Request, answer: EmbedAnswer) -> None:
    """What the access log says of an embedding."""
    note(
        request,
        items=len(answer.tokens),
        lane=answer.role,
        tokens=int(sum(answer.tokens)),
        truncated=int(sum(answer.truncated)),
        bundle=answer.bundle,
    )


def spent(request: Request, here: Here, seconds: float) -> None:
    """The time that writing vectors took."""
    timed(request, "encode", seconds)
    here.metrics.stage_duration_seconds.labels("encode").observe(seconds)
