"""`/documents`: put, read, list and delete; the stream of many is in `bulk`."""

import math
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from starlette.responses import Response

from service.errors import InvalidInput, NotFound
from service.http import filter as filters
from service.http.context import SOUND, Here, note
from service.http.limits import TITLE_CHARACTERS, Limits, collection_name, identifier, shown, step
from service.types import Document, Wait

router = APIRouter(tags=["documents"])

SMALL = 100
"""Writes of so many documents wait until they are visible unless they say otherwise."""
PAGE = 100
MAX_FIELDS = 64
KEY_CHARACTERS = 128
METADATA_SCHEMA: dict[str, Any] = {
    "type": "object",
    "maxProperties": MAX_FIELDS,
    "description": "Any keys; values are strings, numbers, booleans, null, or lists of those."
    " Fields that the collection declares can be filtered.",
}

Collection = Annotated[str, Query(description="The collection.")]


class DocumentBody(BaseModel):
    """A text under your own id; an existing document of that id is replaced."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str = Field(description="Your id, up to 512 characters.")
    text: str = Field(description="The text, of any length up to the limit; it is cut in passages.")
    title: str = Field("", description="Embedded with every passage.")
    language: str | None = Field(None, description="BCP-47; identified if it is left out.")
    metadata: Annotated[Any, WithJsonSchema(METADATA_SCHEMA)] = None

    def document(self, limits: Limits, *, pointer: str) -> Document:
        """The document, or `InvalidInput` that points at what is wrong with it."""
        if len(self.title) > TITLE_CHARACTERS:
            raise InvalidInput(
                f"title: {len(self.title)} characters; at most {TITLE_CHARACTERS} are allowed",
                pointer=step(pointer, "title"),
            )
        return Document(
            id=identifier(self.id, pointer=step(pointer, "id")),
            text=limits.text(self.text, pointer=step(pointer, "text")),
            title=self.title,
            language=self.language,
            metadata=_metadata(self.metadata, pointer=step(pointer, "metadata")),
        )


class PutBody(BaseModel):
    """Documents for one collection; all are stored, or none."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "documents": [
                        {
                            "id": "honey-de",
                            "text": "Bienen machen aus Nektar im Stock Honig.",
                            "title": "Honig",
                            "metadata": {"topic": "bees"},
                        }
                    ]
                }
            ]
        },
    )

    collection: str = Field("default", description="Where they go.")
    documents: list[DocumentBody] = Field(description="At least one.")
    wait: Wait | None = Field(
        None,
        description="Answer when they are `stored`, or when searches see them (`visible`, the"
        f" default for up to {SMALL} documents).",
    )


