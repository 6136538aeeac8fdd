"""Shadow mode: some live queries are answered beside the live generation as well, and compared.

Nobody sees those answers, and no query waits for them: a search that is over tosses a coin, and what
it chose is asked once the live encoder has nothing to do, a few at a time. Before a cut-over this
says how a candidate would have answered what is really asked; in the soak, how the one before would.
"""

import asyncio
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import structlog

from service.engine import Engine
from service.errors import ServiceError
from service.generation import Generation
from service.metrics import Metrics
from service.requests import SearchRequest
from service.retriever import Retriever
from service.types import Hit, SearchAnswer

log = structlog.get_logger(__name__)

TOP = 10
"""Hits of an answer that are compared; fewer if the request asked for fewer."""
PERSISTENCE = 0.9
"""With it, the first ten ranks have 86 % of the weight of a rank-biased overlap, the first 26 %."""
IN_FLIGHT = 2
PATIENCE_S = 2.0
"""How long a chosen query waits for the live encoder to be idle. Where it never is, it is asked all
the same: so few are in flight that it is hardly one a second."""
LOOK_S = 0.1
TIMEOUT_S = 5.0
"""How long the generation beside may take; for so long it can be kept from being closed."""
COMPLAINT_S = 60.0
"""Failures are counted, and logged no more often than this."""
TIMED = 1000
"""The latest comparisons, of which the times are known."""

Outcome: TypeAlias = Literal["compared", "empty", "late", "failed", "dropped"]
Ranking: TypeAlias = Sequence[tuple[str, int]]
"""Passages, best first: each by its document and its number."""


class Shadow:
    """Compares the two generations of a retriever while it is open; `async with` starts and ends it.

    `share` of the searches are chosen, none for 0; `toss` gives numbers in [0, 1). Of a request with
    several queries one is asked. Later pages (an offset) are not compared.
    """

    def __init__(
        self,
        retriever: Retriever,
        *,
        share: float,
        metrics: Metrics,
        in_flight: int = IN_FLIGHT,
        patience_s: float = PATIENCE_S,
        timeout_s: float = TIMEOUT_S,
        toss: Callable[[], float] = random.random,
    ) -> None:
        self._retriever = retriever
        self._share = share
        self._metrics = metrics
        self._in_flight = in_flight
        self._patience_s = patience_s
        self._timeout_s = timeout_s
        self._toss = toss
        self._tasks: set[asyncio.Task[None]] = set()
        self._tally: Tally | None = None
        self._complained_at = float("-inf")

    async def __aenter__(self) -> Self:
        if self._share:
            self._retriever.observer = self._observe
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._retriever.observer = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def of(self, generation: int) -> Mapping[str, Any] | None:
        """What the last comparison in which the generation took part has found in this process."""
        tally = self._tally
        if tally is None or generation not in {tally.live, tally.shadow}:
            return None
        return tally.view()

    def _observe(
        self, live: Generation, request: SearchRequest, answers: Sequence[SearchAnswer]
    ) -> None:
        """What the retriever calls after a search."""
        beside = self._retriever.beside
        if beside is None or request.offset or not answers or self._toss() >= self._share:
            return
        if live is not self._retriever.live:
            return  # the route changed meanwhile: it may be the very one that is beside now
        tally = self._tally_of(live, beside)
        if len(self._tasks) >= self._in_flight:
            self._count(tally, "dropped")
            return
        number = int(self._toss() * len(answers))
        chosen = Chosen(
            live,
            beside,
            replace(request, queries=[request.queries[number]]),
            answers[number],
            alone=len(answers) == 1,
        )
        task = asyncio.create_task(self._ask(tally, chosen), name="shadow query")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tally_of(self, live: Generation, beside: Generation) -> "Tally":
        tally = self._tally
        if tally is None or (tally.live, tally.shadow) != (live.id, beside.id):
            if tally is not None:
                log.info("another pair is compared", **tally.summary())
            tally = self._tally = Tally(live.id, beside.id, live.languages | beside.languages)
        return tally

    async def _ask(self, tally: "Tally", chosen: "Chosen") -> None:
        await self._idle(chosen.live.engine)
        if (self._retriever.live, self._retriever.beside) != (chosen.live, chosen.beside):
            return  # it may be closed
        try:
            async with asyncio.timeout(self._timeout_s):
                [answer] = await self._retriever.answer(chosen.beside, chosen.request)
            self._compare(tally, chosen, answer)
        except TimeoutError:
            self._count(tally, "late")
            self._complain(tally, f"no answer within {self._timeout_s:g} s")
        except ServiceError as error:
            self._count(tally, "failed")
            self._complain(tally, error.detail)
        except Exception as error:  # noqa: BLE001 - a bug here is no reason to fill the log
            self._count(tally, "failed")
            self._complain(tally, repr(error))

    async def _idle(self, engine: Engine) -> None:
        until = asyncio.get_running_loop().time() + self._patience_s
        while engine.queried and asyncio.get_running_loop().time() < until:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(LOOK_S)

    def _compare(self, tally: "Tally", chosen: "Chosen", shadow: SearchAnswer) -> None:
        live, top = chosen.answer, min(chosen.request.limit, TOP)
        found: Mapping[str, Sequence[Hit]] = {"live": live.hits[:top], "shadow": shadow.hits[:top]}
        if not any(found.values()):
            self._count(tally, "empty")
            return
        self._count(tally, "compared")
        rankings = [[(hit.document, hit.number) for hit in hits] for hits in found.values()]
        overlap, correlation = common(*rankings), rank_biased_overlap(*rankings)
        asked = tally.known(live.query_language)
        tally.agreements[asked].append(overlap, correlation)
        self._metrics.shadow_overlap.labels(asked).observe(overlap)
        self._metrics.shadow_rank_correlation.observe(correlation)
        for side, hits in found.items():
            for hit in hits:
                language = tally.known(hit.language)
                tally.hits[asked, language][side] += 1
                self._metrics.shadow_results.labels(side, language).inc()
        if chosen.alone:
            tally.seconds.append((sum(live.stages.values()), sum(shadow.stages.values())))

    def _count(self, tally: "Tally", outcome: Outcome) -> None:
        tally.outcomes[outcome] += 1
        self._metrics.shadow_queries.labels(outcome).inc()

    def _complain(self, tally: "Tally", error: str) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._complained_at + COMPLAINT_S:
            self._complained_at = now
            log.warning("a query cannot be answered beside", error=error, **tally.summary())


