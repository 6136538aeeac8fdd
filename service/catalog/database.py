"""The database under the catalog: connections, transactions, and what its errors mean.

Everything that differs between SQLite and PostgreSQL is in this file. A write transaction waits
its turn among the threads of this process first (a queue is fairer and quicker than SQLite's
polling for its lock), then locks the database's one writer slot: SQLite with BEGIN IMMEDIATE,
PostgreSQL with the `head` row that every writer reads FOR UPDATE.
"""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import orjson
from sqlalchemy import (
    Connection,
    create_engine,
    event,
    exc,
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
POSTGRES_OUTAGES = {"08", "40", "53", "55", "57"}
"""Classes of SQLSTATE: connection, rolled back, resources, not in a state for it, intervention."""


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
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        self._writer = self.engine.execution_options(isogloss_writes=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view of the database."""
        with self._translated(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """The one write transaction at a time: all of it is durable on leaving, or nothing is."""
        if not self._turn.acquire(timeout=self._busy_timeout_s):
            raise Unavailable(
                f"the catalog was busy with other writes for {self._busy_timeout_s:g} s"
            )
        try:
            with self._translated(), self._writer.begin() as connection:
                yield connection
        finally:
            self._turn.release()

    def prepare(self) -> None:
        """Make the tables if there are none; refuse a layout that is newer than this service."""
        with self.write() as connection:
            if not self._sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(7305809)"))
            if not inspect(connection).has_table(schema.layout.name):
                schema.metadata.create_all(connection)
                connection.execute(insert(schema.layout).values(version=schema.VERSION))
                counters = dict.fromkeys(schema.head.c.keys(), 0) | {"id": 1}
                connection.execute(insert(schema.head).values(counters))
                connection.execute(insert(schema.route).values(id=1, epoch=0))
                return
            version = connection.scalar(select(schema.layout.c.version))
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

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exc.TimeoutError as error:
            raise Unavailable(
                f"all {CONNECTIONS} catalog connections were busy for {self._busy_timeout_s:g} s"
            ) from error
        except exc.DBAPIError as error:
            raise _meaning(error.orig or error) from error
        except UnicodeEncodeError as error:
            raise InvalidInput(f"the text is not valid Unicode: {error.reason}") from error


def hold(connection: Connection) -> int:
    """Make this transaction the only one that numbers rows; returns the last revision."""
    last: int | None = connection.scalar(select(schema.head.c.rev).with_for_update())
    if last is None:
        raise RuntimeError("the head row of the catalog is missing")
    return last


def allot(connection: Connection, counter: str, count: int) -> range:
    """The next `count` numbers of a counter of the head row, which stays locked until the commit."""
    column = schema.head.c[counter]
    last = connection.scalars(
        sql_update(schema.head).values({counter: column + count}).returning(column)
    ).one()
    return range(last - count + 1, last + 1)


def chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Pieces that are short enough for the parameters of one statement."""
    return (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))


def now() -> str:
    """This moment, as the catalog writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _configure_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself: `_begin_sqlite` does
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # an acknowledged write survives a power loss
    connection.execute("PRAGMA cache_size = -8000")
    connection.execute("PRAGMA journal_size_limit = 67108864")


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later would fail if another wrote in between.
    writes = connection.get_execution_options().get("isogloss_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _meaning(error: BaseException) -> BaseException:
    """The service's word for an error of the driver; one that is a bug of ours stays what it is."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest of the bits are details
    state = getattr(error, "sqlstate", None) or ""
    if code == sqlite3.SQLITE_FULL or state == POSTGRES_FULL:
        return StorageFull(
            "no space is left for the catalog (ISOGLOSS_DATA_DIR); nothing was stored"
        )
    if code in SQLITE_DAMAGED:
        return ConfigurationError(f"the catalog is damaged, or no catalog at all: {error}")
    if code in SQLITE_OUTAGES or state[:2] in POSTGRES_OUTAGES:
        return Unavailable(f"the catalog does not answer: {error}")
    return error
