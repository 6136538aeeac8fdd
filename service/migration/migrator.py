"""The migrator: takes a generation from registered to live, one persisted step at a time.

Of all processes over one catalog the holder of a lease does this. It remembers nothing: each turn
reads the rows, does what the state of one generation asks for, and writes the next state under the
lease. So a crash between any two steps is resumed by whoever holds the lease next, and an operator's
word (pause, abort), which is a row as well, ends the step that is under way.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeAlias

import structlog
from anyio import to_thread

from service.applier import Progress
from service.candidate import Proof
from service.catalog import FINISHED, UNDER_WAY, Catalog, Pod, Route, State
from service.catalog import Generation as Record
from service.errors import Conflict, IndexCorrupt, ServiceError, Unavailable
from service.fleet import Fleet
from service.generation import Generation
from service.metrics import Metrics
from service.migration.asking import DRAIN_S, Asking, live_side, side
from service.migration.leadership import Leadership
from service.migration.switch import Switch
from service.vectors.backend import VectorBackend
from service.verification import Gate, to_json

log = structlog.get_logger(__name__)

POLL_S = 0.5
NEAR_PASSAGES, NEAR_SHARE = 1_000, 0.01
"""A generation that lacks no more than this leaves the bulk load behind."""
CAUGHT_UP_PASSAGES = 256
"""One that lacks no more than this is compared with the live one."""
BUGS = 5
"""So often a step is tried again after an error that nobody foresaw; it may have been the moment."""
FAILED_SHARE = 0.01
"""If more passages than this cannot be embedded, the encoder is at fault and not the passages."""

Prove: TypeAlias = Callable[[Record], Awaitable[Proof]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long what takes, in seconds."""

    soak_s: float
    """The generation before is kept to go back to, unless the migration says otherwise."""
    lease_ttl_s: float
    """After so long without a sign the holder of the lease is taken to be dead."""
    pod_silent_s: float
    """The same for a process of the service."""
    laggards_s: float
    """So long a generation that is ready waits for processes that have not opened it."""


class GateFailed(ServiceError):
    """The candidate was examined and found wanting."""

    code = "gate_failed"


