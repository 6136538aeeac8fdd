"""Single rows of generations, route and cursors: read, checked and changed inside a caller's transaction."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import (
    Connection,
    Select,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    update,
)

from service.catalog import schema
from service.catalog.database import now
from service.catalog.records import UNDER_WAY, Failure, Generation, Route, State
from service.errors import Behind, Conflict, EpochMismatch, NotFound

COLUMNS = [schema.generations.c[field.name] for field in fields(Generation)]


def as_generation(row: Any) -> Generation:
    return Generation(*row)


def generation_row(connection: Connection, number: int) -> Generation:
    wanted = select(*COLUMNS).where(schema.generations.c.id == number)
    row = connection.execute(wanted).one_or_none()
    if row is None:
        raise NotFound(f"there is no generation {number}")
    return as_generation(row)


def requested(connection: Connection, request: str) -> tuple[Generation, Any] | None:
    """The generation that a request made, and what was asked for then."""
    columns = schema.generations.c
    wanted = select(*COLUMNS, columns.requested).where(columns.request == request)
    row = connection.execute(wanted).one_or_none()
    return None if row is None else (as_generation(row[:-1]), row[-1])


def change(connection: Connection, number: int, **values: Any) -> None:
    connection.execute(
        update(schema.generations).where(schema.generations.c.id == number).values(**values)
    )


def put_into(
    connection: Connection, number: int, state: State, *, reason: str, error: str = ""
) -> Generation:
    old = generation_row(connection, number)
    if state not in UNDER_WAY:
        take_queries_back(connection, number)
    change(connection, number, state=state, changed=now(), paused=False, error=error)
    note(connection, "state", number, before=old.state, after=state, reason=reason or error)
    return generation_row(connection, number)


def route_row(connection: Connection) -> Route:
    columns = schema.route.c
    row = connection.execute(
        select(columns.epoch, columns.active, columns.previous, columns.soak_until, columns.asking)
    ).one()
    return Route(*row)


def take_queries_back(connection: Connection, number: int) -> None:
    """Have the live generation's own encoder ask again, if it was this one's."""
    columns = schema.route.c
    connection.execute(
        update(schema.route)
        .where(columns.asking == number)
        .values(asking=None, epoch=columns.epoch + 1)
    )


def expect_epoch(route: Route, epoch: int | None) -> None:
    if epoch is not None and route.epoch != epoch:
        raise EpochMismatch(f"the route is at epoch {route.epoch}, not {epoch}")


def expect_state(found: Generation, expected: Collection[State]) -> None:
    if found.state not in expected:
        raise Conflict(
            f"generation {found.id} ({found.model}) is {found.state}, not {' or '.join(expected)}"
        )


def expect_unpaused(found: Generation) -> None:
    """Refuse to go on with a generation that an operator holds."""
    if found.paused:
        raise Conflict(f"generation {found.id} ({found.model}) is paused")


def refuse_a_second(connection: Connection, route: Route) -> None:
    """One candidate at a time, and none while there is one to go back to: two encoders are enough."""
    columns = schema.generations.c
    for state in connection.execute(select(*COLUMNS).where(columns.state.in_(UNDER_WAY))):
        other = as_generation(state)
        if route.active is not None or other.state != "registered":
            raise Conflict(
                f"generation {other.id} ({other.model}) is {other.state}: wait for it or abort it"
            )
    if route.previous is not None:
        other = generation_row(connection, route.previous)
        raise Conflict(
            f"generation {other.id} ({other.model}) soaks: roll back to it, or finish its soak first"
        )


def expect_head(connection: Connection, green: Generation) -> None:
    columns, rows, cursors = schema.collections.c, schema.passages.c, schema.cursors.c
    head = select(func.max(rows.rev)).where(rows.collection == columns.id).scalar_subquery()
    applied = (
        select(cursors.applied_rev)
        .where(cursors.generation == green.indexes, cursors.collection == columns.id)
        .scalar_subquery()
    )
    behind = connection.scalars(
        select(columns.name).where(func.coalesce(head, 0) > func.coalesce(applied, 0))
    ).all()
    if behind:
        raise Behind(
            f"generation {green.id} lacks revisions of {', '.join(map(repr, sorted(behind)))}"
        )


def begin_cursor(connection: Connection, generation: int, collection: int) -> None:
    """Make the cursor if there is none, unless the collection was deleted meanwhile."""
    columns = schema.cursors.c
    here = exists().where(columns.generation == generation, columns.collection == collection)
    connection.execute(
        insert(schema.cursors).from_select(
            ["generation", "collection", "applied_rev"],
            select(literal(generation), schema.collections.c.id, literal(0)).where(
                schema.collections.c.id == collection, ~here
            ),
        )
    )


def record_failures(connection: Connection, generation: int, failures: Sequence[Failure]) -> None:
    for failure in failures:
        connection.execute(
            delete(schema.failures).where(
                schema.failures.c.generation == generation,
                schema.failures.c.passage == failure.passage,
            )
        )
        row = asdict(failure) | {"generation": generation}
        connection.execute(insert(schema.failures).values(row))
        note(
            connection,
            "failure",
            generation,
            collection=failure.collection,
            passage=failure.passage,
            rev=failure.rev,
        )


def current_failures(generation: int) -> Select[tuple[int, int, int, str]]:
    """The failures whose passage is still alive and unchanged."""
    columns, rows = schema.failures.c, schema.passages.c
    return (
        select(columns.collection, columns.passage, columns.rev, columns.reason)
        .join_from(
            schema.failures,
            schema.passages,
            (rows.id == columns.passage) & (rows.rev == columns.rev) & ~rows.dead,
        )
        .where(columns.generation == generation)
        .order_by(columns.passage)
    )


def note(connection: Connection, kind: str, generation: int, **detail: str | int | bool) -> None:
    values = {"at": now(), "kind": kind, "generation": generation, "detail": detail}
    connection.execute(insert(schema.events).values(values))
