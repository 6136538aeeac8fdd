"""Gate: one check after the other, and a report that the catalog can keep."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import numpy as np
import structlog

from service.catalog import Catalog, Collection
from service.types import GateCheck, GateReport
from service.verification.contents import counts, digest
from service.verification.crossing import crossing
from service.verification.golden import Golden, collect, golden
from service.verification.latency import QUERIES, Asked, latency
from service.verification.report import check_override, conclude
from service.verification.sample import first_sentence
from service.verification.samples import Sample, examine, truncation, vectors
from service.verification.searches import read_searches
from service.verification.side import Side, run

log = structlog.get_logger(__name__)


class Gate:
    """Proves a generation before it goes live; each knob is the setting ISOGLOSS_GATE_ and its name."""

    def __init__(
        self,
        catalog: Catalog,
        *,
        samples_per_language: int = 50,
        tolerance: float = 0.02,
        floor: float = 0.1,
        latency_ratio: float = 2.0,
        min_cosine: float = 0.99,
        golden: Path | None = None,
        patience_s: float = 60.0,
        rest_s: float = 5.0,
    ) -> None:
        self._catalog = catalog
        self._samples_per_language = samples_per_language
        self._tolerance = tolerance
        self._floor = floor
        self._latency_ratio = latency_ratio
        self._min_cosine = min_cosine
        self._golden = golden
        self._patience_s = patience_s
        self._rest_s = rest_s

    async def preflight(self, *, override: Sequence[str], reason: str) -> None:
        """Refuse now what `verify` would trip over after hours of building.

        Raises:
            InvalidInput: an override of what is no quality check, or without a reason.
            ConfigurationError: the user's golden queries cannot be read; says the line.
        """
        check_override(override, reason)
        if self._golden is not None:
            await run(read_searches, self._golden)

    async def compatible(self, green: Side, blue: Side) -> GateCheck:
        """Whether green's queries may be asked of blue's passages; nothing is changed by it.

        Raises:
            Unavailable: a dependency does not answer, so nothing is proven: ask again.
            IndexCorrupt: an index is damaged.
        """
        collections = list(await run(self._catalog.collections.list))
        check = await crossing(
            green,
            blue,
            self._catalog,
            collections,
            path=self._golden,
            per_language=self._samples_per_language,
            tolerance=self._tolerance,
            floor=self._floor,
        )
        log.info("gate", check=check.name, ok=check.ok, detail=check.detail, of=green.generation)
        return check

    async def verify(
        self, green: Side, blue: Side | None, *, override: Sequence[str], reason: str
    ) -> GateReport:
        """Run every check on `green`, which is to replace `blue`; nothing is changed by it.

        Raises:
            InvalidInput: an override of what is no quality check, or without a reason.
            Unavailable: a dependency does not answer, so nothing is proven: verify again.
            IndexCorrupt: an index is damaged.
        """
        check_override(override, reason)
        begun, at = perf_counter(), datetime.now(UTC).isoformat(timespec="milliseconds")
        catalog, checks = self._catalog, []
        collections = list(await run(catalog.collections.list))
        heads = await run(catalog.passages.heads)

        def done(check: GateCheck) -> None:
            checks.append(check)
            write = log.info if check.ok else log.warning
            write("gate", check=check.name, ok=check.ok, detail=check.detail, of=green.generation)

        done(
            await counts(
                green,
                catalog,
                collections,
                heads=heads,
                patience_s=self._patience_s,
                rest_s=self._rest_s,
            )
        )
        done(await digest(green, catalog, collections))
        samples = await examine(
            green, blue, catalog, collections, per_language=self._samples_per_language
        )
        done(vectors(samples, min_cosine=self._min_cosine))
        done(truncation(samples))
        queries = await collect(green, blue, catalog, self._golden)
        done(
            await golden(
                green, blue, catalog, queries, tolerance=self._tolerance, floor=self._floor
            )
        )
        asked = _asked(queries, samples, collections, seed=green.generation)
        done(await latency(green, blue, asked, ratio=self._latency_ratio))
        seconds = perf_counter() - begun
        return conclude(checks, override=override, reason=reason, at=at, seconds=seconds)


def _asked(
    queries: Golden, samples: Sequence[Sample], collections: Sequence[Collection], *, seed: int
) -> list[Asked]:
    """Queries to take the time of: the user's, the bundle's, or the first sentences of passages."""
    numbers = {collection.name: collection.id for collection in collections}
    asked = [Asked(one.search.query, one.collection) for one in queries.wanted]
    if not asked and samples:
        names = [one.collection for one in samples]
        largest = numbers[max(set(names), key=names.count)]
        asked = [Asked(text, largest) for line in queries.bundle for text in line.query.values()]
    if not asked:
        asked = [
            Asked(first_sentence(one.passage.text), numbers[one.collection]) for one in samples
        ]
    asked = [one for one in asked if one.text]
    order = np.random.default_rng(seed).permutation(len(asked))[:QUERIES]
    return [asked[number] for number in order]
