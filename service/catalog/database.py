"""The database under the catalog: connections, transactions, and what its errors mean.

Everything that differs between SQLite and PostgreSQL is in this file. A write transaction waits
its turn among the threads of this process first (a queue is fairer and quicker than SQLite's
polling for its lock), then locks the database's one writer slot: SQLite with BEGIN IMMEDIATE,
PostgreSQL with the `head` row that every writer reads FOR UPDATE. What a writer then reads was
committed by those before it, so on both a check and the change that rests on it are one moment.
A process that is stopped within its transaction loses it on PostgreSQL, and holds up nobody.
"""

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import orjson
from sqlalchemy import (
    Connection,
    create_engine,
    event,
    exc,
    func,
    insert,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy import update as sql_update

from service.catalog import schema
from service.errors import ConfigurationError, InvalidInput, StorageFull, Unavailable

Item = TypeVar("Item")

CONNECTIONS = 8
GATE_POLL_S = 0.005
BUSY_S = 0.01
CHUNK = 1_000
"""Rows a statement, or a transaction of a large deletion, so that other writers come between."""
SQLITE_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
SQLITE_OUTAGES = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
}
POSTGRES_FULL = "53100"
POSTGRES_OUTAGES = {"08", "25P03", "40", "53", "55", "57"}
"""SQLSTATE, or its class: connection, idle for too long in a transaction, rolled back, resources,
not in a state for it, intervention."""


