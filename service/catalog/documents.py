"""The documents: whole texts under the user's own ids, cut into passages.

A write is one transaction. It deals every passage that it touches a new revision; a passage keeps
its id as long as its document has a passage of that number, and one that is no longer there leaves
a tombstone, by which the indexes learn of it.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, bindparam, func, insert, select, update

from service import filters
from service.catalog import schema
from service.catalog.collections import fields_of
from service.catalog.cuts import Cuts, bury, cut, last_revision
from service.catalog.database import CHUNK, Database, allot, chunks
from service.errors import InvalidInput, NotFound
from service.filters import Filter
from service.types import Document, DocumentPage, DocumentSummary, FieldType, Span


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document with what the service found out: its language, and the spans of its passages."""

    document: Document
    language: str
    spans: Sequence[Span]


@dataclass(frozen=True, slots=True)
class Written:
    """What a write did. Whoever has seen `revision` of the collection has seen all of it."""

    revision: int
    documents: int
    unchanged: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """The exact numbers of a collection; `languages` counts passages."""

    documents: int
    passages: int
    languages: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Draft:
    stored: StoredDocument
    digest: bytes


class Documents:
    """The documents of a catalog, by the number of their collection."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, collection: int, documents: Sequence[StoredDocument]) -> Written:
        """Insert or replace documents, all or none; of two with one id the last counts.

        A document equal to the stored one is left alone: no revision, no new embedding.
        Errors: `NotFound` (collection), `InvalidInput` (with the pointer of the value).
        """
        with self._database.read() as connection:
            fields = fields_of(connection, collection)
        drafts = {
            stored.document.id: _draft(stored, fields, pointer=f"/documents/{position}")
            for position, stored in enumerate(documents)
        }
        with self._database.numbering() as connection:
            fields_of(connection, collection)  # it may have been deleted meanwhile
            present = _present(connection, collection, list(drafts))
            same = [key for key, old in present.items() if old[1] == drafts[key].digest]
            for key in same:
                del drafts[key]
            revision = cut(connection, collection, _store(connection, collection, drafts, present))
            seen = last_revision(connection, [present[key][0] for key in same])
        return Written(max(revision, seen), documents=len(drafts), unchanged=len(same))

    def delete(self, collection: int, ids: Sequence[str]) -> Written:
        """Delete documents by id; unknown ids are no error, and not counted."""
        with self._database.numbering() as connection:
            fields_of(connection, collection)
            present = _present(connection, collection, list(dict.fromkeys(ids)))
            revision = bury(connection, [document for document, _ in present.values()])
        return Written(revision, documents=len(present))

    def delete_where(self, collection: int, where: Filter) -> Written:
        """Delete the documents that a filter matches; the filter is resolved here.

        A large deletion takes many transactions, so that others can write in between. Each of them
        looks at its documents once more, and one that was changed to match no longer stays.
        """
        with self._database.read() as connection:
            fields = fields_of(connection, collection)
        resolved = filters.resolve(where, fields)
        columns = schema.documents.c
        revision, count, last = 0, 0, 0
        while True:
            with self._database.read() as connection:
                ids, reached = _matching(
                    connection, collection, resolved, fields, which=columns.id > last
                )
            if not reached:
                return Written(revision, documents=count)
            last = reached
            if ids:
                with self._database.numbering() as connection:
                    still, _ = _matching(
                        connection, collection, resolved, fields, which=columns.id.in_(ids)
                    )
                    revision = max(revision, bury(connection, still))
                count += len(still)

    def get(self, collection: int, document_id: str) -> StoredDocument:
        """A document with its text, or `NotFound`."""
        columns, spans = schema.documents.c, schema.passages.c
        with self._database.read() as connection:
            row = connection.execute(
                select(schema.documents).where(
                    columns.collection == collection, columns.key == document_id
                )
            ).one_or_none()
            if row is None:
                raise NotFound(f"there is no document {document_id!r}")
            cuts = connection.execute(
                select(spans.start, spans.end)
                .where(spans.document == row.id, ~spans.dead)
                .order_by(spans.number)
            ).all()
        document = Document(row.key, row.text, row.title, row.language, row.metadata)
        return StoredDocument(document, row.language, [Span(*cut) for cut in cuts])

    def list(self, collection: int, *, limit: int, after: str | None = None) -> DocumentPage:
        """Documents in the order of their first arrival, from an opaque cursor on."""
        columns, cuts = schema.documents.c, schema.passages.c
        pieces = select(func.count()).where(cuts.document == columns.id, ~cuts.dead)
        wanted = (
            select(
                columns.id,
                columns.key,
                columns.title,
                columns.language,
                columns.metadata,
                func.length(columns.text),
                pieces.scalar_subquery(),
            )
            .where(columns.collection == collection, columns.id > _position(after))
            .order_by(columns.id)
            .limit(limit + 1)
        )
        with self._database.read() as connection:
            fields_of(connection, collection)
            rows = connection.execute(wanted).all()
        more = len(rows) > limit
        return DocumentPage(
            [DocumentSummary(*row[1:]) for row in rows[:limit]],
            _cursor(rows[limit - 1].id) if more else None,
        )

    def counts(self, collection: int) -> Counts:
        """How many documents and passages there are, and in which languages."""
        columns, cuts = schema.documents.c, schema.passages.c
        with self._database.read() as connection:
            fields_of(connection, collection)
            documents = connection.scalar(
                select(func.count()).where(columns.collection == collection)
            )
            rows = connection.execute(
                select(cuts.language, func.count())
                .where(cuts.collection == collection, ~cuts.dead)
                .group_by(cuts.language)
                .order_by(cuts.language)
            )
        languages: dict[str, int] = dict(rows.all())
        return Counts(documents or 0, sum(languages.values()), languages)


def _draft(stored: StoredDocument, fields: Mapping[str, FieldType], *, pointer: str) -> _Draft:
    document = stored.document
    for part, text in (("id", document.id), ("title", document.title), ("text", document.text)):
        if "\0" in text:
            raise InvalidInput(f"the {part} has a NUL character", pointer=f"{pointer}/{part}")
    try:
        filters.declared(document.metadata, fields)
    except InvalidInput as error:
        where = f"{pointer}/metadata{error.pointer}"
        raise InvalidInput(error.detail, pointer=where) from error
    cuts = [(span.start, span.end) for span in stored.spans]
    known = (document.title, stored.language, document.metadata, cuts, document.text)
    try:
        canonical = orjson.dumps(known, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        raise InvalidInput(f"the document is not valid JSON: {error}", pointer=pointer) from error
    return _Draft(stored, blake2b(canonical, digest_size=16).digest())


def _present(
    connection: Connection, collection: int, keys: Sequence[str]
) -> dict[str, tuple[int, bytes]]:
    """The number and the digest of every document that is stored already."""
    columns = schema.documents.c
    found: dict[str, tuple[int, bytes]] = {}
    for some in chunks(keys):
        rows = connection.execute(
            select(columns.key, columns.id, columns.digest).where(
                columns.collection == collection, columns.key.in_(some)
            )
        )
        found |= {key: (document, bytes(digest)) for key, document, digest in rows}
    return found


def _store(
    connection: Connection,
    collection: int,
    drafts: Mapping[str, _Draft],
    present: Mapping[str, tuple[int, bytes]],
) -> Cuts:
    """Write the document rows; returns what their passages are to be."""
    fresh = [key for key in drafts if key not in present]
    numbers = {key: present[key][0] for key in drafts if key in present}
    changed = [_columns(drafts[key]) | {"at": number} for key, number in numbers.items()]
    numbers |= zip(fresh, allot(connection, "document", len(fresh)), strict=True)
    added = [
        _columns(drafts[key]) | {"id": numbers[key], "collection": collection, "key": key}
        for key in fresh
    ]
    if added:
        connection.execute(insert(schema.documents), added)
    if changed:
        connection.execute(
            update(schema.documents).where(schema.documents.c.id == bindparam("at")), changed
        )
    stored = {numbers[key]: draft.stored for key, draft in drafts.items()}
    return {number: (each.language, each.spans) for number, each in stored.items()}


def _columns(draft: _Draft) -> dict[str, Any]:
    document = draft.stored.document
    return {
        "digest": draft.digest,
        "language": draft.stored.language,
        "title": document.title,
        "metadata": dict(document.metadata),
        "text": document.text,
    }


def _matching(
    connection: Connection,
    collection: int,
    where: Filter,
    fields: Mapping[str, FieldType],
    *,
    which: ColumnElement[bool],
) -> tuple[list[int], int]:
    """The documents among the next ones that satisfy the filter, and the last one looked at."""
    columns = schema.documents.c
    rows = connection.execute(
        select(columns.id, columns.metadata, columns.language)
        .where(columns.collection == collection, which)
        .order_by(columns.id)
        .limit(CHUNK)
    ).all()
    ids = [
        row.id
        for row in rows
        if filters.matches(
            where, {**filters.declared(row.metadata, fields), filters.LANGUAGE: row.language}
        )
    ]
    return ids, rows[-1].id if rows else 0


def _cursor(document: int) -> str:
    return base64.urlsafe_b64encode(str(document).encode()).decode().rstrip("=")


def _position(cursor: str | None) -> int:
    if cursor is None:
        return 0
    try:
        return int(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error) as error:
        raise InvalidInput(f"{cursor!r} is no cursor of this list", pointer="/cursor") from error
