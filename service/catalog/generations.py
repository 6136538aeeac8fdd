"""The generations: which encoder made which index, how far it has come, and which one is live."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import starmap
from typing import Any, Literal, TypeAlias

from sqlalchemy import (
    Connection,
    Select,
    bindparam,
    delete,
    exists,
    insert,
    literal,
    select,
    update,
)

from service.catalog import schema
from service.catalog.database import Database, allot, hold, now
from service.errors import Conflict, NotFound

State: TypeAlias = Literal[
    "registered",
    "building",
    "indexing",
    "catching_up",
    "verifying",
    "ready",
    "active",
    "soaking",
    "retiring",
    "retired",
    "failed",
    "aborted",
]
FINISHED: tuple[State, ...] = ("retired", "failed", "aborted")
"""States in which a generation is no longer applied, and holds back no tombstone."""


@dataclass(frozen=True, slots=True)
class Generation:
    """The catalog as one encoder sees it: the indexes `g{id}-c{collection}` hold its vectors."""

    id: int
    bundle: str
    version: str
    space: str
    dimension: int
    state: State
    created: str


@dataclass(frozen=True, slots=True)
class Route:
    """Which generation answers, and which one answered before; `epoch` grows with every change."""

    epoch: int
    active: int | None
    previous: int | None


@dataclass(frozen=True, slots=True)
class Failure:
    """A passage, in the state of revision `rev`, that a generation's encoder cannot embed."""

    collection: int
    passage: int
    rev: int
    reason: str


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the audit."""

    id: int
    at: str
    kind: str
    generation: int | None
    detail: Mapping[str, Any]


class Generations:
    """The generations of a catalog, their cursors, and the route."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(self, *, bundle: str, version: str, space: str, dimension: int) -> Generation:
        """A new generation in the state `registered`."""
        with self._database.write() as connection:
            [number] = allot(connection, "generation", 1)
            new = Generation(number, bundle, version, space, dimension, "registered", now())
            connection.execute(insert(schema.generations).values(asdict(new)))
            _note(connection, "registered", number, bundle=bundle, version=version, space=space)
        return new

    def get(self, generation: int) -> Generation:
        """The generation of this number, or `NotFound`."""
        with self._database.read() as connection:
            return _generation(connection, generation)

    def list(self) -> Sequence[Generation]:
        """All generations, oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(select(schema.generations).order_by(schema.generations.c.id))
            return [Generation(*row) for row in rows]

    def move(self, generation: int, state: State, *, reason: str = "") -> Generation:
        """Put a generation into a state, with an event."""
        with self._database.write() as connection:
            return _move(connection, generation, state, reason=reason)

    def route(self) -> Route:
        """The route as it is now; `active` is None before the first activation."""
        with self._database.read() as connection:
            return _route(connection)

    def activate(self, generation: int, *, epoch: int) -> Route:
        """Make a generation live if the route is still at `epoch`; `Conflict` if it is not."""
        columns = schema.route.c
        with self._database.write() as connection:
            swapped = connection.execute(
                update(schema.route)
                .where(columns.epoch == epoch)
                .values(epoch=epoch + 1, active=generation, previous=columns.active)
            )
            route = _route(connection)
            if not swapped.rowcount:
                raise Conflict(f"the route is at epoch {route.epoch}, not {epoch}")
            _move(connection, generation, "active", reason=f"epoch {route.epoch}")
            return route

    def cursors(self, generation: int) -> dict[int, int]:
        """The applied revision of every collection that the generation has begun."""
        columns = schema.cursors.c
        wanted = select(columns.collection, columns.applied_rev)
        with self._database.read() as connection:
            rows = connection.execute(wanted.where(columns.generation == generation))
            return dict(rows.all())

    def advance(
        self,
        generation: int,
        collection: int,
        *,
        applied_rev: int,
        failures: Sequence[Failure] = (),
    ) -> None:
        """Record that everything up to `applied_rev` is durable in the index; never goes back."""
        columns = schema.cursors.c
        here = (columns.generation == generation, columns.collection == collection)
        with self._database.write() as connection:
            _begin(connection, generation, collection)
            connection.execute(
                update(schema.cursors)
                .where(*here, columns.applied_rev < applied_rev)
                .values(applied_rev=applied_rev)
            )
            _record(connection, generation, failures)

    def rewind(self, generation: int, collection: int, *, reason: str) -> None:
        """Set a cursor to 0, because the index is to be built anew."""
        columns = schema.cursors.c
        with self._database.write() as connection:
            connection.execute(
                update(schema.cursors)
                .where(columns.generation == generation, columns.collection == collection)
                .values(applied_rev=0)
            )
            _note(connection, "rebuild", generation, collection=collection, reason=reason)

    def failures(self, generation: int) -> Sequence[Failure]:
        """The passages that are still as they were when their embedding failed."""
        with self._database.read() as connection:
            rows = connection.execute(_current(generation))
            return list(starmap(Failure, rows))

    def retry(self, generation: int) -> int:
        """Give the failed passages new revisions, so that they are met again; returns how many."""
        with self._database.write() as connection:
            hold(connection)
            ids = [row.passage for row in connection.execute(_current(generation))]
            revisions = allot(connection, "rev", len(ids))
            if ids:
                connection.execute(
                    update(schema.passages).where(schema.passages.c.id == bindparam("at")),
                    [
                        {"at": passage, "rev": rev}
                        for passage, rev in zip(ids, revisions, strict=True)
                    ],
                )
            connection.execute(
                delete(schema.failures).where(schema.failures.c.generation == generation)
            )
            return len(ids)

    def events(self, *, limit: int) -> Sequence[Event]:
        """The audit, newest first."""
        columns = schema.events.c
        with self._database.read() as connection:
            rows = select(schema.events).order_by(columns.id.desc()).limit(limit)
            return [Event(*row) for row in connection.execute(rows)]


def _generation(connection: Connection, number: int) -> Generation:
    columns = schema.generations.c
    row = connection.execute(select(schema.generations).where(columns.id == number)).one_or_none()
    if row is None:
        raise NotFound(f"there is no generation {number}")
    return Generation(*row)


def _move(connection: Connection, number: int, state: State, *, reason: str) -> Generation:
    old = _generation(connection, number)
    connection.execute(
        update(schema.generations).where(schema.generations.c.id == number).values(state=state)
    )
    _note(connection, "state", number, before=old.state, after=state, reason=reason)
    return replace(old, state=state)


def _route(connection: Connection) -> Route:
    columns = schema.route.c
    row = connection.execute(select(columns.epoch, columns.active, columns.previous)).one()
    return Route(*row)


def _begin(connection: Connection, generation: int, collection: int) -> None:
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


def _record(connection: Connection, generation: int, failures: Sequence[Failure]) -> None:
    for failure in failures:
        connection.execute(
            delete(schema.failures).where(
                schema.failures.c.generation == generation,
                schema.failures.c.passage == failure.passage,
            )
        )
        row = asdict(failure) | {"generation": generation}
        connection.execute(insert(schema.failures).values(row))
        _note(
            connection,
            "failure",
            generation,
            collection=failure.collection,
            passage=failure.passage,
            rev=failure.rev,
        )


def _current(generation: int) -> Select[tuple[int, int, int, str]]:
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


def _note(connection: Connection, kind: str, generation: int, **detail: str | int) -> None:
    values = {"at": now(), "kind": kind, "generation": generation, "detail": detail}
    connection.execute(insert(schema.events).values(values))
