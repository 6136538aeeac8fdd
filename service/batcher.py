"""MicroBatcher: many small requests in, few full batches out.

Why the threads pull: a worker cuts its next batch itself, the moment the last one is done. The
device never waits for the event loop, and every cut sees the newest query. One lock guards the
queue and is held for microseconds; futures are touched on the event loop only.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Condition, Thread
from types import TracebackType
from typing import Self, TypeAlias, TypeVarTuple

import numpy as np
import structlog

from service.errors import DeadlineExceeded, EngineFailure, NotReady, Overloaded, ServiceError
from service.lane import Lane, Request, Text
from service.metrics import Metrics
from service.types import Matrix, Role, Tokens

Infer: TypeAlias = Callable[[Sequence[Tokens]], Matrix]
"""The seam: texts → one row each. It runs in a thread and should release the GIL."""

Failure: TypeAlias = Callable[[], ServiceError]
"""Makes the exception anew for each caller: a raised one carries its own traceback."""

QUIET_S = 1.0
"""So long after a query, passages run in batches of a quarter: where one query was, more follow, and
each waits for the batch that runs."""
HURRIED_SHARE = 4

MAX_RETRY_S = 60
"""No client is sent away for longer, however wrong the estimate may be."""

Args = TypeVarTuple("Args")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """How much waits, how much runs at once, and whose turn it is.

    The defaults are those of a CPU, where a batch that outgrows the cache is slower per text; a GPU
    needs some thirty times as much to be full.
    """

    max_batch_tokens: int = 512
    """Padded tokens (longest x count) in a batch of queries."""
    max_passage_batch_tokens: int = 256
    """The same for passages: it bounds how long a query waits behind a running batch."""
    max_queue_tokens: int = 1_000_000
    """Tokens waiting in each lane: bulk never locks queries out."""
    query_share: int = 4
    """So many batches of queries may run in a row while passages wait."""
    drain_s: float = 10.0
    """What is not done so long after closing began is failed."""


class MicroBatcher:
    """Runs requests in one worker thread per `infer`; opened and closed by `async with`.

    Give one `infer` per device, or the same one twice to prepare a batch while another runs.
    """

    def __init__(
        self, *infer: Infer, dimension: int, limits: BatchLimits, metrics: Metrics
    ) -> None:
        self._infers = infer
        self._dimension = dimension
        self._limits = limits
        self._metrics = metrics
        self._lanes: dict[Role, Lane] = {
            "query": Lane("query", limits.max_batch_tokens, metrics=metrics),
            "passage": Lane("passage", limits.max_passage_batch_tokens, metrics=metrics),
        }
        self._streak = 0  # batches of queries that ran while passages waited
        self._queried_s = -math.inf  # when the last query came
        self._rate = _Rate()
        self._changed = Condition()  # guards everything above
        self._requests: set[Request] = set()
        self._closed: Failure | None = partial(NotReady, "The encoder has not been started.")
        self._loop: asyncio.AbstractEventLoop
        self._exits: list[asyncio.Future[None]] = []

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._closed = None
        for number, infer in enumerate(self._infers):
            exit_ = self._loop.create_future()
            self._exits.append(exit_)
            # A daemon, since a device that hangs must not keep the process from ending.
            name = f"isogloss-infer-{number}"
            Thread(target=self._work, args=(infer, exit_), name=name, daemon=True).start()
        self._infers = ()  # the threads hold the session now, and let go of it when they end
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finishes what was admitted; what is not done after `drain_s` fails with `NotReady`."""
        with self._changed:
            self._closed = self._closed or partial(NotReady, "The encoder is closing.")
            self._changed.notify_all()
        try:
            await asyncio.wait(self._exits, timeout=self._limits.drain_s)
        finally:
            late = f"The encoder closed, and {self._limits.drain_s:g} s were too short for this."
            self._fail_all(partial(NotReady, late))

    @property
    def healthy(self) -> bool:
        """Open, with every worker at work."""
        return self._closed is None

    @property
    def queried(self) -> bool:
        """Whether queries wait, or came within the last `QUIET_S`."""
        with self._changed:
            waiting = self._lanes["query"].items > 0
            return waiting or time.perf_counter() < self._queried_s + QUIET_S

    def ensure_room(self, texts: int, *, lane: Role) -> None:
        """Refuses hopeless work before it is tokenised: a text is one token at the least."""
        self._ensure_room(self._lanes[lane], texts)

    async def submit(
        self, tokens: Sequence[Tokens], *, lane: Role, deadline: float | None = None
    ) -> Matrix:
        """The vectors of these texts, row i for text i; all are admitted, or none.

        `deadline` is a time on the event loop's clock: what has not begun by then never runs.

        Raises:
            Overloaded: the lane is full. An empty lane takes a request of any size.
            DeadlineExceeded: the deadline passed before every text had begun.
            EngineFailure: `infer` failed on one of these texts, even alone.
            NotReady: closed, or closing.
        """
        loop = asyncio.get_running_loop()
        request = Request(
            vectors=np.empty((len(tokens), self._dimension), np.float32),
            answer=loop.create_future(),
            deadline=math.inf if deadline is None else deadline,
            unfilled=len(tokens),
        )
        if not request.unfilled:
            return request.vectors
        with self._changed:
            self._admit(request, tokens, self._lanes[lane])
            self._changed.notify_all()
        timer = None if deadline is None else loop.call_at(deadline, self._expire, request)
        try:
            return await request.answer
        finally:
            if timer:
                timer.cancel()
            self._leave(request, self._lanes[lane])

    # On the event loop.

    def _ensure_room(self, lane: Lane, tokens: int) -> None:
        if self._closed:
            raise self._closed()
        excess = lane.tokens + tokens - self._limits.max_queue_tokens
        if excess > 0 and lane.tokens:
            self._metrics.rejected_requests.labels("queue_full").inc()
            raise Overloaded(
                f"{lane.tokens} tokens wait in the {lane.role} lane and this request brings "
                f"{tokens}; the limit is {self._limits.max_queue_tokens} (ISOGLOSS_MAX_QUEUE_TOKENS).",
                retry_after_s=self._rate.seconds_for(min(excess, lane.tokens)),
            )

    def _admit(self, request: Request, tokens: Sequence[Tokens], lane: Lane) -> None:
        now = time.monotonic()
        fresh: dict[bytes, Text] = {}
        for each in tokens:
            key, length = each.ids.tobytes(), max(1, len(each.ids))
            text = fresh.get(key) or lane.find(key, length)
            if text is None:
                text = fresh[key] = Text(each, key, length, now)
            request.texts.append(text)
        self._ensure_room(lane, sum(text.length for text in fresh.values()))
        if lane.role == "query":
            self._queried_s = now
        for text in fresh.values():
            lane.add(text)
        for row, text in enumerate(request.texts):
            text.rows.append((request, row))
            request.waiting += text.key not in lane.running
        self._requests.add(request)
        if shared := len(tokens) - len(fresh):
            self._metrics.shared_texts.labels(lane.role).inc(shared)
        lane.show(now)

    def _expire(self, request: Request) -> None:
        if request.waiting and not request.answer.done():
            self._metrics.rejected_requests.labels("deadline").inc()
            request.answer.set_exception(
                DeadlineExceeded("The deadline passed before the encoder could begin.")
            )

    def _leave(self, request: Request, lane: Lane) -> None:
        """The caller has its answer, or is gone: what still waits for it shall not run."""
        self._requests.discard(request)
        with self._changed:
            if request.waiting:
                reason = _why_skipped(request.answer)
                self._metrics.skipped_texts.labels(reason).inc(request.waiting)
                for text in request.texts:
                    text.rows = [row for row in text.rows if row[0] is not request]
                    if not text.rows:
                        lane.discard(text)
                lane.show(time.monotonic())
            request.texts = []  # a text knows its requests: break the cycle

    def _answer(self, done: list[Request], failed: list[tuple[Request, Failure]]) -> None:
        for request in done:
            if not request.answer.done():
                request.answer.set_result(request.vectors)
        for request, failure in failed:
            if not request.answer.done():
                request.answer.set_exception(failure())

    def _fail_all(self, failure: Failure) -> None:
        self._answer([], [(request, failure) for request in self._requests])

    def _break(self) -> None:
        self._closed = partial(EngineFailure, "A worker of the encoder broke: this is a bug.")
        self._fail_all(self._closed)

    # In the workers.

    def _work(self, infer: Infer, exit_: asyncio.Future[None]) -> None:
        try:
            while work := self._next():
                self._run(infer, *work)
        except BaseException:
            log.exception("batcher_worker_broke")
            self._tell(self._break)
        finally:
            self._tell(exit_.set_result, None)

    def _next(self) -> tuple[Lane, list[Text]] | None:
        """Waits for the next batch; None when all is done and the batcher closes."""
        with self._changed:
            while True:
                lane = self._turn()
                if lane.items:
                    if batch := self._begin(lane):
                        return lane, batch
                elif self._closed:
                    return None
                else:
                    self._changed.wait()

    def _turn(self) -> Lane:
        query, passage = self._lanes["query"], self._lanes["passage"]
        if query.items and (self._streak < self._limits.query_share or not passage.items):
            self._streak = self._streak + 1 if passage.items else 0
            return query
        self._streak = 0
        return passage

    def _begin(self, lane: Lane) -> list[Text]:
        now = time.monotonic()
        batch = []
        hurried = lane.role == "passage" and now < self._queried_s + QUIET_S
        for text in lane.cut(share=HURRIED_SHARE if hurried else 1):
            if all(request.deadline <= now for request, _ in text.rows):
                continue  # its rows count as waiting, so `_expire` is about to answer them
            for request, _ in text.rows:
                request.waiting -= 1
            lane.running[text.key] = text
            batch.append(text)
        lane.show(now)
        if batch:
            waited = now - min(text.since for text in batch)
            self._metrics.stage_duration_seconds.labels("queue").observe(waited)
        return batch

    def _run(self, infer: Infer, lane: Lane, batch: list[Text]) -> None:
        start = time.perf_counter()
        outcomes = self._outcomes(infer, batch)
        seconds = time.perf_counter() - start
        done: list[Request] = []
        failed: list[tuple[Request, Failure]] = []
        with self._changed:
            for text, outcome in zip(batch, outcomes, strict=True):
                del lane.running[text.key]
                for request, row in text.rows:
                    if callable(outcome):
                        failed.append((request, outcome))
                        continue
                    request.vectors[row] = outcome
                    request.unfilled -= 1
                    if not request.unfilled:
                        done.append(request)
                text.rows = []
            self._observe(lane, batch, seconds)
        self._tell(self._answer, done, failed)

    def _outcomes(self, infer: Infer, batch: list[Text]) -> list[Matrix | Failure]:
        """A vector or a failure for each text: where the batch fails, each runs once more alone."""
        try:
            return self._judged(infer([text.tokens for text in batch]), len(batch))
        except Exception as error:
            log.exception("batch_failed", texts=len(batch), longest=batch[0].length)
            if len(batch) == 1:
                return [partial(EngineFailure, f"The encoder failed on a text: {error}")]
        return [outcome for text in batch for outcome in self._outcomes(infer, [text])]

    def _judged(self, vectors: Matrix, texts: int) -> list[Matrix | Failure]:
        if vectors.shape != (texts, self._dimension):
            expected = (texts, self._dimension)
            raise EngineFailure(f"vectors of shape {vectors.shape}, not {expected}: this is a bug")
        judged: list[Matrix | Failure] = list(vectors)
        for row in np.flatnonzero(~np.isfinite(vectors).all(axis=1)):
            self._metrics.nonfinite_vectors.inc()
            judged[row] = partial(EngineFailure, "The encoder made a vector that is not finite.")
        return judged

    def _observe(self, lane: Lane, batch: list[Text], seconds: float) -> None:
        tokens = sum(text.length for text in batch)
        padded = batch[0].length * len(batch)
        self._rate.measure(tokens, seconds)
        metrics = self._metrics
        metrics.stage_duration_seconds.labels("infer").observe(seconds)
        metrics.batch_items.labels(lane.role).observe(len(batch))
        metrics.batch_tokens.labels(lane.role).observe(padded)
        metrics.batch_padding_ratio.labels(lane.role).observe(1 - tokens / padded)

    def _tell(self, callback: Callable[[*Args], object], *args: *Args) -> None:
        with suppress(RuntimeError):  # a hung batch came back after the loop was closed
            self._loop.call_soon_threadsafe(callback, *args)


class _Rate:
    """How fast a worker has been lately: a mean in which the last ten batches weigh most."""

    def __init__(self) -> None:
        self._tokens = self._seconds = 0.0

    def measure(self, tokens: int, seconds: float) -> None:
        self._tokens = 0.9 * self._tokens + tokens
        self._seconds = 0.9 * self._seconds + seconds

    def seconds_for(self, tokens: int) -> int:
        seconds = tokens * self._seconds / self._tokens if self._tokens else 0
        return min(MAX_RETRY_S, max(1, math.ceil(seconds)))


def _why_skipped(answer: asyncio.Future[Matrix]) -> str:
    if not answer.done() or answer.cancelled():
        return "cancelled"
    return "deadline" if isinstance(answer.exception(), DeadlineExceeded) else "failed"
