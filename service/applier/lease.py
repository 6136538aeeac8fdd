"""The lease by which one process of many writes to the indexes of a generation: taken, renewed, lost.

A process that was stopped for a minute wakes up believing what it heard last, so the holder knows
by its own clock when to stop: its time counts from before it asked, and ends a margin before the
catalog gives the lease away. Every write asks first (`require`). A write that is then in flight has
the new holder's grace to end in, and a cursor that is moved too late is refused by the catalog.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import structlog
from anyio import to_thread

from service.catalog import Catalog, Lease
from service.errors import Conflict, ServiceError

log = structlog.get_logger(__name__)

RENEWALS = 3
"""So many times within its life a lease is renewed, or asked for by those who wait for it."""
MARGIN = 0.2
"""The share of its life that a holder leaves unused: clocks differ, and so do their speeds."""


class LeaseKeeper:
    """Asks for one lease again and again, and knows whether this process may write now."""

    def __init__(
        self,
        catalog: Catalog,
        name: str,
        owner: str,
        *,
        ttl_s: float,
        grace_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leases = catalog.leases
        self._name = name
        self._owner = owner
        self._ttl_s = ttl_s
        self._grace_s = grace_s
        self._clock = clock
        self._lease: Lease | None = None
        self._fence = 0  # of the last lease that was ours
        self._term = 0  # the fence under which this process writes
        self._from_s = self._until_s = 0.0
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._log = log.bind(lease=name, owner=owner)

    @property
    def ready(self) -> bool:
        """Whether the lease is held, and whoever held it before has had time to end its writes."""
        return self._lease is not None and self._from_s <= self._clock() < self._until_s

    def begin(self) -> None:
        """Write from now on, until the lease is lost or was another's meanwhile."""
        self._term = self._fence

    def require(self) -> Lease:
        """The lease, for a write that begins now; `Conflict` if this process may not write."""
        if self._lease is None or not self._leading():
            raise Conflict(f"the lease {self._name!r} is not held by {self._owner} any longer")
        return self._lease

    async def lost(self) -> None:
        """Return when this process may write no longer."""
        while self._leading():
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._until_s - self._clock())):
                    await self._changed.wait()

    def lose(self) -> None:
        """Believe the catalog, which refused a write: another process holds the lease."""
        self._hold(None, 0.0)
        self._wake()

    async def ask(self) -> None:
        """Take the lease, or renew it; what is held is held on while the catalog does not answer."""
        asked_s = self._clock()
        take = partial(self._leases.take, self._name, self._owner, ttl_s=self._ttl_s)
        try:
            lease = await to_thread.run_sync(take)
        except ServiceError as error:
            self._log.warning("the lease cannot be asked for", error=error.detail)
        except Exception:
            log.exception("a bug keeps the lease from being asked for", lease=self._name)
        else:
            self._hold(lease, asked_s)
        self._wake()

    async def keep(self) -> None:
        """Ask in time, until `release`."""
        while not self._stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._ttl_s / RENEWALS):
                    await self._stop.wait()
                    return
            await self.ask()

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()

    async def release(self) -> None:
        """Let another process have it at once; nothing if that cannot be said now: it runs out."""
        lease, self._lease = self._lease, None
        if lease is not None:
            with suppress(ServiceError):
                await to_thread.run_sync(self._leases.release, lease)

    def _leading(self) -> bool:
        return self.ready and self._fence == self._term

    def _hold(self, lease: Lease | None, asked_s: float) -> None:
        if (lease is None) != (self._lease is None):
            self._log.info("writing is somebody else's" if lease is None else "writing is ours")
        if lease is not None:
            self._until_s = asked_s + self._ttl_s * (1 - MARGIN)
            if lease.fence != self._fence:  # else nobody else has held it since it was ours
                self._fence = lease.fence
                self._from_s = self._clock() + (self._grace_s if lease.fence > 1 else 0.0)
        self._lease = lease

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
