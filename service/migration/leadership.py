"""Leadership: the lease of the one process that drives migrations."""

import asyncio
from functools import partial

from anyio import to_thread

from service.catalog import Catalog, Lease
from service.errors import Conflict

LEASE = "migration"


class Leadership:
    """Taken when there is something to do, renewed while it lasts, released afterwards."""

    def __init__(self, catalog: Catalog, pod: str, *, ttl_s: float) -> None:
        self._leases = catalog.leases
        self._pod = pod
        self._ttl_s = ttl_s
        self._lease: Lease | None = None
        self._renew_at_s = 0.0

    @property
    def lease(self) -> Lease:
        """What changes are made under; `Conflict` if another process leads."""
        if self._lease is None:
            raise Conflict(f"another process leads, not {self._pod}")
        return self._lease

    async def take(self) -> bool:
        """Take the lease, or renew it when a third of its life is over; whether it is ours."""
        now_s = asyncio.get_running_loop().time()
        if self._lease is None or now_s >= self._renew_at_s:
            take = partial(self._leases.take, LEASE, self._pod, ttl_s=self._ttl_s)
            self._lease = await to_thread.run_sync(take)
            self._renew_at_s = now_s + self._ttl_s / 3
        return self._lease is not None

    async def release(self) -> None:
        """Let another process lead at once."""
        lease, self._lease = self._lease, None
        if lease is not None:
            await to_thread.run_sync(self._leases.release, lease)