class Migrator:
    """Drives whatever is under way, for as long as it is entered and holds the lease."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        fleet: Fleet,
        backend: VectorBackend,
        switch: Switch,
        gate: Gate,
        prove: Prove,
        pace: Pace,
        metrics: Metrics,
    ) -> None:
        self._catalog = catalog
        self._fleet = fleet
        self._backend = backend
        self._switch = switch
        self._gate = gate
        self._asking = Asking(catalog, fleet, gate)
        self._prove = prove
        self._pace = pace
        self._metrics = metrics
        self._swept: set[int] = set()
        self._bugs: Counter[int] = Counter()
        self._subject: Record | None = None
        self._leadership = Leadership(catalog, fleet.pod, ttl_s=pace.lease_ttl_s)
        self._wake = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.create_task(self._run(), name="migrator")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._loop is not None:
            self._loop.cancel()
            with suppress(asyncio.CancelledError):
                await self._loop
        with suppress(ServiceError):
            await self._leadership.release()

    def notify(self) -> None:
        """Say that an operator wrote something."""
        self._wake.set()

    async def _run(self) -> None:
        while True:
            try:
                again = await self._turn()
            except ServiceError as error:
                log.warning("the migration is held up", error=error.detail)
                again = False
            except Exception:
                log.exception("a bug holds up the migration")
                again = False
            with suppress(TimeoutError):
                async with asyncio.timeout(0.0 if again else POLL_S):
                    await self._wake.wait()
            self._wake.clear()

    async def _turn(self) -> bool:
        """Do what there is to do if this process is the one that does it; whether more may follow."""
        if not await self._anything_to_do():
            await self._leadership.release()
            return False
        if not await self._leadership.take():
            return False
        work = asyncio.create_task(self._tend())
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=POLL_S)
                if not work.done() and not await self._may_go_on():
                    work.cancel()
                    await asyncio.wait({work})
                    return True
        finally:
            work.cancel()
        return work.result()

    async def _anything_to_do(self) -> bool:
        _, records = await to_thread.run_sync(self._catalog.generations.snapshot)
        return any(
            record.id not in self._swept if record.state in FINISHED else record.state != "active"
            for record in records
        )

    async def _may_go_on(self) -> bool:
        """Whether the lease is still ours, and nobody has spoken about what is being worked at."""
        if not await self._leadership.take():
            return False
        if self._subject is None:
            return True
        now = await to_thread.run_sync(self._catalog.generations.get, self._subject.id)
        return (now.state, now.paused) == (self._subject.state, False)

    async def _tend(self) -> bool:
        """One step of each generation that needs one; whether any was made."""
        route, records = await to_thread.run_sync(self._catalog.generations.snapshot)
        pods = await to_thread.run_sync(
            partial(self._catalog.pods.list, fresh_s=self._pace.pod_silent_s)
        )
        moved = False
        for record in records:
            if record.state in UNDER_WAY and not record.paused and route.active is not None:
                moved |= await self._lead(record, route, pods)
            elif record.state == "soaking":
                moved |= await self._end_soak(record, route)
            elif record.state == "retiring" or (
                record.state in FINISHED and record.id not in self._swept
            ):
                moved |= await self._sweep(record, records, pods)
        return moved

    async def _lead(self, record: Record, route: Route, pods: Sequence[Pod]) -> bool:
        """One step of a generation that is under way; what is wrong with it ends it alone."""
        self._subject = record
        try:
            after = await self._step(record, route, pods)
        except Unavailable:
            raise  # nothing is wrong with the candidate: it is tried again
        except Conflict as error:
            log.info("overtaken", generation=record.id, error=error.detail)
            return True
        except ServiceError as error:
            return await self._fail(record, error.detail)
        except Exception as error:
            self._bugs[record.id] += 1
            if self._bugs[record.id] < BUGS:
                raise
            log.exception("a bug ends the migration", generation=record.id)
            return await self._fail(record, f"a bug of the service: {error!r}")
        finally:
            self._subject = None
        if after is None:
            return False
        if after != "active":
            await self._move(record, after)
        return True

    async def _step(self, record: Record, route: Route, pods: Sequence[Pod]) -> State | None:
        """What the state of a generation asks for; the next state, or None if it is not time."""
        if record.state == "registered":
            proof = await self._prove(record)
            await self._choose(record, memory_bytes=proof.memory_bytes)
            return "building"
        self._refuse_if_refused(record, pods)
        green = self._fleet.open.get(record.id)
        if green is None:
            self._fleet.notify()
            return None  # it is being opened
        progress = await green.applier.progress()
        _refuse_if_it_cannot_embed(progress)
        lacking = sum(each.total - each.applied for each in progress)
        ready = lacking <= CAUGHT_UP_PASSAGES and all(
            each.state in {"following", "current"} for each in progress
        )
        near = max(NEAR_PASSAGES, NEAR_SHARE * sum(each.total for each in progress))
        match record.state:
            case "building":
                await self._asking.begin(record, green, route, lease=self._leadership.lease)
                return "indexing" if lacking <= near else None
            case "indexing":
                await green.applier.settle()
                return "catching_up"
            case "catching_up":
                return "verifying" if ready else None
            case "verifying":
                try:
                    await self._judge(record, green)
                except IndexCorrupt:  # it is built anew, and examined again
                    for each in progress:
                        green.applier.suspect(each.collection.id)
                    return "catching_up"
                return "ready"
            case _:
                if not ready:
                    return "catching_up"
                return await self._go_live(record, route, pods)

    async def _judge(self, record: Record, green: Generation) -> None:
        """Have the gate examine the generation beside the live one, and keep what it says."""
        options = record.options
        await green.applier.drain(timeout_s=DRAIN_S)  # else the gate waits for the next flush
        report = await self._gate.verify(
            side(green, record),
            await live_side(self._catalog, self._fleet),
            override=options.get("override", ()),
            reason=options.get("reason", ""),
        )
        await to_thread.run_sync(
            partial(
                self._catalog.generations.judge,
                record.id,
                to_json(report),
                lease=self._leadership.lease,
            )
        )
        outcome = "passed" if report.passed else "failed"
        self._metrics.gate_reports.labels(outcome=outcome).inc()
        if not report.passed:
            failed = [
                f"{check.name}: {check.detail}"
                for check in report.checks
                if not check.ok and check.name not in report.overridden
            ]
            raise GateFailed(f"the gate refused it: {'; '.join(failed)}")

    async def _go_live(self, record: Record, route: Route, pods: Sequence[Pod]) -> State | None:
        """Switch, once every process that is alive can answer from the generation, or is let go."""
        if record.options.get("hold"):
            return None
        late = [pod.id for pod in pods if record.id not in pod.loaded]
        if late:
            if await self._seconds_in_state(record) < self._pace.laggards_s:
                return None
            log.warning("processes are left behind", pods=late, generation=record.id)
        soak_s = record.options.get("soak_s")
        await self._switch.to(
            record.id,
            epoch=route.epoch,
            soak_s=self._pace.soak_s if soak_s is None else soak_s,
            lease=self._leadership.lease,
        )
        return "active"

    async def _end_soak(self, record: Record, route: Route) -> bool:
        if route.soak_until is None or await self._clock() < route.soak_until:
            return False
        await to_thread.run_sync(
            partial(
                self._catalog.generations.retire,
                record.id,
                reason="soaked",
                lease=self._leadership.lease,
            )
        )
        return True

    async def _sweep(self, record: Record, records: Sequence[Record], pods: Sequence[Pod]) -> bool:
        """Drop the indexes of a generation that nobody has open, unless another one uses them."""
        self._fleet.notify()
        if self._fleet.holds(record.id) or any(record.id in pod.loaded for pod in pods):
            return False
        users = [
            each for each in records if each.indexes == record.indexes and each.id != record.id
        ]
        if all(each.state in FINISHED for each in users):
            prefix = f"g{record.indexes}-c"
            for name in await self._backend.list():
                if name.startswith(prefix):
                    await self._backend.drop(name)
        self._swept.add(record.id)
        if record.state == "retiring":
            await self._move(record, "retired")
        return True

    def _refuse_if_refused(self, record: Record, pods: Sequence[Pod]) -> None:
        here = self._fleet.refused.get(record.id)
        if here is not None:
            raise GateFailed(here)
        for pod in pods:
            reason = pod.refused.get(str(record.id))
            if reason is not None:
                raise GateFailed(f"{pod.id}: {reason}")

    async def _fail(self, record: Record, error: str) -> bool:
        log.warning("the migration failed", generation=record.id, error=error)
        self._metrics.migrations.labels(outcome="failed").inc()
        await self._move(record, "failed", error=error)
        return True

    async def _move(self, record: Record, state: State, *, error: str = "") -> None:
        await to_thread.run_sync(
            partial(
                self._catalog.generations.move,
                record.id,
                state,
                expect=[record.state],
                error=error,
                lease=self._leadership.lease,
            )
        )
        log.info("migration", generation=record.id, before=record.state, after=state)
        self._fleet.notify()

    async def _choose(self, record: Record, **options: Any) -> None:
        await to_thread.run_sync(partial(self._catalog.generations.choose, record.id, **options))

    async def _clock(self) -> float:
        return await to_thread.run_sync(self._catalog.generations.clock)

    async def _seconds_in_state(self, record: Record) -> float:
        return await self._clock() - moment(record.changed)


def moment(text: str) -> float:
    """A time as the catalog writes it, in seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()


def _refuse_if_it_cannot_embed(progress: Sequence[Progress]) -> None:
    failed = sum(each.failed for each in progress)
    applied = sum(each.applied for each in progress)
    if failed > max(10.0, FAILED_SHARE * applied):
        raise GateFailed(f"{failed} of {applied} passages cannot be embedded by it")
