"""The pods: the processes that serve over one catalog, as each has last reported itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, insert, select, update

from service.catalog import schema
from service.catalog.database import Database

ROWS = schema.pods.c


@dataclass(frozen=True, slots=True)
class Pod:
    """A process: the epoch that it answers from, the generations that it has open, and refuses to open.

    `seen_s` is how long ago it said so; `refused` has a reason by the number of the generation.
    """

    id: str
    seen_s: float
    epoch: int
    loaded: Sequence[int]
    refused: Mapping[str, str]


class Pods:
    """The heartbeats of a catalog."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def report(
        self, pod: str, *, epoch: int, loaded: Sequence[int], refused: Mapping[int, str]
    ) -> None:
        """Say that the process is alive, and what it has open."""
        values = {
            "epoch": epoch,
            "loaded": sorted(loaded),
            "refused": {str(number): reason for number, reason in refused.items()},
        }
        with self._database.write() as connection:
            values["seen"] = self._database.clock(connection)
            known = connection.execute(update(schema.pods).where(ROWS.id == pod).values(**values))
            if not known.rowcount:
                connection.execute(insert(schema.pods).values(id=pod, **values))

    def list(self, *, fresh_s: float) -> Sequence[Pod]:
        """The processes that reported within so many seconds, by id."""
        with self._database.read() as connection:
            at = self._database.clock(connection)
            rows = connection.execute(
                select(schema.pods).where(ROWS.seen > at - fresh_s).order_by(ROWS.id)
            )
            return [
                Pod(row.id, max(0.0, at - row.seen), row.epoch, row.loaded, row.refused)
                for row in rows
            ]

    def forget(self, pod: str, *, silent_s: float) -> None:
        """Remove a process that ends, and those that have been silent for so long."""
        with self._database.write() as connection:
            silent = ROWS.seen < self._database.clock(connection) - silent_s
            connection.execute(delete(schema.pods).where((ROWS.id == pod) | silent))
