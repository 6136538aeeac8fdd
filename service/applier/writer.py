"""What is done to the indexes of one generation: open or make, apply, flush, verify.

The cursor in the catalog moves only after a flush, so a crash replays what an index may have lost
and never skips it. Nothing here is called twice at the same time: an index has one writer.
"""

from functools import partial

import structlog
from anyio import to_thread

from service.applier.batch import Batch
from service.applier.difference import difference
from service.applier.shelf import Shelf
from service.catalog import Catalog, Generation
from service.errors import IndexCorrupt, NotFound
from service.metrics import Metrics
from service.vectors.backend import IndexSpec, VectorBackend

log = structlog.get_logger(__name__)


class Writer:
    """The one writer of a generation's indexes."""

    def __init__(
        self,
        generation: Generation,
        catalog: Catalog,
        backend: VectorBackend,
        *,
        flush_passages: int,
        metrics: Metrics,
    ) -> None:
        self._generation = generation
        self._prefix = f"g{generation.id}-c"
        self._catalog = catalog
        self._backend = backend
        self._flush_passages = flush_passages
        self._applied = metrics.index_applied_passages
        self._rebuilds = metrics.index_rebuilds
        self._log = log.bind(generation=generation.id)

    def name(self, collection: int) -> str:
        """The name of the index of a collection in this generation."""
        return f"{self._prefix}{collection}"

    async def names(self) -> list[str]:
        """The names of this generation's indexes that there are."""
        return [name for name in await self._backend.list() if name.startswith(self._prefix)]

    async def open(self, shelf: Shelf) -> None:
        """Open the index, or make it anew if it is missing, damaged, wrong or of another history."""
        if shelf.index is not None:
            return
        last = await to_thread.run_sync(self._catalog.passages.last_revision)
        if shelf.broken is None and shelf.durable > last:
            shelf.broken = "ahead"  # the catalog was restored from an older copy
        spec = IndexSpec(
            shelf.name, self._generation.space, self._generation.dimension, shelf.collection.fields
        )
        if shelf.broken is None:
            try:
                shelf.opened(await self._backend.open(spec), shelf.durable)
            except NotFound:
                shelf.broken = "missing"
            except IndexCorrupt:
                shelf.broken = "corrupt"
            else:
                return
        await self._rebuild(shelf, spec, shelf.broken)

    async def apply(self, shelf: Shelf, batch: Batch, *, flush_by: float) -> None:
        """Apply a batch, unless the index does not stand where the batch begins."""
        if shelf.index is None or shelf.applied != batch.after:
            shelf.read = shelf.applied
            return
        await shelf.index.apply(batch.points, batch.gone)
        shelf.failures += batch.failures
        shelf.tombstones += len(batch.gone)
        shelf.advance(batch.last, len(batch.points) + len(batch.gone), flush_by=flush_by)
        if shelf.unflushed >= self._flush_passages:
            shelf.flush_by = 0.0
        self._applied.labels(operation="upsert").inc(len(batch.points))
        self._applied.labels(operation="delete").inc(len(batch.gone) - len(batch.failures))
        self._applied.labels(operation="fail").inc(len(batch.failures))
        for each in batch.failures:
            self._log.warning(
                "a passage cannot be embedded",
                collection=each.collection,
                passage=each.passage,
                rev=each.rev,
                reason=each.reason,
            )

    async def flush(self, shelf: Shelf) -> None:
        """Make what was applied durable, then say so in the catalog; a crash in between replays."""
        if shelf.index is None:
            return
        await shelf.index.flush()
        await to_thread.run_sync(
            partial(
                self._catalog.generations.advance,
                self._generation.id,
                shelf.collection.id,
                applied_rev=shelf.applied,
                failures=tuple(shelf.failures),
            )
        )
        spent = shelf.tombstones
        shelf.flushed()
        if spent:
            await to_thread.run_sync(self._catalog.passages.purge, shelf.collection.id)

    async def verify(self, shelf: Shelf) -> None:
        """Compare the index with the catalog, pair by pair; if they differ it is to be made anew."""
        if shelf.index is None or shelf.applied != shelf.read:
            return
        recorded = await to_thread.run_sync(self._catalog.generations.failures, self._generation.id)
        wrong = await difference(
            shelf.index,
            self._catalog,
            shelf.collection.id,
            applied_rev=shelf.applied,
            failed={(each.passage, each.rev) for each in [*recorded, *shelf.failures]},
        )
        if wrong is None:
            shelf.proven()
        else:
            self._log.warning("index is wrong", collection=shelf.collection.id, difference=wrong)
            shelf.condemn("mismatch")

    async def drop(self, name: str) -> None:
        """Destroy the index of a collection that is followed no longer."""
        await self._backend.drop(name)

    async def _rebuild(self, shelf: Shelf, spec: IndexSpec, reason: str) -> None:
        if shelf.durable:
            # First the cursor: a crash after it leaves an index that is filled once more, but one
            # before it, with the index already gone, would leave a cursor that lies.
            await to_thread.run_sync(
                partial(
                    self._catalog.generations.rewind,
                    self._generation.id,
                    shelf.collection.id,
                    reason=reason,
                )
            )
        await self._backend.drop(shelf.name)
        index = await self._backend.create(spec)
        if shelf.durable or reason != "missing":
            self._rebuilds.labels(reason=reason).inc()
            self._log.warning("index is rebuilt", collection=shelf.collection.id, reason=reason)
        shelf.opened(index, 0)
        rows = await to_thread.run_sync(
            partial(self._catalog.passages.pending, shelf.collection.id, after=0)
        )
        if not rows:
            shelf.proven()  # nothing is equal to nothing
