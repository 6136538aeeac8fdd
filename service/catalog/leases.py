"""Leases: which process may drive the migration, and which one writes to a generation's indexes.

A lease has an owner until a moment on the catalog's clock, and a fence that grows whenever the owner
changes. Who wakes up late with an old fence is refused by `fenced`, inside the very transaction that
it wanted to commit.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from service.catalog import schema
from service.catalog.database import Database
from service.errors import Conflict

ROWS = schema.leases.c


@dataclass(frozen=True, slots=True)
class Lease:
    """What `owner` holds until `expires`, in seconds since 1970 on the catalog's clock."""

    name: str
    owner: str
    fence: int
    expires: float


class Leases:
    """The leases of a catalog."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, name: str, owner: str, *, ttl_s: float) -> Lease | None:
        """Take a free or expired lease, or renew one's own; None while another owner holds it."""
        with self._database.write() as connection:
            at = self._database.clock(connection)
            row = connection.execute(
                select(ROWS.owner, ROWS.fence, ROWS.expires).where(ROWS.name == name)
            ).one_or_none()
            if row is None:
                lease = Lease(name, owner, 1, at + ttl_s)
                connection.execute(
                    insert(schema.leases).values(
                        name=name, owner=owner, fence=1, expires=lease.expires
                    )
                )
                return lease
            if row.owner != owner and row.expires > at:
                return None
            fence = row.fence + (row.owner != owner)
            connection.execute(
                update(schema.leases)
                .where(ROWS.name == name)
                .values(owner=owner, fence=fence, expires=at + ttl_s)
            )
            return Lease(name, owner, fence, at + ttl_s)

    def release(self, lease: Lease) -> None:
        """Let another owner take it at once; nothing happens if it is lost already."""
        with self._database.write() as connection:
            connection.execute(
                update(schema.leases)
                .where(ROWS.name == lease.name, ROWS.fence == lease.fence)
                .values(expires=0.0, owner="")
            )

    def holds(self, lease: Lease) -> bool:
        """Whether nobody has taken it since."""
        with self._database.read() as connection:
            return _held(connection, lease)

    def forget(self, name: str) -> None:
        """Remove the lease of something that is gone."""
        with self._database.write() as connection:
            connection.execute(delete(schema.leases).where(ROWS.name == name))


def fenced(connection: Connection, lease: Lease | None) -> None:
    """Refuse the transaction of an owner that was overtaken; no lease means that none is needed.

    One that has expired is good for as long as nobody has taken it: whoever does changes the fence.
    """
    if lease is not None and not _held(connection, lease):
        raise Conflict(f"the lease {lease.name!r} has passed from {lease.owner} to another owner")


def _held(connection: Connection, lease: Lease) -> bool:
    row = connection.execute(
        select(ROWS.owner, ROWS.fence).where(ROWS.name == lease.name)
    ).one_or_none()
    return row is not None and (row.owner, row.fence) == (lease.owner, lease.fence)
