"""How passage rows follow a write: kept by number, newly made, or left as tombstones.

The functions run inside the caller's transaction, which holds the head (`Database.write`). Each
returns the last revision that it gave out, or 0 if it touched no passage.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from service.catalog import schema
from service.catalog.database import allot, chunks
from service.types import Span

Cuts: TypeAlias = Mapping[int, tuple[str, Sequence[Span]]]
"""The language and the spans of each document, by the document's number."""

ROWS = schema.passages.c
CHANGE = (
    update(schema.passages)
    .where(ROWS.id == bindparam("at"))
    .values({name: bindparam(name) for name in ("start", "end", "language", "rev", "dead")})
)


def cut(connection: Connection, collection: int, cuts: Cuts) -> int:
    """Give these documents exactly these passages; those that were there keep their ids."""
    present, surplus = _present(connection, cuts)
    revisions = allot(
        connection, "rev", sum(len(spans) for _, spans in cuts.values()) + len(surplus)
    )
    deal = iter(revisions)
    added, changed = [], []
    for document, number, row in _rows(cuts):
        row["rev"] = next(deal)
        if (document, number) in present:
            changed.append(row | {"at": present[document, number]})
        else:
            added.append(row | {"collection": collection, "document": document, "number": number})
    for row, passage in zip(added, allot(connection, "passage", len(added)), strict=True):
        row["id"] = passage
    if added:
        connection.execute(insert(schema.passages), added)
    if changed:
        connection.execute(CHANGE, changed)
    _entomb(connection, surplus, deal)
    return revisions[-1] if revisions else 0


def bury(connection: Connection, documents: Sequence[int]) -> int:
    """Delete documents; their text is gone at once, and their passages become tombstones."""
    ids: list[int] = []
    for some in chunks(documents):
        alive = select(ROWS.id).where(ROWS.document.in_(some), ~ROWS.dead)
        ids += connection.scalars(alive)
        connection.execute(delete(schema.documents).where(schema.documents.c.id.in_(some)))
    revisions = allot(connection, "rev", len(ids))
    _entomb(connection, ids, iter(revisions))
    return revisions[-1] if revisions else 0


def last_revision(connection: Connection, documents: Sequence[int]) -> int:
    """The greatest revision among the passages of these documents."""
    last = 0
    for some in chunks(documents):
        greatest = select(func.max(ROWS.rev)).where(ROWS.document.in_(some))
        last = max(last, connection.scalar(greatest) or 0)
    return last


def _rows(cuts: Cuts) -> Iterator[tuple[int, int, dict[str, object]]]:
    for document, (language, spans) in cuts.items():
        for number, span in enumerate(spans):
            row: dict[str, object] = {"start": span.start, "end": span.end}
            yield document, number, row | {"language": language, "dead": False}


def _present(connection: Connection, cuts: Cuts) -> tuple[dict[tuple[int, int], int], list[int]]:
    """The rows that stay, by document and number, and the live ones that are too many."""
    stay: dict[tuple[int, int], int] = {}
    surplus: list[int] = []
    for some in chunks(list(cuts)):
        rows = select(ROWS.id, ROWS.document, ROWS.number, ROWS.dead)
        for row in connection.execute(rows.where(ROWS.document.in_(some))):
            if row.number < len(cuts[row.document][1]):
                stay[row.document, row.number] = row.id
            elif not row.dead:
                surplus.append(row.id)
    return stay, surplus


def _entomb(connection: Connection, ids: Sequence[int], revisions: Iterator[int]) -> None:
    empty = {"start": 0, "end": 0, "language": "", "dead": True}
    if ids:
        connection.execute(CHANGE, [empty | {"at": at, "rev": next(revisions)} for at in ids])
