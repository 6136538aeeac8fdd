"""What there is: the collections, the registry's bundles, and how the parts of the service are."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

import anyio.to_thread

from service.applier import Progress
from service.catalog import Catalog, Collection
from service.errors import NotFound, ServiceError
from service.generation import Generation
from service.manifest import Precision
from service.registry import Entry, Registry
from service.retriever import Retriever
from service.types import Check, CollectionInfo, FieldType, ModelInfo, Status
from service.vectors.backend import VectorBackend

SEARCHABLE = {"following", "current"}

T = TypeVar("T")
Args = TypeVarTuple("Args")


@dataclass(frozen=True, slots=True)
class ModelUse:
    """A generation that a bundle made, in one of its precisions."""

    generation: int
    precision: str
    state: str
    live: bool


@dataclass(frozen=True, slots=True)
class TrainingData:
    """One source that a bundle was trained on: its licence, and how many rows of it."""

    name: str
    licence: str
    rows: int


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A bundle in full: what it is, where it comes from, how well it did, and who uses it.

    Of an invalid bundle nothing is known but why, and who uses it.
    """

    model: ModelInfo
    uses: Sequence[ModelUse]
    """Newest first."""
    created: str = ""
    spaces: Mapping[Precision, str] = field(default_factory=dict)
    """The space of each precision."""
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    base_model: str = ""
    recipe: str = ""
    """Its name; what stands in it is in the manifest."""
    commit: str = ""
    data: Sequence[TrainingData] = ()
    tools: Mapping[str, str] = field(default_factory=dict)


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

    async def model(self, name: str, version: str) -> ModelCard:
        """One bundle in full, or `NotFound`; its manifest alone is read."""
        live = self._retriever.live
        entries = await _run(self._registry.list)
        for entry in entries:
            if (entry.name, entry.version) == (name, version):
                break
        else:
            there = ", ".join(f"{each.name}/{each.version}" for each in entries) or "none"
            raise NotFound(f"no bundle {name}/{version} in the registry: {there}")
        uses = [
            ModelUse(each.id, each.precision, each.state, live=each.id == live.id)
            for each in reversed(await _run(self._catalog.generations.list))
            if (each.bundle, each.version) == (name, version)
        ]
        return _card(entry, _model(entry, live), uses)

    async def status(self) -> Status:
        """How the parts of the service are, each asked now."""
        live = self._retriever.live
        progress = await live.applier.progress()
        return Status(
            checks=[
                Check("encoder", live.engine.healthy),
                await _checked("catalog", _run(self._catalog.ping)),
                await self._route_check(live),
                await self._index_check(progress),
            ],
            generation=live.id,
            epoch=live.epoch,
            bundle=live.bundle,
            space=live.engine.space,
            applied=sum(each.applied for each in progress),
            total=sum(each.total for each in progress),
        )

    async def _route_check(self, live: Generation) -> Check:
        """Whether this process answers from what the route names: it may be opening that still."""
        try:
            route = await _run(self._catalog.generations.route)
        except ServiceError as error:
            return Check("route", ok=False, detail=error.detail)
        if route.epoch == live.epoch:
            return Check("route", ok=True)
        return Check(
            "route",
            ok=False,
            detail=f"answers from epoch {live.epoch}, and the route is at {route.epoch}",
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
    spaces = manifest.space.values()
    # Two versions may be of one space, when nothing that shapes a vector has changed.
    active = live.bundle == f"{entry.name}/{entry.version}" and live.engine.space in spaces
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


def _card(entry: Entry, model: ModelInfo, uses: Sequence[ModelUse]) -> ModelCard:
    manifest = entry.manifest
    if manifest is None:
        return ModelCard(model, uses)
    origin = manifest.provenance
    recipe = origin.recipe if isinstance(origin.recipe, str) else origin.recipe.get("name", "")
    return ModelCard(
        model,
        uses,
        created=origin.created.isoformat(),
        spaces=manifest.space,
        evaluation=manifest.evaluation,
        base_model=origin.base_model,
        recipe=str(recipe),
        commit=origin.commit,
        data=[TrainingData(name, each.licence, each.rows) for name, each in origin.data.items()],
        tools=origin.tools,
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
