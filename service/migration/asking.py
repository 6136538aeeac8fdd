"""Queries first: a candidate's queries are asked of the live passages, and its own passages come behind.

Two spaces may meet here, and nowhere else. The bundle must declare it, and the gate must find on the
live passages that its queries find them as well as the live encoder's do. If it does not, queries
and passages change at one moment, as they do for any other bundle.
"""

from dataclasses import asdict
from functools import partial

from anyio import to_thread

from service.catalog import Catalog, Lease, Route
from service.catalog import Generation as Record
from service.fleet import Fleet
from service.generation import Generation
from service.verification import Gate, Side

DRAIN_S = 2.0


class Asking:
    """Begins it, one persisted step after the other: what the gate found, then the route."""

    def __init__(self, catalog: Catalog, fleet: Fleet, gate: Gate) -> None:
        self._catalog = catalog
        self._fleet = fleet
        self._gate = gate

    async def begin(
        self, record: Record, green: Generation, route: Route, *, lease: Lease | None
    ) -> None:
        """Let a generation that is being built ask, if it may; nothing to do if it does already.

        Raises:
            Conflict: the route has moved on, or the lease is lost.
            Unavailable: a dependency does not answer, so nothing is proven.
        """
        options, generations = record.options, self._catalog.generations
        if (
            route.asking == record.id
            or options.get("hold")
            or not options.get("queries_first")
            or self._fleet.retriever.live.engine.space not in green.compatible_with
        ):
            return
        found = options.get("compatible")
        if found is None:
            # What the live index holds is known as of its last flush.
            await self._fleet.retriever.live.applier.drain(timeout_s=DRAIN_S)
            blue = await live_side(self._catalog, self._fleet)
            found = asdict(await self._gate.compatible(side(green, record), blue))
            await to_thread.run_sync(partial(generations.choose, record.id, compatible=found))
        if found["ok"]:
            ask = partial(generations.ask, record.id, epoch=route.epoch, lease=lease)
            await to_thread.run_sync(ask)
            await self._fleet.follow()


async def live_side(catalog: Catalog, fleet: Fleet) -> Side:
    """The live generation, as the gate sees it."""
    live = fleet.retriever.live
    return side(live, await to_thread.run_sync(catalog.generations.get, live.id))


def side(generation: Generation, record: Record) -> Side:
    """A generation that is open, as the gate sees it."""
    return Side(
        generation=generation.id,
        indexes=record.indexes,
        engine=generation.engine,
        index=generation.applier.index,
        compose=generation.compose,
        golden=generation.golden,
    )
