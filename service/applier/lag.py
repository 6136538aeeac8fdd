"""How far the indexes of a generation are behind the catalog: the gauge, and a line now and then."""

import asyncio
from collections.abc import Mapping

import structlog

from service.applier.progress import measure
from service.applier.shelves import Shelves
from service.catalog import Catalog
from service.metrics import Metrics

log = structlog.get_logger(__name__)

REPORT_S = 5.0


class Lag:
    """Measures what is behind, at most every few seconds: counting it is not free."""

    def __init__(
        self, generation: int, catalog: Catalog, shelves: Shelves, *, metrics: Metrics
    ) -> None:
        self._generation = generation
        self._catalog = catalog
        self._shelves = shelves
        self._gauge = metrics.index_lag_passages
        self._reported_at = 0.0

    async def report(self, heads: Mapping[int, int]) -> None:
        """Set the lag, and log it now and then while there is one."""
        behind = [
            shelf for shelf in self._shelves if heads.get(shelf.collection.id, 0) > shelf.applied
        ]
        now = asyncio.get_running_loop().time()
        if not behind:
            self._gauge.set(0)
        elif now >= self._reported_at + REPORT_S:
            self._reported_at = now
            progress = [await measure(self._catalog, self._generation, each) for each in behind]
            self._gauge.set(sum(each.total - each.applied for each in progress))
            for each in progress:
                log.info(
                    "indexing",
                    generation=self._generation,
                    collection=each.collection.id,
                    applied=each.applied,
                    total=each.total,
                )
