"""What is done to the indexes of one generation: open or make, apply, flush, verify, drop.

The cursor in the catalog moves only after a flush, so a crash replays what an index may have lost
and never skips it. Nothing here is called twice at the same time: an index has one writer, and it
asks whether it still is before each thing that it changes.
"""

from functools import partial

import structlog
from anyio import to_thread

from service.applier.batch import Batch
from service.applier.difference import difference
from service.applier.lease import LeaseKeeper
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
        keeper: LeaseKeeper,
        flush_passages: int,
        metrics: Metrics,
    ) -> None:
        self._generation = generation
        self._indexes = generation.indexes
        self._catalog = catalog
        self._backend = backend
        self.keeper = keeper
        self._flush_passages = flush_passages
        self._applied = metrics.index_applied_passages
        self._rebuilds = metrics.index_rebuilds
        self._log = log.bind(generation=generation.id)

    async def open(self, shelf: Shelf) -> None:
        """Open the index, or make it anew if it is missing, damaged, wrong or of another history."""
        if shelf.index is not None and shelf.ours:
            return
        last = await to_thread.run_sync(self._catalog.passages.last_revision)
        if shelf.broken is None and shelf.durable > last:
            shelf.condemn("ahead")  # the catalog was restored from an older copy
        spec = IndexSpec(
            shelf.name, self._generation.space, self._generation.dimension, shelf.collection.fields
        )
        if shelf.broken is None:
            try:
                index = await self._backend.open(spec)
            except NotFound:
                shelf.condemn("missing")
            except IndexCorrupt:
                shelf.condemn("corrupt")
            else:
                shelf.opened(index, shelf.durable)
                return
        await self._rebuild(shelf, spec, shelf.broken or "missing")

    async def apply(self, shelf: Shelf, batch: Batch, *, flush_by: float) -> None:
        """Apply a batch, unless the index does not stand where the batch begins."""
        if shelf.index is None or shelf.applied != batch.after:
            shelf.read = shelf.applied
            return
        self.keeper.require()
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
        lease = self.keeper.require()
        await shelf.index.flush()
        await to_thread.run_sync(
            partial(
                self._catalog.generations.advance,
                self._indexes,
                shelf.collection.id,
                applied_rev=shelf.applied,
                failures=tuple(shelf.failures),
                lease=lease,
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
        recorded = await to_thread.run_sync(self._catalog.generations.failures, self._indexes)
        wrong = await difference(
            shelf.index,
            self._catalog,
            shelf.collection.id,
            applied_rev=shelf.applied,
            failed={(each.passage, each.rev) for each in [*recorded, *shelf.failures]},
        )
        if wrong is None:
            await self._prove(shelf)
        else:
            self._log.warning("index is wrong", collection=shelf.collection.id, difference=wrong)
            shelf.condemn("mismatch")
            await self._tell(shelf, verified=False)

    async def drop(self, name: str) -> None:
        """Destroy the index of a collection that is followed no longer."""
        self.keeper.require()
        await self._backend.drop(name)

    async def _rebuild(self, shelf: Shelf, spec: IndexSpec, reason: str) -> None:
        if shelf.durable:
            # First the cursor: a crash after it leaves an index that is filled once more, but one
            # before it, with the index already gone, would leave a cursor that lies.
            await to_thread.run_sync(
                partial(
                    self._catalog.generations.rewind,
                    self._indexes,
                    shelf.collection.id,
                    reason=reason,
                    lease=self.keeper.require(),
                )
            )
            shelf.proof = False
        await self._tell(shelf, verified=False)
        await self.drop(shelf.name)
        self.keeper.require()
        index = await self._backend.create(spec)
        if shelf.durable or reason != "missing":
            self._rebuilds.labels(reason=reason).inc()
            self._log.warning("index is rebuilt", collection=shelf.collection.id, reason=reason)
        shelf.opened(index, 0)
        rows = await to_thread.run_sync(
            partial(self._catalog.passages.pending, shelf.collection.id, after=0)
        )
        if not rows:
            await self._prove(shelf)  # nothing is equal to nothing

    async def _prove(self, shelf: Shelf) -> None:
        await self._tell(shelf, verified=True)
        shelf.proven()

    async def _tell(self, shelf: Shelf, *, verified: bool) -> None:
        """Say in the catalog, for those who only read the index, whether they can rely on it."""
        if shelf.proof != verified:
            prove = partial(self._catalog.generations.prove, verified=verified)
            lease = self.keeper.require()
            await to_thread.run_sync(
                partial(prove, self._indexes, shelf.collection.id, lease=lease)
            )
            shelf.proof = verified
