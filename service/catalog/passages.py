"""The passages: what an index is made from, and what its matches are turned back into."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select

from service import filters
from service.catalog import schema
from service.catalog.collections import fields_of
from service.catalog.database import Database, chunks
from service.catalog.records import FINISHED
from service.types import Scalar, Span

ROWS = schema.passages.c
DOCUMENTS = schema.documents.c
TEXT = func.substr(DOCUMENTS.text, ROWS.start + 1, ROWS.end - ROWS.start)


@dataclass(frozen=True, slots=True)
class Change:
    """The present state of a passage, as the feed gives it; a dead one has neither text nor metadata."""

    id: int
    rev: int
    dead: bool
    document: int
    language: str
    metadata: Mapping[str, Scalar | list[Scalar]]
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Passage:
    """A live passage with what a hit shows of its document."""

    id: int
    rev: int
    document: str
    number: int
    span: Span
    language: str
    text: str
    title: str
    metadata: Mapping[str, Any]


class Passages:
    """The passages of a catalog."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def changes(self, collection: int, *, after: int, limit: int) -> list[Change]:
        """Passages whose revision is greater than `after`, in the order of revisions."""
        joined = schema.passages.outerjoin(schema.documents, DOCUMENTS.id == ROWS.document)
        wanted = (
            select(
                ROWS.id,
                ROWS.rev,
                ROWS.dead,
                ROWS.document,
                ROWS.language,
                DOCUMENTS.metadata,
                DOCUMENTS.title,
                TEXT,
            )
            .select_from(joined)
            .where(ROWS.collection == collection, ROWS.rev > after)
            .order_by(ROWS.rev)
            .limit(limit)
        )
        with self._database.read() as connection:
            fields = fields_of(connection, collection)
            rows = connection.execute(wanted).all()
        return [
            Change(passage, rev, True, document, "", {}, "", "")
            if dead
            else Change(
                passage,
                rev,
                False,
                document,
                language,
                filters.declared(metadata, fields),
                title,
                text,
            )
            for passage, rev, dead, document, language, metadata, title, text in rows
        ]

    def heads(self) -> dict[int, int]:
        """The greatest revision in every collection; 0 where there is none."""
        # One probe of the index for each collection; grouping would read all of it.
        greatest = select(func.max(ROWS.rev)).where(ROWS.collection == schema.collections.c.id)
        wanted = select(schema.collections.c.id, greatest.scalar_subquery())
        with self._database.read() as connection:
            return {collection: rev or 0 for collection, rev in connection.execute(wanted)}

    def last_revision(self) -> int:
        """The last revision that was given out, in any collection."""
        with self._database.read() as connection:
            return connection.scalar(select(schema.head.c.rev)) or 0

    def pending(self, collection: int, *, after: int) -> int:
        """How many passages and tombstones have a revision greater than `after`."""
        wanted = select(func.count()).where(ROWS.collection == collection, ROWS.rev > after)
        with self._database.read() as connection:
            return connection.scalar(wanted) or 0

    def hydrate(self, ids: Sequence[int]) -> dict[int, Passage]:
        """The live passages among these, by id; a dead one is left out, and so never shown again."""
        found: dict[int, Passage] = {}
        with self._database.read() as connection:
            for some in chunks(ids):
                rows = connection.execute(
                    select(
                        ROWS.id,
                        ROWS.rev,
                        DOCUMENTS.key,
                        ROWS.number,
                        ROWS.start,
                        ROWS.end,
                        ROWS.language,
                        TEXT,
                        DOCUMENTS.title,
                        DOCUMENTS.metadata,
                    )
                    .join_from(schema.passages, schema.documents, DOCUMENTS.id == ROWS.document)
                    .where(ROWS.id.in_(some), ~ROWS.dead)
                )
                for passage, rev, key, number, start, end, *rest in rows:
                    found[passage] = Passage(passage, rev, key, number, Span(start, end), *rest)
        return found

    def live(
        self,
        collection: int,
        *,
        through_rev: int,
        after: int,
        until: int | None = None,
        limit: int,
    ) -> list[tuple[int, int]]:
        """(id, rev) of live passages with rev <= `through_rev` and `after` < id <= `until`, by id."""
        wanted = (
            select(ROWS.id, ROWS.rev)
            .where(ROWS.collection == collection, ROWS.id > after)
            .where(~ROWS.dead, ROWS.rev <= through_rev)
            .order_by(ROWS.id)
            .limit(limit)
        )
        if until is not None:
            wanted = wanted.where(ROWS.id <= until)
        with self._database.read() as connection:
            return [(passage, rev) for passage, rev in connection.execute(wanted)]

    def revisions(self, ids: Sequence[int]) -> dict[int, int]:
        """The present revision of each of these rows, tombstones included; missing ones left out."""
        found: dict[int, int] = {}
        with self._database.read() as connection:
            for some in chunks(ids):
                rows = connection.execute(select(ROWS.id, ROWS.rev).where(ROWS.id.in_(some)))
                found |= dict(rows.all())
        return found

    def purge(self, collection: int) -> int:
        """Forget the tombstones that every generation in use has applied; returns how many."""
        cursors, generations = schema.cursors.c, schema.generations.c
        applied = (
            select(func.min(func.coalesce(cursors.applied_rev, 0)))
            .select_from(
                schema.generations.outerjoin(
                    schema.cursors,
                    (cursors.generation == generations.indexes)
                    & (cursors.collection == collection),
                )
            )
            .where(generations.state.not_in(FINISHED))
        )
        with self._database.write() as connection:
            least = connection.scalar(applied)
            spent = delete(schema.passages).where(ROWS.collection == collection, ROWS.dead)
            if least is not None:
                spent = spent.where(ROWS.rev <= least)
            return connection.execute(spent).rowcount