class DeleteBody(BaseModel):
    """What to delete: documents by id, or those that a filter matches."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"ids": ["honey-de"]}]},
    )

    collection: str = "default"
    ids: list[str] | None = Field(None, description="Either this or `filter`.")
    filter: Annotated[Any, WithJsonSchema(filters.SCHEMA)] = None
    wait: Wait = "visible"


class WrittenBody(BaseModel):
    """Stored at `revision`; `visible` if searches see it already."""

    accepted: int
    revision: int
    visible: bool


class DeletedBody(BaseModel):
    """So many documents were there, and are gone as of `revision`."""

    deleted: int
    revision: int
    visible: bool


@router.post("/documents", dependencies=SOUND, summary="Put documents")
async def put(body: PutBody, request: Request, here: Here) -> WrittenBody:
    """Insert or replace up to 1,000 documents in one step."""
    collection = collection_name(body.collection, pointer="/collection")
    note(request, items=len(body.documents), lane="passage", collection=collection)
    if not body.documents:
        raise InvalidInput("the list of documents is empty", pointer="/documents")
    here.limits.at_most(
        len(body.documents), "max_documents", "documents in a request", pointer="/documents"
    )
    documents = [
        each.document(here.limits, pointer=f"/documents/{at}")
        for at, each in enumerate(body.documents)
    ]
    _refuse_twins(documents)
    wait = body.wait or ("visible" if len(documents) <= SMALL else "stored")
    written = await here.live.put(collection, documents, wait)
    return WrittenBody(
        accepted=written.accepted, revision=written.revision, visible=written.visible
    )


@router.post("/documents/delete", dependencies=SOUND, summary="Delete documents")
async def delete_many(body: DeleteBody, request: Request, here: Here) -> DeletedBody:
    """Delete by id, or everything that a filter matches; an unknown id is not counted."""
    collection = collection_name(body.collection, pointer="/collection")
    if (body.ids is None) == (body.filter is None):
        raise InvalidInput("give either `ids` or `filter`", pointer="/ids")
    if body.ids is not None:
        here.limits.at_most(len(body.ids), "max_documents", "ids in a request", pointer="/ids")
        ids = [identifier(each, pointer=f"/ids/{at}") for at, each in enumerate(body.ids)]
        deleted = await here.live.delete(collection, ids, body.wait)
    else:
        where = filters.parse(body.filter, here.limits, pointer="/filter")
        with filters.pointing():
            deleted = await here.live.delete_where(collection, where, body.wait)
    note(request, items=deleted.deleted, collection=collection)
    return DeletedBody(deleted=deleted.deleted, revision=deleted.revision, visible=deleted.visible)


@router.get("/documents", response_class=Response, summary="List documents")
async def list_documents(
    here: Here,
    collection: Collection = "default",
    cursor: Annotated[str | None, Query(description="From the page before.")] = None,
    limit: Annotated[int | None, Query(description="Documents in a page; 100 if not said.")] = None,
) -> Response:
    """A page of documents without their texts, in the order of their first arrival."""
    name = collection_name(collection, pointer="/query/collection")
    limit = min(PAGE, here.limits.max_documents) if limit is None else limit
    here.limits.between(limit, 1, "max_documents", "limit", pointer="/query/limit")
    try:
        page = await here.live.documents(name, cursor, limit)
    except InvalidInput as error:
        raise InvalidInput(error.detail, pointer="/query/cursor") from error
    content = {
        "collection": name,
        "documents": [
            {
                "id": each.id,
                "title": each.title,
                "language": each.language,
                "metadata": dict(each.metadata),
                "characters": each.characters,
                "passages": each.passages,
            }
            for each in page.documents
        ],
        "cursor": page.cursor,
    }
    return Response(orjson.dumps(content), media_type="application/json")


@router.get("/documents/{id:path}", response_class=Response, summary="Read a document")
async def read(id: str, here: Here, collection: Collection = "default") -> Response:  # noqa: A002
    """The document as it was stored, with its language and the spans of its passages."""
    name = collection_name(collection, pointer="/query/collection")
    stored = await here.live.document(name, identifier(id, pointer="/path/id"))
    content = {
        "id": stored.id,
        "text": stored.text,
        "title": stored.title,
        "language": stored.language,
        "metadata": dict(stored.metadata),
        "collection": name,
        "passages": [
            {"number": number, "start": span.start, "end": span.end}
            for number, span in enumerate(stored.passages)
        ],
    }
    return Response(orjson.dumps(content), media_type="application/json")


@router.delete("/documents/{id:path}", summary="Delete a document")
async def delete(
    id: str,  # noqa: A002
    here: Here,
    collection: Collection = "default",
    wait: Annotated[Wait, Query(description="As for putting.")] = "visible",
) -> DeletedBody:
    """Delete one document; 404 if there is none of that id."""
    name = collection_name(collection, pointer="/query/collection")
    deleted = await here.live.delete(name, [identifier(id, pointer="/path/id")], wait)
    if not deleted.deleted:
        raise NotFound(f"there is no document {shown(id)} in collection {name!r}")
    return DeletedBody(deleted=deleted.deleted, revision=deleted.revision, visible=deleted.visible)


def _refuse_twins(documents: list[Document]) -> None:
    first: dict[str, int] = {}
    for at, document in enumerate(documents):
        if document.id in first:
            raise InvalidInput(
                f"the id {shown(document.id)} is at /documents/{first[document.id]} already",
                pointer=f"/documents/{at}/id",
            )
        first[document.id] = at


def _metadata(value: Any, *, pointer: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput(f"{shown(value)} is not an object", pointer=pointer)
    if len(value) > MAX_FIELDS:
        raise InvalidInput(
            f"metadata: {len(value)} fields; at most {MAX_FIELDS} are allowed", pointer=pointer
        )
    for key, part in value.items():
        at = step(pointer, key)
        if not 0 < len(key) <= KEY_CHARACTERS:
            raise InvalidInput(
                f"metadata: a key of {len(key)} characters; 1 to {KEY_CHARACTERS} are allowed",
                pointer=pointer,
            )
        for item in part if isinstance(part, list) else [part]:
            if not _plain(item):
                raise InvalidInput(
                    f"{shown(item)} is not a string, a finite number of 64 bits, a boolean or null",
                    pointer=at,
                )
    return value


def _plain(item: Any) -> bool:
    if isinstance(item, float):
        return math.isfinite(item)
    if isinstance(item, int):
        return -(2**63) <= item < 2**63
    return item is None or isinstance(item, str)
