"""The switch: the moment at which another generation begins to answer, forwards or back.

No write may fall between the two generations, so for that moment revisions are dealt to nobody while
the last of them are applied. The moment is bounded: if the generation is not at the head by then,
writes go on and it is tried again. Searches never wait.
"""

import asyncio
from functools import partial

import structlog
from anyio import to_thread

from service.catalog import Catalog, Lease, Route
from service.errors import Behind, NotReady, ServiceError, Unavailable
from service.fleet import Fleet
from service.generation import Generation
from service.metrics import Metrics

log = structlog.get_logger(__name__)

GATE_S = 0.5
"""The longest that a write waits for one attempt."""
NEAR_S = 2.0
"""So long the generation may come near the head while writes go on, before each attempt."""


class Switch:
    """Changes the route, and answers from it."""

    def __init__(
        self, *, catalog: Catalog, fleet: Fleet, patience_s: float, metrics: Metrics
    ) -> None:
        self._catalog = catalog
        self._fleet = fleet
        self._patience_s = patience_s
        self._metrics = metrics

    async def to(
        self,
        number: int,
        *,
        epoch: int,
        soak_s: float,
        reason: str = "",
        lease: Lease | None = None,
    ) -> Route:
        """Make a generation live, with the one before it to go back to for `soak_s`.

        Raises:
            EpochMismatch: somebody else has switched.
            Conflict: its state does not allow it.
            Unavailable: it did not come to the head in time, and nothing has changed; or it is not
                open in this process.
        """
        generation = self._fleet.open.get(number)
        if generation is None:
            raise NotReady(f"generation {number} is not open in this process")
        cut_over = partial(
            self._catalog.generations.cut_over,
            number,
            epoch=epoch,
            soak_s=soak_s,
            reason=reason,
            lease=lease,
        )
        until = asyncio.get_running_loop().time() + self._patience_s
        route = None
        while route is None:
            await generation.applier.drain(timeout_s=NEAR_S)
            try:
                route = await self._attempt(generation, cut_over)
            except Behind as error:
                if asyncio.get_running_loop().time() > until:
                    raise Unavailable(
                        f"{error.detail}, and did not come to the head within {self._patience_s:g} s"
                        " while writes went on (ISOGLOSS_CUTOVER_PATIENCE_S); nothing has changed"
                    ) from error
        self._metrics.cut_overs.inc()
        try:
            await self._fleet.follow()
        except ServiceError as error:  # it is done; the fleet follows as soon as it can
            log.warning("the catalog cannot be followed", error=error.detail)
        return route

    async def _attempt(self, generation: Generation, cut_over: "partial[Route]") -> Route:
        generations = self._catalog.generations
        await to_thread.run_sync(partial(generations.close_gate, for_s=GATE_S))
        try:
            await generation.applier.drain(timeout_s=GATE_S)
            return await to_thread.run_sync(cut_over)
        except BaseException:
            await to_thread.run_sync(generations.open_gate)
            raise