@dataclass(frozen=True, slots=True)
class Chosen:
    """A query that was answered, and is to be asked beside; `alone` if its request had no other."""

    live: Generation
    beside: Generation
    request: SearchRequest
    answer: SearchAnswer
    alone: bool


@dataclass(slots=True)
class Agreement:
    """Sums over the queries of one language."""

    queries: int = 0
    overlap: float = 0.0
    correlation: float = 0.0

    def append(self, overlap: float, correlation: float) -> None:
        self.queries += 1
        self.overlap += overlap
        self.correlation += correlation

    def view(self) -> dict[str, Any]:
        """The means, of what there is."""
        return {
            "queries": self.queries,
            "overlap_at_10": _ratio(self.overlap, self.queries),
            "rank_correlation": _ratio(self.correlation, self.queries),
        }


@dataclass(eq=False, slots=True)
class Tally:
    """What two generations had in common so far; of no more languages than their encoders know."""

    live: int
    shadow: int
    languages: frozenset[str]
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    agreements: defaultdict[str, Agreement] = field(default_factory=lambda: defaultdict(Agreement))
    """By the language of the query."""
    hits: defaultdict[tuple[str, str], Counter[str]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    """By the languages of the query and of the hit: how many each side has."""
    seconds: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=TIMED))

    def known(self, language: str) -> str:
        """The language, or `other`."""
        return language if language in self.languages else "other"

    def summary(self) -> dict[str, Any]:
        """What fits a line."""
        each = self.agreements.values()
        everything = Agreement(
            sum(one.queries for one in each),
            sum(one.overlap for one in each),
            sum(one.correlation for one in each),
        )
        rest: Sequence[Outcome] = ("empty", "late", "failed", "dropped")
        return {
            "live": self.live,
            "shadow": self.shadow,
            **everything.view(),
            **{outcome: self.outcomes[outcome] for outcome in rest},
        }

    def view(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return self.summary() | {
            "milliseconds": self._milliseconds(),
            "by_query_language": {
                language: self.agreements[language].view() for language in sorted(self.agreements)
            },
            "share_of_hits": self._shares(),
        }

    def _milliseconds(self) -> dict[str, dict[str, float]]:
        if not self.seconds:
            return {}
        quantiles = np.percentile(np.array(self.seconds) * 1e3, (50, 95), axis=0).round(2).tolist()
        return {
            quantile: dict(zip(("live", "shadow"), row, strict=True))
            for quantile, row in zip(("p50", "p95"), quantiles, strict=True)
        }

    def _shares(self) -> dict[str, dict[str, dict[str, float]]]:
        total: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for (asked, _), found in self.hits.items():
            total[asked].update(found)
        shares: defaultdict[str, dict[str, dict[str, float]]] = defaultdict(dict)
        for asked, language in sorted(self.hits):
            shares[asked][language] = {
                side: _ratio(self.hits[asked, language][side], total[asked][side]) or 0.0
                for side in ("live", "shadow")
            }
        return dict(shares)


def common(one: Ranking, other: Ranking) -> float:
    """The share of the longer ranking that both have; at depth ten, the overlap@10."""
    return len(set(one) & set(other)) / max(len(one), len(other))


def rank_biased_overlap(one: Ranking, other: Ranking) -> float:
    """How much alike two rankings are: 0 if they share nothing, 1 if they are the same.

    Not Spearman's or Kendall's correlation: they need the same items on both sides, count the last
    rank as much as the first, and end in -1 for what is merely unrelated. This is the extrapolated
    measure of Webber, Moffat and Zobel (2010), equation 32, for rankings of unequal length.
    """
    short, long = (one, other) if len(one) <= len(other) else (other, one)
    if not short:
        return 0.0
    shared = [len({*short[:depth]} & {*long[:depth]}) for depth in range(1, len(long) + 1)]
    rate = shared[len(short) - 1] / len(short)  # at which the shorter one would go on
    discounted = sum(
        (both + rate * max(0, depth - len(short))) / depth * PERSISTENCE**depth
        for depth, both in enumerate(shared, 1)
    )
    tail = (shared[-1] - shared[len(short) - 1]) / len(long) + rate
    return (1 - PERSISTENCE) / PERSISTENCE * discounted + tail * PERSISTENCE ** len(long)


def _ratio(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None
