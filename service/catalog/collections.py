"""The named collections of documents, each with the metadata fields that can be filtered."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from sqlalchemy import Connection, RowMapping, delete, insert, select

from service import filters
from service.catalog import schema
from service.catalog.database import CHUNK, Database, allot, now
from service.errors import Conflict, InvalidInput, NotFound
from service.types import FieldType

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection: its number (never used again), its name, and its declared fields."""

    id: int
    name: str
    fields: Mapping[str, FieldType]
    created: str


class Collections:
    """The collections of a catalog."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: str, fields: Mapping[str, FieldType] | None = None) -> Collection:
        """Make a collection; the existing one if its fields are equal, `Conflict` if they are not."""
        wanted = _checked(name, fields or {})
        with self._database.write() as connection:
            row = _named(connection, name)
            if row is None:
                [number] = allot(connection, "collection", 1)
                values = {"id": number, "name": name, "fields": wanted, "created": now()}
                connection.execute(insert(schema.collections).values(values))
                return _collection(values)
        found = _collection(row)
        if dict(found.fields) != wanted:
            raise Conflict(
                f"collection {name!r} exists with the fields {dict(found.fields)}, not {wanted}"
            )
        return found

    def get(self, name: str) -> Collection:
        """The collection of this name, or `NotFound`."""
        with self._database.read() as connection:
            row = _named(connection, name)
        if row is None:
            raise NotFound(f"there is no collection {name!r}")
        return _collection(row)

    def list(self) -> Sequence[Collection]:
        """All collections, by name."""
        with self._database.read() as connection:
            order = select(schema.collections).order_by(schema.collections.c.name)
            return [_collection(row) for row in connection.execute(order).mappings()]

    def delete(self, name: str) -> Collection:
        """Remove a collection with all that it holds; the caller detaches it from its appliers.

        The name and the cursors are gone at once; rows follow in small transactions, and what a
        crash leaves of them is swept when the catalog is next opened.
        """
        with self._database.write() as connection:
            row = _named(connection, name)
            if row is None:
                raise NotFound(f"there is no collection {name!r}")
            for table, column in (
                (schema.collections, schema.collections.c.id),
                (schema.cursors, schema.cursors.c.collection),
                (schema.failures, schema.failures.c.collection),
            ):
                connection.execute(delete(table).where(column == row["id"]))
        self._sweep(row["id"])
        return _collection(row)

    def sweep(self) -> None:
        """Delete the rows of collections that are gone: a deletion was interrupted."""
        known = select(schema.collections.c.id)
        for table in (schema.documents, schema.passages):
            gone = select(table.c.collection).where(table.c.collection.not_in(known)).distinct()
            with self._database.read() as connection:
                orphans = connection.scalars(gone).all()
            for collection in orphans:
                self._sweep(collection)

    def _sweep(self, collection: int) -> None:
        for table in (schema.documents, schema.passages):
            some = select(table.c.id).where(table.c.collection == collection).limit(CHUNK)
            swept = CHUNK
            while swept == CHUNK:
                with self._database.write() as connection:
                    swept = connection.execute(delete(table).where(table.c.id.in_(some))).rowcount


def fields_of(connection: Connection, collection: int) -> Mapping[str, FieldType]:
    """The declared fields of a collection by its number, or `NotFound`."""
    columns = schema.collections.c
    fields = connection.scalar(select(columns.fields).where(columns.id == collection))
    if fields is None:
        raise NotFound(f"collection {collection} was deleted")
    declared: Mapping[str, FieldType] = fields
    return declared


def _named(connection: Connection, name: str) -> RowMapping | None:
    columns = schema.collections.c
    row = select(schema.collections).where(columns.name == name)
    return connection.execute(row).mappings().one_or_none()


def _collection(row: RowMapping | Mapping[str, Any]) -> Collection:
    return Collection(row["id"], row["name"], row["fields"], row["created"])


def _checked(name: str, fields: Mapping[str, FieldType]) -> dict[str, FieldType]:
    if not NAME.fullmatch(name):
        raise InvalidInput(f"collection name {name!r} does not match {NAME.pattern}")
    for field, kind in fields.items():
        if not FIELD.fullmatch(field):
            raise InvalidInput(f"field name {field!r} does not match {FIELD.pattern}")
        if field == filters.LANGUAGE:
            raise InvalidInput(f"{field!r} is built in: every passage has it, undeclared")
        if kind not in get_args(FieldType):
            raise InvalidInput(f"field {field!r}: no type {kind!r}; one of {get_args(FieldType)}")
    return dict(fields)
