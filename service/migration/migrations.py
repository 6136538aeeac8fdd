"""What an operator may ask for, and sees: migrations begun, followed, held, taken back and ended."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

from anyio import to_thread

from service.bundle import Bundle
from service.candidate import Proof
from service.catalog import FINISHED, UNDER_WAY, Catalog, Pod, Route
from service.catalog import Generation as Record
from service.errors import Conflict, EpochMismatch, InvalidInput
from service.fleet import Fleet
from service.manifest import Precision
from service.migration.migrator import Migrator
from service.migration.switch import Switch
from service.registry import Registry
from service.shadow import Shadow
from service.types import (
    CollectionProgress,
    GateCheck,
    Migration,
    MigrationOptions,
    MigrationStep,
    PodState,
)
from service.verification import Gate, from_json

LOOK_S = 0.5
RATE_LOOKS = 20
"""The rate is that of the last ten seconds of looking."""
LISTED = 50
FOUND = ("memory_bytes", "compatible")
"""Kept with the options of a migration, and not asked for: what was found on the way."""

T = TypeVar("T")
Args = TypeVarTuple("Args")
Prove = Callable[[Bundle, Precision], Awaitable[Proof]]


class Migrations:
    """The migrations of a service, as any of its processes can show and steer them."""

    def __init__(  # noqa: PLR0913 - each is one part of a migration
        self,
        *,
        catalog: Catalog,
        registry: Registry,
        fleet: Fleet,
        migrator: Migrator,
        switch: Switch,
        gate: Gate,
        shadow: Shadow,
        prove: Prove,
        defaults: MigrationOptions,
        pod_silent_s: float,
    ) -> None:
        self._catalog = catalog
        self._registry = registry
        self._fleet = fleet
        self._migrator = migrator
        self._switch = switch
        self._gate = gate
        self._shadow = shadow
        self._prove = prove
        self._defaults = defaults
        self._pod_silent_s = pod_silent_s
        self._looks: dict[int, deque[tuple[float, int]]] = {}

    async def activate(
        self,
        name: str,
        version: str | None,
        *,
        precision: Precision | None,
        options: MigrationOptions,
        idempotency_key: str | None = None,
        epoch: int | None = None,
        actor: str = "",
    ) -> Migration:
        """Begin the migration to a bundle of the registry; the latest version if none is named.

        Raises:
            NotFound: there is no such bundle.
            BundleInvalid: it breaks the contract.
            InvalidInput: an option is wrong, or the bundle has no such precision.
            Conflict: it is live already, or another migration is under way.
            EpochMismatch: the route is not at `epoch`.
        """
        await self._gate.preflight(override=options.override, reason=options.reason)
        reference = f"{name}/{version}" if version is not None else name
        bundle = await _run(self._registry.find, reference)
        chosen = self._precision(bundle, precision)
        manifest = bundle.manifest
        route = await _run(self._catalog.generations.route)
        if idempotency_key is None and route.active is not None:
            live = await _run(self._catalog.generations.get, route.active)
            if (live.model, live.space) == (
                f"{manifest.name}/{manifest.version}",
                manifest.space[chosen],
            ):
                raise Conflict(f"{live.model} in {chosen} is live already, as generation {live.id}")
        made = await _run(
            partial(
                self._catalog.generations.register,
                bundle=manifest.name,
                version=manifest.version,
                precision=chosen,
                space=manifest.space[chosen],
                dimension=manifest.dimension,
                options=_chosen(options, self._defaults),
                request=idempotency_key,
                epoch=epoch,
                actor=actor,
            )
        )
        self._migrator.notify()
        return await self.get(made.id)

    def _precision(self, bundle: Bundle, asked: Precision | None) -> Precision:
        """What was asked for, else that of the live encoder, else the bundle's first."""
        has = list(bundle.manifest.precisions)
        if asked is None:
            live: Precision = self._fleet.retriever.live.engine.precision
            return live if live in has else has[0]
        if asked not in has:
            raise InvalidInput(
                f"precision {asked!r}: {bundle.manifest.name}/{bundle.manifest.version} has"
                f" {', '.join(has)}",
                pointer="/precision",
            )
        return asked

    async def list(self) -> Sequence[Migration]:
        """The latest migrations, newest first; those that are not over are always among them."""
        route, records = await _run(self._catalog.generations.snapshot)
        pods = await self._pods()
        latest = {record.id for record in records[-LISTED:]}
        shown = [each for each in records if each.id in latest or each.state not in FINISHED]
        return [await self._view(each, route, pods) for each in reversed(shown)]

    async def get(self, generation: int) -> Migration:
        """One migration, or `NotFound`."""
        record = await _run(self._catalog.generations.get, generation)
        route = await _run(self._catalog.generations.route)
        return await self._view(record, route, await self._pods())

    async def step(
        self,
        generation: int,
        step: MigrationStep,
        *,
        epoch: int | None = None,
        actor: str = "",
    ) -> Migration:
        """Steer a migration.

        Raises:
            Conflict: its state does not allow it; says which one does.
            EpochMismatch: the route is not at `epoch`.
            Unavailable: a rollback whose generation did not come to the head in time.
        """
        record = await _run(self._catalog.generations.get, generation)
        route = await _run(self._catalog.generations.route)
        if epoch is not None and epoch != route.epoch:
            raise EpochMismatch(f"the route is at epoch {route.epoch}, not {epoch}")
        generations = self._catalog.generations
        match step:
            case "pause" | "resume":
                paused = step == "pause"
                await _run(partial(generations.pause, record.id, paused=paused, actor=actor))
            case "abort":
                move = partial(generations.move, record.id, "aborted", expect=UNDER_WAY)
                await _run(partial(move, reason=f"aborted by {actor}" if actor else "aborted"))
            case "cut-over":
                await _run(partial(generations.choose, record.id, hold=False))
            case "rollback":
                await self._roll_back(record, route, actor)
            case "finish":
                previous = _previous(record, route, "finish")
                await _run(partial(generations.retire, previous, reason=f"finished by {actor}"))
        self._fleet.notify()
        self._migrator.notify()
        return await self.get(record.id)

    async def _roll_back(self, record: Record, route: Route, actor: str) -> None:
        previous = _previous(record, route, "roll back")
        reason = "rollback" + (f" by {actor}" if actor else "")
        asked: float | None = record.options.get("soak_s")
        soak_s = self._defaults.soak_s if asked is None else asked
        await self._switch.to(previous, epoch=route.epoch, soak_s=soak_s or 0.0, reason=reason)

    async def watch(self, generation: int) -> AsyncIterator[Migration]:
        """The migration now and at every change, until nothing more will happen to it."""
        shown: Migration | None = None
        while True:
            now = await self.get(generation)
            if shown is None or _still(now) != _still(shown):
                shown = now
                yield now
            if now.state in FINISHED or (now.live and now.soak_until is None):
                return
            await asyncio.sleep(LOOK_S)

    async def verify(self, name: str, version: str) -> Sequence[Proof]:
        """Prove every precision of a bundle in a child process.

        Raises:
            NotFound: there is no such bundle.
            BundleInvalid: it cannot be used here, and why.
        """
        bundle = await _run(self._registry.find, f"{name}/{version}")
        return [await self._prove(bundle, precision) for precision in bundle.manifest.precisions]

    async def remove(self, name: str, version: str) -> None:
        """Delete a bundle from the registry; `Conflict` while a generation needs it."""
        records = await _run(self._catalog.generations.list)
        for record in records:
            if record.model == f"{name}/{version}" and record.state not in FINISHED:
                raise Conflict(
                    f"{record.model} is used by generation {record.id}, which is {record.state}"
                )
        await _run(self._registry.remove, name, version)

    async def _pods(self) -> Sequence[Pod]:
        return await _run(partial(self._catalog.pods.list, fresh_s=self._pod_silent_s))

    async def _view(self, record: Record, route: Route, pods: Sequence[Pod]) -> Migration:
        collections = [] if record.state in FINISHED else await self._progress(record)
        applied = sum(each.applied for each in collections)
        total = sum(each.total for each in collections)
        rate = self._rate(record, applied)
        report = await _run(self._catalog.generations.report, record.id)
        options = {key: value for key, value in record.options.items() if key not in FOUND}
        compatible = record.options.get("compatible")
        soaks = record.id in {route.active, route.previous}
        return Migration(
            generation=record.id,
            bundle=record.bundle,
            version=record.version,
            precision=record.precision,
            space=record.space,
            state=record.state,
            paused=record.paused,
            live=record.id == route.active,
            epoch=route.epoch,
            created=record.created,
            changed=record.changed,
            error=record.error,
            options=MigrationOptions(**options),
            collections=collections,
            applied=applied,
            total=total,
            passages_per_s=rate,
            remaining_s=(total - applied) / rate if rate else None,
            asking=record.id == route.asking,
            compatible=None if compatible is None else GateCheck(**compatible),
            report=None if report is None else from_json(report),
            shadow=self._shadow.of(record.id),
            soak_until=_written(route.soak_until) if soaks else None,
            pods=[
                PodState(
                    pod.id,
                    round(pod.seen_s, 1),
                    pod.epoch,
                    record.id in pod.loaded,
                    pod.refused.get(str(record.id), ""),
                )
                for pod in pods
            ],
        )

    async def _progress(self, record: Record) -> Sequence[CollectionProgress]:
        """From the applier, where the generation is open here; else from what it wrote down."""
        generation = self._fleet.open.get(record.id)
        if generation is not None:
            return [
                CollectionProgress(
                    each.collection.name, each.state, each.applied, each.total, each.error or ""
                )
                for each in await generation.applier.progress()
            ]
        return await _run(self._recorded, record)

    def _recorded(self, record: Record) -> Sequence[CollectionProgress]:
        cursors = self._catalog.generations.cursors(record.indexes)
        pending = self._catalog.passages.pending
        found = []
        for collection in self._catalog.collections.list():
            total = pending(collection.id, after=0)
            left = pending(collection.id, after=cursors.get(collection.id, 0))
            found.append(CollectionProgress(collection.name, "elsewhere", total - left, total, ""))
        return found

    def _rate(self, record: Record, applied: int) -> float | None:
        """Passages a second between the looks of the last moments, while it is being filled."""
        if record.state not in UNDER_WAY:
            self._looks.pop(record.id, None)
            return None
        now = asyncio.get_running_loop().time()
        looks = self._looks.setdefault(record.id, deque(maxlen=RATE_LOOKS))
        if not looks or now >= looks[-1][0] + LOOK_S / 2:
            looks.append((now, applied))
        (then, before), (last, after) = looks[0], looks[-1]
        return (
            round((after - before) / (last - then), 1) if last > then and after > before else None
        )


def _chosen(options: MigrationOptions, defaults: MigrationOptions) -> dict[str, Any]:
    """The options as the catalog keeps them: what was asked for, or is the settings' default."""
    asked = {key: value for key, value in asdict(options).items() if value is not None}
    kept = {key: value for key, value in asdict(defaults).items() if value is not None}
    return kept | asked | {"override": list(options.override)}


def _still(migration: Migration) -> Migration:
    """Without what changes at every look."""
    return replace(migration, pods=[replace(pod, seen_s_ago=0.0) for pod in migration.pods])


def _previous(record: Record, route: Route, what: str) -> int:
    """The generation that soaks, if the one that is spoken of has to do with it."""
    if route.previous is None or record.id not in {route.active, route.previous}:
        raise Conflict(
            f"generation {record.id} ({record.model}) is {record.state}: there is nothing to {what};"
            " that takes the live generation while the one before it soaks"
        )
    return route.previous


def _written(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


async def _run(function: Callable[[*Args], T], *args: *Args) -> T:
    """Run a synchronous call in a worker thread, off the event loop."""
    return await to_thread.run_sync(function, *args)
