"""`POST /search`: queries in any language to passages in every language."""

import math
from time import perf_counter
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from starlette.responses import Response

from service.errors import InvalidInput
from service.http import filter as filters
from service.http.context import SOUND, Here, Surface, note, timed
from service.http.limits import Limits, collection_name, pointing
from service.language import canonical
from service.requests import SearchRequest
from service.types import GroupBy, Hit, SearchAnswer

router = APIRouter(tags=["search"], dependencies=SOUND)

Include: TypeAlias = Literal["text", "metadata", "vector"]
MAX_LANGUAGES = 64
MAX_GROUP_SIZE = 100

EXAMPLE_HIT = {
    "document": "honey-de",
    "passage": {"number": 0, "start": 0, "end": 41},
    "language": "de",
    "score": 0.83,
    "text": "Bienen machen aus Nektar im Stock Honig.",
    "title": "Honig",
    "metadata": {"topic": "bees"},
}
EXAMPLE_ANSWER = {
    "hits": [EXAMPLE_HIT],
    "collection": "default",
    "generation": 1,
    "bundle": "first/0.1.0",
    "space": "6f1c…",
    "query_bundle": "first/0.1.0",
    "query_space": "6f1c…",
    "query_language": "en",
    "truncated": False,
}


class SearchBody(BaseModel):
    """One query or several, and which passages may be found."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "query": "how do bees make honey?",
                    "limit": 5,
                    "languages": ["de", "ja"],
                    "filter": {"field": "topic", "equals": "bees"},
                }
            ]
        },
    )

    query: str | None = Field(None, description="The question; either this or `queries`.")
    queries: list[str] | None = Field(None, description="Several questions; a list of answers.")
    collection: str = Field("default", description="Where to search.")
    limit: int = Field(10, description="Hits, or groups if `group_by` is given.")
    offset: int = Field(0, description="Hits or groups to skip.")
    languages: list[str] | None = Field(
        None, description="BCP-47 codes; only passages in these languages."
    )
    filter: Annotated[Any, WithJsonSchema(filters.SCHEMA)] = None
    group_by: GroupBy | None = Field(
        None, description="At most `group_size` hits for each document or language."
    )
    group_size: int = Field(1, ge=1, le=MAX_GROUP_SIZE, description="Hits in a group.")
    score_threshold: float | None = Field(
        None, ge=-1, le=1, allow_inf_nan=False, description="No hit with a lower cosine."
    )
    include: list[Include] = Field(
        ["text", "metadata"], description="What comes with each hit.", max_length=3
    )


@router.post(
    "/search",
    response_class=Response,
    summary="Search across languages",
    responses={
        200: {
            "description": "The hits, best first; for `queries`, a list of such answers. Hits of"
            " one group stand together, the best group first.",
            "content": {
                "application/json": {
                    "schema": {
                        "anyOf": [
                            {"type": "object"},
                            {"type": "array", "items": {"type": "object"}},
                        ]
                    },
                    "example": EXAMPLE_ANSWER,
                }
            },
        }
    },
)
async def search(body: SearchBody, request: Request, here: Here) -> Response:
    """Find passages by meaning, whatever language the query and they are in."""
    asked = _request(body, here.limits)
    single = body.query is not None
    with filters.pointing(), pointing("/query" if single else "/queries", single=single):
        answers = await here.live.search(asked, deadline_s=here.limits.request_deadline_s)
    note(
        request,
        items=len(answers),
        lane="query",
        collection=asked.collection,
        hits=sum(len(answer.hits) for answer in answers),
        truncated=sum(answer.truncated for answer in answers),
        generation=answers[0].generation,
        query_language=answers[0].query_language,
    )
    for stage, seconds in answers[0].stages.items():
        timed(request, stage, seconds)
    began = perf_counter()
    shapes = [_answer(answer, body.include) for answer in answers]
    content = orjson.dumps(
        shapes if body.queries is not None else shapes[0], option=orjson.OPT_SERIALIZE_NUMPY
    )
    _spent(request, here, perf_counter() - began)
    return Response(content, media_type="application/json")


def _request(body: SearchBody, limits: Limits) -> SearchRequest:
    limits.between(body.limit, 1, "max_limit", "limit", pointer="/limit")
    limits.between(body.offset, 0, "max_offset", "offset", pointer="/offset")
    where = None
    if body.filter is not None:
        where = filters.parse(body.filter, limits, pointer="/filter")
    return SearchRequest(
        queries=_queries(body, limits),
        collection=collection_name(body.collection, pointer="/collection"),
        limit=body.limit,
        offset=body.offset,
        languages=_languages(body.languages),
        where=where,
        group_by=body.group_by,
        group_size=body.group_size,
        score_threshold=body.score_threshold,
        include_text="text" in body.include,
        include_metadata="metadata" in body.include,
        include_vector="vector" in body.include,
    )


def _queries(body: SearchBody, limits: Limits) -> list[str]:
    if (body.query is None) == (body.queries is None):
        raise InvalidInput("give either `query` or `queries`", pointer="/query")
    if body.query is not None:
        return [limits.text(body.query, pointer="/query")]
    queries = body.queries or []
    if not queries:
        raise InvalidInput("the list of queries is empty", pointer="/queries")
    limits.at_most(len(queries), "max_queries", "queries in a request", pointer="/queries")
    return [limits.text(text, pointer=f"/queries/{at}") for at, text in enumerate(queries)]


def _languages(codes: list[str] | None) -> list[str] | None:
    if codes is None:
        return None
    if not 0 < len(codes) <= MAX_LANGUAGES:
        raise InvalidInput(
            f"{len(codes)} languages; 1 to {MAX_LANGUAGES} are allowed, or leave the list out",
            pointer="/languages",
        )
    return [_language(code, pointer=f"/languages/{at}") for at, code in enumerate(codes)]


def _language(code: str, *, pointer: str) -> str:
    try:
        return canonical(code)
    except InvalidInput as error:
        raise InvalidInput(error.detail, pointer=pointer) from error


def _answer(answer: SearchAnswer, include: list[Include]) -> dict[str, Any]:
    return {
        "hits": [_hit(hit, include) for hit in answer.hits],
        "collection": answer.collection,
        "generation": answer.generation,
        "bundle": answer.bundle,
        "space": answer.space,
        "query_bundle": answer.query_bundle,
        "query_space": answer.query_space,
        "query_language": answer.query_language,
        "truncated": answer.truncated,
    }


def _hit(hit: Hit, include: list[Include]) -> dict[str, Any]:
    score = float(hit.score)
    shape: dict[str, Any] = {
        "document": hit.document,
        "passage": {"number": hit.number, "start": hit.span.start, "end": hit.span.end},
        "language": hit.language,
        "score": score if math.isfinite(score) else 0.0,
        "title": hit.title,
    }
    if "text" in include:
        shape["text"] = hit.text
    if "metadata" in include:
        shape["metadata"] = dict(hit.metadata)
    if "vector" in include and hit.vector is not None:
        shape["vector"] = np.ascontiguousarray(hit.vector, dtype=np.float32)
    return shape


def _spent(request: Request, here: Surface, seconds: float) -> None:
    timed(request, "encode", seconds)
    here.metrics.stage_duration_seconds.labels("encode").observe(seconds)
