"""The generations: which encoder made which index, how far it has come, and which one is live.

The row of a generation is the whole truth about it, and the route's row about which one answers.
Both change in small transactions that name what they expect to find, so that a controller that was
overtaken changes nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from itertools import starmap
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, update

from service.catalog import schema
from service.catalog.database import Database, allot, now
from service.catalog.leases import Lease, fenced
from service.catalog.records import (
    FINISHED,
    FIRST,
    LIVE_NEXT,
    SOAKING,
    UNDER_WAY,
    Cursor,
    Event,
    Failure,
    Generation,
    Route,
    State,
)
from service.catalog.rows import (
    COLUMNS,
    as_generation,
    begin_cursor,
    change,
    current_failures,
    expect_epoch,
    expect_head,
    expect_state,
    expect_unpaused,
    generation_row,
    note,
    put_into,
    record_failures,
    refuse_a_second,
    requested,
    route_row,
)
from service.errors import Conflict


class Generations:
    """The generations of a catalog, their cursors, and the route."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(
        self,
        *,
        bundle: str,
        version: str,
        precision: str,
        space: str,
        dimension: int,
        options: Mapping[str, Any] | None = None,
        request: str | None = None,
        epoch: int | None = None,
        actor: str = "",
    ) -> Generation:
        """A new generation in the state `registered`; it takes over the indexes of a live one of its space.

        The same `request` (an idempotency key) gives the generation that it made before.

        Raises:
            Conflict: another generation is under way or soaks, or the request was for another one.
            EpochMismatch: the route is not at `epoch`.
        """
        wanted = {"model": f"{bundle}/{version}", "precision": precision, **(options or {})}
        with self._database.write() as connection:
            known = requested(connection, request) if request else None
            if known is not None:
                before, asked = known  # its options may have changed since, what was asked has not
                if asked != wanted:
                    raise Conflict(
                        f"the idempotency key {request!r} was used for {before.model} before,"
                        " or with other options"
                    )
                return before
            route = route_row(connection)
            expect_epoch(route, epoch)
            refuse_a_second(connection, route)
            live = generation_row(connection, route.active) if route.active is not None else None
            shared = live is not None and live.space == space
            [number] = allot(connection, "generation", 1)
            at = now()
            new = Generation(
                number,
                bundle,
                version,
                space,
                dimension,
                "registered",
                at,
                precision,
                live.indexes if live is not None and shared else number,
                at,
                paused=False,
                error="",
                options=dict(options or {}),
            )
            connection.execute(
                insert(schema.generations).values(**asdict(new), request=request, requested=wanted)
            )
            note(
                connection,
                "registered",
                number,
                bundle=bundle,
                version=version,
                space=space,
                actor=actor,
            )
        return new

    def get(self, generation: int) -> Generation:
        """The generation of this number, or `NotFound`."""
        with self._database.read() as connection:
            return generation_row(connection, generation)

    def list(self) -> Sequence[Generation]:
        """All generations, oldest first."""
        return self.snapshot()[1]

    def snapshot(self) -> tuple[Route, Sequence[Generation]]:
        """The route and all generations, oldest first, as they were at one moment."""
        with self._database.read() as connection:
            rows = connection.execute(select(*COLUMNS).order_by(schema.generations.c.id))
            return route_row(connection), [as_generation(row) for row in rows]

    def move(
        self,
        generation: int,
        state: State,
        *,
        expect: Collection[State],
        reason: str = "",
        error: str = "",
        lease: Lease | None = None,
    ) -> Generation:
        """Put a generation into a state, with an event.

        Raises:
            Conflict: it is in none of the expected states, or the lease is lost.
        """
        with self._database.write() as connection:
            fenced(connection, lease)
            found = generation_row(connection, generation)
            expect_state(found, expect)
            if lease is not None and state not in FINISHED:
                expect_unpaused(found)  # an operator spoke while the step was done
            return put_into(connection, generation, state, reason=reason, error=error)

    def pause(self, generation: int, *, paused: bool, actor: str = "") -> Generation:
        """Hold a generation that is under way where it is, or let it go on."""
        with self._database.write() as connection:
            found = generation_row(connection, generation)
            expect_state(found, UNDER_WAY)
            if found.paused != paused:
                change(connection, generation, paused=paused)
                note(connection, "paused" if paused else "resumed", generation, actor=actor)
            return generation_row(connection, generation)

    def choose(self, generation: int, **options: Any) -> Generation:
        """Change some of the options of a generation that is under way."""
        with self._database.write() as connection:
            found = generation_row(connection, generation)
            expect_state(found, UNDER_WAY)
            change(connection, generation, options={**found.options, **options})
            return generation_row(connection, generation)

    def judge(
        self, generation: int, report: Mapping[str, Any], *, lease: Lease | None = None
    ) -> None:
        """Store what the gate found."""
        with self._database.write() as connection:
            fenced(connection, lease)
            change(connection, generation, report=dict(report))
            note(connection, "judged", generation, passed=bool(report.get("passed")))

    def report(self, generation: int) -> Mapping[str, Any] | None:
        """What the gate found, or None; apart from the row, which is read often, because it is long."""
        columns = schema.generations.c
        with self._database.read() as connection:
            found: Mapping[str, Any] | None = connection.scalar(
                select(columns.report).where(columns.id == generation)
            )
            return found

    def route(self) -> Route:
        """The route as it is now; `active` is None before the first activation."""
        with self._database.read() as connection:
            return route_row(connection)

    def close_gate(self, *, for_s: float) -> None:
        """Let no transaction deal a revision for so long, or until `open_gate` or a cut-over."""
        with self._database.write() as connection:
            until = self._database.clock(connection) + for_s
            connection.execute(update(schema.route).values(gate_until=until))

    def open_gate(self) -> None:
        """Let transactions deal revisions again."""
        with self._database.write() as connection:
            connection.execute(update(schema.route).values(gate_until=None))

    def ask(self, generation: int, *, epoch: int, lease: Lease | None = None) -> Route:
        """Let the encoder of a generation under way embed the queries for the live indexes.

        Whoever calls this has proven that it may. It ends with the generation's way: when it goes
        live itself, fails or is aborted.

        Raises:
            EpochMismatch: the route has moved on.
            Conflict: it is not under way or is paused, or the lease is lost.
        """
        with self._database.write() as connection:
            fenced(connection, lease)
            expect_epoch(route_row(connection), epoch)
            found = generation_row(connection, generation)
            expect_state(found, UNDER_WAY)
            expect_unpaused(found)
            connection.execute(update(schema.route).values(asking=generation, epoch=epoch + 1))
            note(connection, "asking", generation, epoch=epoch + 1)
            return route_row(connection)

    def cut_over(
        self,
        generation: int,
        *,
        epoch: int,
        soak_s: float,
        reason: str = "",
        lease: Lease | None = None,
    ) -> Route:
        """Make a generation live if the route is at `epoch` and the generation at the head.

        The one that was live soaks from now on. Everything is one transaction, in which nobody else
        can deal a revision, so no acknowledged write is missing from what answers next.

        Raises:
            EpochMismatch: the route has moved on.
            Behind: the generation lacks revisions.
            Conflict: it is in no state for it, or the lease is lost.
        """
        with self._database.write() as connection:
            fenced(connection, lease)
            route = route_row(connection)
            expect_epoch(route, epoch)
            green = generation_row(connection, generation)
            first = route.active is None
            expect_state(green, FIRST if first else LIVE_NEXT)
            expect_unpaused(green)
            expect_head(connection, green)
            connection.execute(
                update(schema.route).values(
                    epoch=epoch + 1,
                    active=generation,
                    previous=route.active,
                    soak_until=None if first else self._database.clock(connection) + soak_s,
                    gate_until=None,
                    asking=None,
                )
            )
            why = f"epoch {epoch + 1}" + (f": {reason}" if reason else "")
            if route.active is not None:
                put_into(connection, route.active, "soaking", reason=why)
            put_into(connection, generation, "active", reason=why)
            return route_row(connection)

    def retire(self, generation: int, *, reason: str = "", lease: Lease | None = None) -> Route:
        """End the soak of the previous generation: it can be gone back to no longer."""
        with self._database.write() as connection:
            fenced(connection, lease)
            expect_state(generation_row(connection, generation), SOAKING)
            put_into(connection, generation, "retiring", reason=reason)
            connection.execute(update(schema.route).values(previous=None, soak_until=None))
            return route_row(connection)

    def clock(self) -> float:
        """Seconds since 1970 by the catalog's clock, in which the route's times are given."""
        with self._database.read() as connection:
            return self._database.clock(connection)

    def cursors(self, generation: int) -> dict[int, int]:
        """The applied revision of every collection that the generation has begun."""
        return {
            collection: cursor.applied_rev
            for collection, cursor in self.positions(generation).items()
        }

    def positions(self, generation: int) -> dict[int, Cursor]:
        """How far the index of every collection has come that the generation has begun."""
        columns = schema.cursors.c
        wanted = select(columns.collection, columns.applied_rev, columns.verified)
        with self._database.read() as connection:
            rows = connection.execute(wanted.where(columns.generation == generation))
            return {collection: Cursor(*rest) for collection, *rest in rows}

    def advance(
        self,
        generation: int,
        collection: int,
        *,
        applied_rev: int,
        failures: Sequence[Failure] = (),
        lease: Lease | None = None,
    ) -> None:
        """Record that everything up to `applied_rev` is durable in the index; never goes back.

        Raises:
            Conflict: the lease is lost: another process writes to the index.
        """
        columns = schema.cursors.c
        here = (columns.generation == generation, columns.collection == collection)
        with self._database.write() as connection:
            fenced(connection, lease)
            begin_cursor(connection, generation, collection)
            connection.execute(
                update(schema.cursors)
                .where(*here, columns.applied_rev < applied_rev)
                .values(applied_rev=applied_rev)
            )
            record_failures(connection, generation, failures)

    def prove(
        self, generation: int, collection: int, *, verified: bool, lease: Lease | None = None
    ) -> None:
        """Record whether the index was found equal to the catalog, for those who only read it."""
        columns = schema.cursors.c
        here = (columns.generation == generation, columns.collection == collection)
        with self._database.write() as connection:
            fenced(connection, lease)
            begin_cursor(connection, generation, collection)
            connection.execute(update(schema.cursors).where(*here).values(verified=verified))

    def rewind(
        self, generation: int, collection: int, *, reason: str, lease: Lease | None = None
    ) -> None:
        """Set a cursor to 0, because the index is to be built anew."""
        columns = schema.cursors.c
        with self._database.write() as connection:
            fenced(connection, lease)
            connection.execute(
                update(schema.cursors)
                .where(columns.generation == generation, columns.collection == collection)
                .values(applied_rev=0, verified=False)
            )
            note(connection, "rebuild", generation, collection=collection, reason=reason)

    def failures(self, generation: int) -> Sequence[Failure]:
        """The passages that are still as they were when their embedding failed."""
        with self._database.read() as connection:
            rows = connection.execute(current_failures(generation))
            return list(starmap(Failure, rows))

    def retry(self, generation: int) -> int:
        """Give the failed passages new revisions, so that they are met again; returns how many."""
        with self._database.numbering() as connection:
            ids = [row.passage for row in connection.execute(current_failures(generation))]
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

    def events(self, *, limit: int, generation: int | None = None) -> Sequence[Event]:
        """The audit, newest first; of one generation alone if it is named."""
        columns = schema.events.c
        rows = select(schema.events).order_by(columns.id.desc()).limit(limit)
        if generation is not None:
            rows = rows.where(columns.generation == generation)
        with self._database.read() as connection:
            return [Event(*row) for row in connection.execute(rows)]
