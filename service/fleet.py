"""The generations that are open in this process, made to match what the catalog says.

Every process of the service runs one fleet. It opens the encoder and the indexes of each generation
that is being built, is ready, live or soaking; it answers from the one that the route names; it
closes the others when no request needs them any more; and it reports all that by heartbeat. Nothing
is decided here: who wants a change writes it into the catalog, and every fleet follows.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Self

import structlog
from anyio import to_thread

from service import memory
from service.applier import Applier
from service.applier.throttle import Throttle
from service.catalog import UNDER_WAY, Catalog, Route
from service.catalog import Generation as Record
from service.engine import Engine
from service.errors import NotReady, ServiceError
from service.generation import Generation
from service.golden import GoldenQuery
from service.intake import Intake
from service.language import LanguageIdentifier
from service.metrics import Metrics
from service.retriever import Retriever
from service.types import Matrix

log = structlog.get_logger(__name__)

POLL_S = 0.5
OPEN = ("building", "indexing", "catching_up", "verifying", "ready", "active", "soaking")
"""States in which every process has the generation open."""
IN_STEP = ("ready", "soaking")
"""States in which a write waits for the generation too."""
RETRY_S = 30.0
RESERVE_BYTES = 64 * 2**20
"""What an encoder leaves free when it is opened beside another one."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """An encoder that is open, with what belongs to it and to no other."""

    engine: Engine
    intake: Intake
    identifier: LanguageIdentifier
    languages: frozenset[str]
    compose: Callable[[str, str], str]
    golden: Callable[[], Sequence[GoldenQuery]]
    compatible_with: frozenset[str]


@dataclass(frozen=True, slots=True)
class Parts:
    """How the application opens the parts of a generation."""

    encoder: Callable[[Record], AbstractAsyncContextManager[Encoder]]
    applier: Callable[["Indexes", Record], AbstractAsyncContextManager[Applier]]


@dataclass(eq=False)
class Indexes:
    """The indexes of a generation, or of several of one space: one applier, any of their encoders."""

    throttle: Throttle
    encoders: dict[int, Encoder] = field(default_factory=dict)

    @property
    def encoder(self) -> Encoder:
        """One of the encoders, all of which give the same vectors."""
        return next(iter(self.encoders.values()))

    async def embed(self, texts: Sequence[str]) -> Matrix:
        """The vectors of passages."""
        return (await self.encoder.engine.embed(texts, "passage")).vectors

    def compose(self, title: str, text: str) -> str:
        """What is embedded of a passage and its document's title."""
        return self.encoder.compose(title, text)


@dataclass(eq=False)
class _Shared:
    """An applier that is open, and how to close it."""

    indexes: Indexes
    applier: Applier
    close: AsyncExitStack


