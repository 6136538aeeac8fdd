"""What there is: the collections, the registry's bundles, and how the parts of the service are."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar, TypeVarTuple

import anyio.to_thread

from service.applier import Progress
from service.catalog import Catalog, Collection
from service.errors import ServiceError
from service.registry import Entry, Registry
from service.retriever import Generation, Retriever
from service.types import Check, CollectionInfo, FieldType, ModelInfo, Status
from service.vectors.backend import VectorBackend

SEARCHABLE = {"following", "current"}

T = TypeVar("T")
Args = TypeVarTuple("Args")


class Inventory:
    """Makes, shows and drops collections; shows models and status, as of the live generation."""

    def __init__(
        self,
        retriever: Retriever,
        *,
        catalog: Catalog,
        backend: VectorBackend,
        registry: Registry,
    ) -> None:
        self._retriever = retriever
        self._catalog = catalog
        self._backend = backend
        self._registry = registry

    async def create_collection(self, name: str, fields: Mapping[str, FieldType]) -> CollectionInfo:
        """Make a collection; the existing one if its fields are equal, `Conflict` if they are not."""
        made = await _run(self._catalog.collections.create, name, fields)
        await self._retriever.live.applier.attach(made)
        return await self.collection(name)

    async def collections(self) -> list[CollectionInfo]:
        """Every collection, by name."""
        return [
            await self._info(collection)
            for collection in await _run(self._catalog.collections.list)
        ]

    async def collection(self, name: str) -> CollectionInfo:
        """One collection with its size, or `NotFound`."""
        return await self._info(await _run(self._catalog.collections.get, name))

    async def drop_collection(self, name: str) -> None:
        """Remove a collection with everything in it."""
        gone = await _run(self._catalog.collections.delete, name)
        await self._retriever.live.applier.detach(gone.id)

    async def models(self) -> list[ModelInfo]:
        """Every bundle version of the registry, and whether it is the live one."""
        live = self._retriever.live
        entries = await _run(self._registry.list)
        return [_model(entry, live) for entry in entries]

    async def status(self) -> Status:
        """How the parts of the service are, each asked now."""
        live = self._retriever.live
        progress = await live.applier.progress()
        return Status(
            checks=[
                Check("encoder", live.engine.healthy),
                await _checked("catalog", _run(self._catalog.ping)),
                await self._index_check(progress),
            ],
            generation=live.id,
            epoch=live.epoch,
            bundle=live.bundle,
            space=live.engine.space,
            applied=sum(each.applied for each in progress),
            total=sum(each.total for each in progress),
        )

    async def _index_check(self, progress: Sequence[Progress]) -> Check:
        answers = await _checked("index", self._backend.ping())
        building = [each for each in progress if each.state not in SEARCHABLE]
        if not answers.ok or not building:
            return answers
        said = "; ".join(
            f"{each.collection.name}: {each.state}, {each.applied} of {each.total}"
            + (f" ({each.error})" if each.error else "")
            for each in building
        )
        return Check("index", ok=False, detail=said)

    async def _info(self, collection: Collection) -> CollectionInfo:
        counts = await _run(self._catalog.documents.counts, collection.id)
        heads = await _run(self._catalog.passages.heads)
        revision = heads.get(collection.id, 0)
        lag = await _run(
            partial(
                self._catalog.passages.pending,
                collection.id,
                after=self._retriever.live.applier.applied(collection.id),
            )
        )
        return CollectionInfo(
            name=collection.name,
            fields=collection.fields,
            documents=counts.documents,
            passages=counts.passages,
            languages=counts.languages,
            revision=revision,
            lag=lag,
        )


def _model(entry: Entry, live: Generation) -> ModelInfo:
    manifest = entry.manifest
    if manifest is None:
        return ModelInfo(entry.name, entry.version, "invalid", reason=entry.problem)
    active = live.engine.space in manifest.space.values()
    return ModelInfo(
        name=entry.name,
        version=entry.version,
        state="active" if active else "available",
        space=live.engine.space if active else next(iter(manifest.space.values())),
        dimension=manifest.dimension,
        dimensions=manifest.dimensions,
        max_tokens=manifest.max_tokens,
        languages=manifest.languages,
        precisions=list(manifest.precisions),
        roles=list(manifest.prompts),
        licence=manifest.provenance.licence,
    )


async def _checked(name: str, answer: Awaitable[None]) -> Check:
    try:
        await answer
    except ServiceError as error:
        return Check(name, ok=False, detail=error.detail)
    return Check(name, ok=True)


async def _run(function: Callable[[*Args], T], *args: *Args) -> T:
    """Run a synchronous call in a worker thread, off the event loop."""
    return await anyio.to_thread.run_sync(function, *args)
