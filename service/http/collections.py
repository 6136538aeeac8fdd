"""`/collections`: make, see and drop named collections with their declared fields."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from service.errors import InvalidInput
from service.filters import LANGUAGE
from service.http.context import SOUND, Here, note
from service.http.limits import collection_name, shown, step
from service.types import CollectionInfo, FieldType

router = APIRouter(tags=["collections"])

MAX_FIELDS = 64
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")

Name = Annotated[str, Path(description="The collection's name.")]


class CreateBody(BaseModel):
    """A collection, and the metadata fields that can be filtered in it."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [{"name": "news", "fields": {"topic": "keyword", "year": "integer"}}]
        },
    )

    name: str = Field(description="1 to 64 letters, digits, '.', '_' and '-'.")
    fields: dict[str, FieldType] = Field(
        {}, description="Name and type of each field; `language` is there by itself."
    )


class CollectionBody(BaseModel):
    """A collection and its size; searches lag behind the catalog by `lag` passages."""

    name: str
    fields: dict[str, FieldType]
    documents: int
    passages: int
    languages: dict[str, int] = Field(description="Passages of each language.")
    revision: int
    lag: int


class CollectionsBody(BaseModel):
    """All collections."""

    collections: list[CollectionBody]


@router.post("/collections", status_code=201, dependencies=SOUND, summary="Make a collection")
async def create(body: CreateBody, request: Request, here: Here) -> CollectionBody:
    """Make it, or find it made with the same fields; other fields are a conflict."""
    name = collection_name(body.name, pointer="/name")
    note(request, collection=name)
    if len(body.fields) > MAX_FIELDS:
        raise InvalidInput(
            f"{len(body.fields)} fields; at most {MAX_FIELDS} are allowed", pointer="/fields"
        )
    for field in body.fields:
        if not _FIELD.fullmatch(field) or field == LANGUAGE:
            raise InvalidInput(
                f"{shown(field)} is no name for a field: 1 to 64 letters, digits, '_', '-', and not"
                f" {LANGUAGE!r}, which is built in",
                pointer=step("/fields", field),
            )
    return _shape(await here.inventory.create_collection(name, body.fields))


@router.get("/collections", summary="List collections")
async def list_collections(here: Here) -> CollectionsBody:
    """Every collection with its size, languages and fields."""
    return CollectionsBody(
        collections=[_shape(each) for each in await here.inventory.collections()]
    )


@router.get("/collections/{name}", summary="See a collection")
async def read(name: Name, here: Here) -> CollectionBody:
    """The collection with its size, languages and fields."""
    return _shape(await here.inventory.collection(collection_name(name, pointer="/path/name")))


@router.delete(
    "/collections/{name}", status_code=204, response_class=Response, summary="Drop a collection"
)
async def drop(name: Name, here: Here) -> Response:
    """Remove it with everything in it."""
    await here.inventory.drop_collection(collection_name(name, pointer="/path/name"))
    return Response(status_code=204)


def _shape(info: CollectionInfo) -> CollectionBody:
    values: dict[str, Any] = {
        "name": info.name,
        "fields": dict(info.fields),
        "documents": info.documents,
        "passages": info.passages,
        "languages": dict(info.languages),
        "revision": info.revision,
        "lag": info.lag,
    }
    return CollectionBody(**values)