class Fleet:
    """The open generations of this process. `async with` opens the live one and follows the catalog."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        parts: Parts,
        pod: str,
        visible_timeout_s: float,
        heartbeat_s: float,
        metrics: Metrics,
    ) -> None:
        self.pod = pod
        self._catalog = catalog
        self._parts = parts
        self._visible_timeout_s = visible_timeout_s
        self._heartbeat_s = heartbeat_s
        self._metrics = metrics
        self._open: dict[int, Generation] = {}
        self._closers: dict[int, AsyncExitStack] = {}
        self._appliers: dict[int, _Shared] = {}
        self._changing: dict[int, asyncio.Task[None]] = {}
        self._refused: dict[int, str] = {}
        self._refused_at: dict[int, float] = {}
        self._reported: tuple[object, ...] = ()
        self._reported_at = float("-inf")
        self._wake = asyncio.Event()
        self._following = asyncio.Lock()
        self._loop: asyncio.Task[None] | None = None
        self._retriever: Retriever | None = None

    async def __aenter__(self) -> Self:
        route, records = await to_thread.run_sync(self._catalog.generations.snapshot)
        [live] = [record for record in records if record.id == route.active]
        await self._bring_up(live)
        self._retriever = Retriever(
            self._open[live.id],
            catalog=self._catalog,
            visible_timeout_s=self._visible_timeout_s,
            metrics=self._metrics,
        )
        self._answer_from(live.id, route)
        self._loop = asyncio.create_task(self._run(), name="fleet")
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
        for task in self._changing.values():
            task.cancel()
        await asyncio.gather(*self._changing.values(), return_exceptions=True)
        self._retriever = None
        for number in list(self._open):
            await self._take_down(number)
        with suppress(ServiceError):
            await to_thread.run_sync(partial(self._catalog.pods.forget, self.pod, silent_s=3600.0))

    @property
    def retriever(self) -> Retriever:
        """What answers requests."""
        if self._retriever is None:
            raise NotReady("the service is starting or stopping")
        return self._retriever

    @property
    def open(self) -> Mapping[int, Generation]:
        """The generations that are open here, by number."""
        return self._open

    @property
    def refused(self) -> Mapping[int, str]:
        """Why a generation cannot be opened here, by its number."""
        return self._refused

    def holds(self, generation: int) -> bool:
        """Whether anything of the generation is open here, or is being opened or closed."""
        return generation in self._closers or generation in self._changing

    def throttle(self, generation: int) -> Throttle | None:
        """How fast the generation may be filled; None if it is not open here."""
        found = self._open.get(generation)
        return None if found is None else found.applier.throttle

    def notify(self) -> None:
        """Say that the catalog's generations or its route changed."""
        self._wake.set()

    async def follow(self) -> None:
        """Look at the catalog now: answer from what it names, open and close what it says."""
        async with self._following:
            route, records = await to_thread.run_sync(self._catalog.generations.snapshot)
            self._adopt(route, records)
            await self._report()

    def _adopt(self, route: Route, records: Sequence[Record]) -> None:
        """Open, close and answer as the catalog says; what takes time goes on by itself."""
        if route.active in self._open and route.epoch != self.retriever.live.epoch:
            self._answer_from(route.active, route)
        wanted = {record.id: record for record in records if record.state in OPEN}
        live = self.retriever.live
        # Where the encoder is not open yet, the live one's own asks: that is right as well.
        live.asker = self._open.get(route.asking or 0) if live.epoch == route.epoch else None
        self.retriever.beside = next(
            (
                self._open[record.id]
                for record in wanted.values()
                if record.state in IN_STEP and record.id in self._open and record.id != live.id
            ),
            None,
        )
        self._forget_refusals(wanted)
        for number, record in wanted.items():
            if not {number} & (self._open.keys() | self._changing.keys() | self._refused.keys()):
                self._change(number, self._try_to_bring_up(record))
            throttle = self.throttle(number)
            if throttle is not None:
                _steer(throttle, record)
        for number in self._open.keys() - wanted.keys() - self._changing.keys() - {live.id}:
            self._change(number, self._let_go(number))

    def _forget_refusals(self, wanted: Mapping[int, Record]) -> None:
        """A candidate is refused once; what is live, or can be gone back to, is tried again."""
        now = asyncio.get_running_loop().time()
        for number in list(self._refused):
            record = wanted.get(number)
            again = now >= self._refused_at[number] + RETRY_S
            if record is None or (record.state not in UNDER_WAY and again):
                del self._refused[number]

    def _answer_from(self, number: int, route: Route) -> None:
        generation = self._open[number]
        generation.epoch = route.epoch
        retriever = self.retriever
        before, retriever.live = retriever.live, generation
        before.asker = None
        self._metrics.active_epoch.set(route.epoch)
        for other in {before, generation}:
            self._show(other, "active" if other is generation else "soaking")
        log.info("answering", generation=number, bundle=generation.bundle, epoch=route.epoch)

    def _change(self, number: int, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"generation {number}")
        self._changing[number] = task
        task.add_done_callback(partial(self._changed, number))

    def _changed(self, number: int, _task: asyncio.Task[None]) -> None:
        self._changing.pop(number, None)
        self.notify()

    async def _try_to_bring_up(self, record: Record) -> None:
        try:
            self._require_memory(record)
            await self._bring_up(record)
        except ServiceError as error:
            self._refuse(record, error.detail)
            log.warning("a generation cannot be opened", generation=record.id, error=error.detail)
        except Exception as error:
            self._refuse(record, repr(error))
            log.exception("a bug keeps a generation from being opened", generation=record.id)

    def _refuse(self, record: Record, reason: str) -> None:
        self._refused[record.id] = reason
        self._refused_at[record.id] = asyncio.get_running_loop().time()

    def _require_memory(self, record: Record) -> None:
        needed, free = int(record.options.get("memory_bytes", 0)), memory.available_bytes()
        log.info("two encoders at once", generation=record.id, needed_bytes=needed, free_bytes=free)
        if free is not None and needed + RESERVE_BYTES > free:
            raise NotReady(
                f"encoder {record.model} needs {needed / 2**20:.0f} MB beside the live one, and"
                f" {free / 2**20:.0f} MB are free (of which {RESERVE_BYTES / 2**20:.0f} MB stay so):"
                " give the service more memory"
            )

    async def _bring_up(self, record: Record) -> None:
        async with AsyncExitStack() as undo:
            encoder = await undo.enter_async_context(self._parts.encoder(record))
            shared = self._appliers.get(record.indexes)
            if shared is None:
                shared = await self._open_applier(record, encoder)
            shared.indexes.encoders[record.id] = encoder
            undo.push_async_callback(self._leave_applier, record.indexes, record.id)
            self._open[record.id] = Generation(
                record.id,
                0,
                encoder.engine,
                shared.applier,
                encoder.intake,
                encoder.identifier,
                encoder.languages,
                encoder.compose,
                encoder.golden,
                encoder.compatible_with,
            )
            self._show(self._open[record.id], "candidate")
            self._closers[record.id] = undo.pop_all()

    async def _open_applier(self, record: Record, encoder: Encoder) -> _Shared:
        busy = partial(self._yields, record.indexes)
        indexes = Indexes(Throttle(None, busy=busy), {record.id: encoder})
        _steer(indexes.throttle, record)
        async with AsyncExitStack() as undo:
            applier = await undo.enter_async_context(self._parts.applier(indexes, record))
            shared = _Shared(indexes, applier, undo.pop_all())
        self._appliers[record.indexes] = shared
        return shared

    async def _leave_applier(self, number: int, generation: int) -> None:
        """Close an applier with the last generation that uses it."""
        shared = self._appliers[number]
        if len(shared.indexes.encoders) > 1:
            del shared.indexes.encoders[generation]
            return
        del self._appliers[number]
        await shared.close.aclose()

    async def _let_go(self, number: int) -> None:
        await self._open[number].unpinned()
        await self._take_down(number)

    async def _take_down(self, number: int) -> None:
        generation = self._open.pop(number)
        self._show(generation, None)
        await self._closers[number].aclose()
        del self._closers[number]

    def _yields(self, indexes: int) -> bool:
        """Whether these indexes are filled in the shadow of a live encoder that has queries to answer."""
        if self._retriever is None or indexes not in self._appliers:
            return False
        live = self._retriever.live
        asked = (live.asker or live).engine.queried
        return asked and live.applier is not self._appliers[indexes].applier

    def _show(self, generation: Generation, state: str | None) -> None:
        engine = generation.engine
        labels = (engine.name, engine.version, engine.space, engine.precision, engine.device)
        for each in ("candidate", "active", "soaking"):
            with suppress(KeyError):
                self._metrics.model_info.remove(*labels, each)
        if state is not None:
            self._metrics.model_info.labels(*labels, state).set(1)

    async def _report(self) -> None:
        """Say by heartbeat what is open here, and at once when it changes."""
        now = asyncio.get_running_loop().time()
        epoch, loaded, refused = self.retriever.live.epoch, list(self._closers), dict(self._refused)
        if (
            epoch,
            loaded,
            refused,
        ) == self._reported and now < self._reported_at + self._heartbeat_s:
            return
        report = partial(
            self._catalog.pods.report, self.pod, epoch=epoch, loaded=loaded, refused=refused
        )
        await to_thread.run_sync(report)
        self._reported, self._reported_at = (epoch, loaded, refused), now

    async def _run(self) -> None:
        while True:
            try:
                await self.follow()
            except ServiceError as error:
                log.warning("the catalog cannot be followed", error=error.detail)
            except Exception:
                log.exception("a bug keeps the catalog from being followed")
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._wake.wait()
            self._wake.clear()


def _steer(throttle: Throttle, record: Record) -> None:
    """Let the indexes of a generation that is under way be filled as fast as was asked."""
    if record.indexes != record.id:
        return  # they are the live generation's
    under_way = record.state in UNDER_WAY
    throttle.passages_per_s = record.options.get("passages_per_s") if under_way else None
    if under_way and record.paused:
        throttle.pause()
    else:
        throttle.resume()
