"""Waiting until a collection of a Qdrant server is optimised: its graphs built, its segments merged.

Green is not enough: it is also seen between two optimisations, so the list of those that run or
wait must be empty too. After a restart the server optimises nothing before an update arrives, and
says so by grey: then it gets an update that changes nothing.
"""

import asyncio

from qdrant_client import AsyncQdrantClient, models

from service.errors import IndexUnavailable
from service.vectors.qdrant_calls import QdrantCalls


async def settled(client: AsyncQdrantClient, calls: QdrantCalls, collection: str) -> None:
    """Return when nothing is left to optimise; `IndexUnavailable` if the optimiser has failed."""
    while True:
        info = await calls.read("settle", lambda: client.get_collection(collection))
        if info.status == models.CollectionStatus.RED:
            raise IndexUnavailable(
                f"collection {collection!r} cannot be optimised: {info.optimizer_status}",
                retry_after_s=30,
            )
        if info.status == models.CollectionStatus.GREY:
            await _nudge(client, calls, collection)
        green = info.status == models.CollectionStatus.GREEN
        if green and not await _optimises(client, calls, collection):
            return
        await asyncio.sleep(calls.patience.settle_s)


async def _optimises(client: AsyncQdrantClient, calls: QdrantCalls, collection: str) -> bool:
    try:
        found = await calls.read("settle", lambda: client.get_optimizations(collection))
    except NotImplementedError:  # the client's local mode, where there is nothing to optimise
        return False
    return bool(found.running or found.summary.queued_optimizations)


async def _nudge(client: AsyncQdrantClient, calls: QdrantCalls, collection: str) -> None:
    await calls.write(
        "settle",
        lambda: client.update_collection(
            collection,
            optimizers_config=models.OptimizersConfigDiff(),
            timeout=calls.patience.write_s,
        ),
    )