class Database:
    """One catalog database, open: any thread may read and write."""

    def __init__(self, url: str, *, busy_timeout_s: float) -> None:
        parsed = make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self._sqlite = parsed.get_backend_name() == "sqlite"
        if not self._sqlite and parsed.get_backend_name() != "postgresql":
            raise ConfigurationError(
                f"ISOGLOSS_CATALOG_URL: {parsed.drivername!r} is neither sqlite nor postgresql"
            )
        self._busy_timeout_s = busy_timeout_s
        self._turn = threading.Lock()
        try:
            self.engine = create_engine(
                parsed,
                connect_args={"timeout": busy_timeout_s} if self._sqlite else {},
                json_serializer=lambda value: orjson.dumps(value).decode(),
                json_deserializer=orjson.loads,
                pool_size=CONNECTIONS,
                pool_use_lifo=True,  # the connection whose page cache is warm
                max_overflow=0,
                pool_timeout=busy_timeout_s,
                pool_pre_ping=not self._sqlite,
            )
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"ISOGLOSS_CATALOG_URL needs the package {error.name!r}: install isogloss[postgres]"
            ) from error
        if self._sqlite:
            event.listen(self.engine, "connect", self._configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
            self._reader = self.engine
            self._writer = self.engine.execution_options(isogloss_writes=True)
        else:
            event.listen(self.engine, "connect", self._configure_postgres)
            self._reader = self.engine.execution_options(isolation_level="REPEATABLE READ")
            self._writer = self.engine.execution_options(isolation_level="READ COMMITTED")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view of the database."""
        with self._translated(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """The one write transaction at a time: all of it is durable on leaving, or nothing is."""
        with self._transaction() as connection:
            if not self._sqlite:
                _hold(connection)
            yield connection

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        if not self._turn.acquire(timeout=self._busy_timeout_s):
            raise Unavailable(
                f"the catalog was busy with other writes for {self._busy_timeout_s:g} s"
            )
        try:
            with self._translated(), self._writer.begin() as connection:
                yield connection
        finally:
            self._turn.release()

    @contextmanager
    def numbering(self) -> Iterator[Connection]:
        """A write transaction that may deal revisions: it waits while a cut-over closes the gate.

        The gate is a moment in the route's row, so a controller that dies leaves it open.
        """
        while True:
            with ExitStack() as stack:
                connection = stack.enter_context(self.write())
                closed_until = connection.scalar(select(schema.route.c.gate_until)) or 0.0
                if closed_until <= self.clock(connection):
                    yield connection
                    return
            time.sleep(GATE_POLL_S)

    def clock(self, connection: Connection) -> float:
        """Seconds since 1970 by the one clock that all processes over this database share."""
        if self._sqlite:
            return datetime.now(UTC).timestamp()
        return float(connection.scalar(select(func.extract("epoch", func.clock_timestamp()))) or 0)

    def prepare(self) -> None:
        """Make the tables, or bring older ones up to date; refuse a layout that is newer."""
        with self._transaction() as connection:
            if not self._sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(7305809)"))
            if not inspect(connection).has_table(schema.layout.name):
                schema.metadata.create_all(connection)
                connection.execute(insert(schema.layout).values(version=schema.VERSION))
                counters = dict.fromkeys(schema.head.c.keys(), 0) | {"id": 1}
                connection.execute(insert(schema.head).values(counters))
                connection.execute(insert(schema.route).values(id=1, epoch=0))
                return
            version = connection.scalar(select(schema.layout.c.version)) or 0
            while version in schema.UPGRADES:
                for statement in schema.UPGRADES[version]:
                    connection.execute(text(statement))
                version += 1
                connection.execute(sql_update(schema.layout).values(version=version))
            schema.metadata.create_all(connection)
        if version != schema.VERSION:
            raise ConfigurationError(
                f"the catalog has layout {version}, and this service knows layout "
                f"{schema.VERSION}: start a newer isogloss, or another ISOGLOSS_DATA_DIR"
            )

    def ping(self) -> None:
        """Return if the database answers."""
        with self.read() as connection:
            connection.scalar(select(schema.head.c.rev))

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    def _configure_sqlite(self, connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = (
            None  # the driver begins nothing by itself: `_begin_sqlite` does
        )
        until = time.monotonic() + self._busy_timeout_s
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except (
                sqlite3.OperationalError
            ) as error:  # SQLite does not wait for others by itself here
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(BUSY_S)
            else:
                break
        connection.execute(
            "PRAGMA synchronous = FULL"
        )  # an acknowledged write survives a power loss
        connection.execute("PRAGMA cache_size = -8000")
        connection.execute("PRAGMA journal_size_limit = 67108864")

    def _configure_postgres(self, connection: Any, _record: Any) -> None:
        waits_ms = int(self._busy_timeout_s * 1000)
        connection.autocommit = True
        with closing(connection.cursor()) as cursor:
            cursor.execute(f"SET lock_timeout = {waits_ms}")
            # Half of it: who waits for a process that was stopped is served then, and not refused.
            cursor.execute(f"SET idle_in_transaction_session_timeout = {max(1, waits_ms // 2)}")
        connection.autocommit = False

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exc.TimeoutError as error:
            raise Unavailable(
                f"all {CONNECTIONS} catalog connections were busy for {self._busy_timeout_s:g} s"
            ) from error
        except exc.DBAPIError as error:
            raise _meaning(error) from error
        except UnicodeEncodeError as error:
            raise InvalidInput(f"the text is not valid Unicode: {error.reason}") from error


def allot(connection: Connection, counter: str, count: int) -> range:
    """The next `count` numbers of a counter of the head row, which stays locked until the commit."""
    column = schema.head.c[counter]
    last = connection.scalars(
        sql_update(schema.head).values({counter: column + count}).returning(column)
    ).one()
    return range(last - count + 1, last + 1)


def _hold(connection: Connection) -> None:
    """Make this transaction the only one that writes, until it ends."""
    if connection.scalar(select(schema.head.c.id).with_for_update()) is None:
        raise RuntimeError("the head row of the catalog is missing")


def chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Pieces that are short enough for the parameters of one statement."""
    return (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))


def now() -> str:
    """This moment, as the catalog writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later would fail if another wrote in between.
    writes = connection.get_execution_options().get("isogloss_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _meaning(wrapped: exc.DBAPIError) -> BaseException:
    """The service's word for an error of the driver; one that is a bug of ours stays what it is."""
    error = wrapped.orig or wrapped
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest of the bits are details
    state = getattr(error, "sqlstate", None) or ""
    if code == sqlite3.SQLITE_FULL or state == POSTGRES_FULL:
        return StorageFull(
            "no space is left for the catalog (ISOGLOSS_DATA_DIR); nothing was stored"
        )
    if code in SQLITE_DAMAGED:
        return ConfigurationError(f"the catalog is damaged, or no catalog at all: {error}")
    unheard = isinstance(wrapped, exc.OperationalError) and not code and not state  # no connection
    if unheard or code in SQLITE_OUTAGES or POSTGRES_OUTAGES & {state, state[:2]}:
        return Unavailable(f"the catalog does not answer: {error}")
    return error
