"""Opens what a generation is made of, as the settings say: a proven bundle's encoder, and an applier."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio.to_thread

from service import candidate, memory
from service.applier import Applier
from service.batcher import BatchLimits
from service.bundle import Bundle
from service.candidate import Proof
from service.catalog import Catalog
from service.catalog import Generation as Record
from service.chunker import Chunker
from service.encoder import LAST_CAP
from service.engine import Engine
from service.fleet import RESERVE_BYTES, Encoder, Indexes
from service.intake import Intake
from service.language import LanguageIdentifier
from service.manifest import Precision
from service.metrics import Metrics
from service.onnx_session import cpu_limit
from service.registry import Registry
from service.settings import Settings
from service.vectors.backend import VectorBackend

FLUSH_PASSAGES = 20_000
"""A load that outruns the clock is flushed after so many passages: what a crash replays."""
GRACE_S = 5.0
"""So long a write to a server may be in flight after its writer was overtaken. The embedded index lets
one process in."""
BATCH_TOKENS = {"cpu": 512, "cuda": 16_384}


class Opener:
    """Knows the settings, so that what is opened need not."""

    def __init__(
        self,
        settings: Settings,
        *,
        catalog: Catalog,
        registry: Registry,
        backend: VectorBackend,
        pod: str,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._registry = registry
        self._backend = backend
        self._pod = pod
        self._metrics = metrics

    @asynccontextmanager
    async def encoder(self, record: Record) -> AsyncIterator[Encoder]:
        """The encoder of a generation, with what prepares documents for it."""
        settings = self._settings
        bundle, precision = await anyio.to_thread.run_sync(self._bundle, record)
        async with Engine.open(
            bundle,
            precision=precision,
            device=settings.device,
            threads=inference_threads(settings),
            tokenizer_threads=settings.tokenizer_threads,
            limits=batch_limits(settings),
            metrics=self._metrics,
        ) as engine:
            chunker = Chunker(
                engine.tokenizer,
                max_tokens=engine.max_tokens,
                max_characters=LAST_CAP * engine.max_tokens,
                prompt=bundle.manifest.prompts["passage"],
            )
            identifier = await anyio.to_thread.run_sync(
                partial(LanguageIdentifier, expected=bundle.manifest.languages)
            )
            yield Encoder(
                engine,
                Intake(identifier=identifier, chunker=chunker),
                identifier,
                frozenset(bundle.manifest.languages),
                chunker.whole,
                bundle.golden,
                frozenset(
                    each.space
                    for each in bundle.manifest.compatible_with
                    if each.precision == precision
                ),
            )

    @asynccontextmanager
    async def applier(self, indexes: Indexes, record: Record) -> AsyncIterator[Applier]:
        """The applier of a generation's indexes."""
        settings = self._settings
        async with Applier(
            record,
            self._catalog,
            self._backend,
            indexes.embed,
            compose=indexes.compose,
            batch_passages=settings.apply_batch_passages,
            flush_interval_s=settings.flush_interval_s,
            flush_passages=FLUSH_PASSAGES,
            owner=self._pod,
            lease_ttl_s=settings.lease_ttl_s,
            takeover_grace_s=GRACE_S if settings.qdrant_url else 0.0,
            throttle=indexes.throttle,
            metrics=self._metrics,
        ) as applier:
            yield applier

    async def prove(self, bundle: Bundle, precision: Precision) -> Proof:
        """Open a bundle in a child process, with no more memory than the service could give it."""
        settings = self._settings
        limits = batch_limits(settings)
        free = memory.available_bytes()
        return await candidate.prove(
            bundle,
            precision,
            device=settings.device,
            threads=inference_threads(settings),
            batch_tokens=max(limits.max_batch_tokens, limits.max_passage_batch_tokens),
            timeout_s=settings.proof_timeout_s,
            memory_bytes=None if free is None else max(0, free - RESERVE_BYTES),
        )

    async def prove_record(self, record: Record) -> Proof:
        """The same for the bundle of a generation."""
        bundle, precision = await anyio.to_thread.run_sync(self._bundle, record)
        return await self.prove(bundle, precision)

    def _bundle(self, record: Record) -> tuple[Bundle, Precision]:
        return self._registry.by_space(record.space, prefer=record.model)


def inference_threads(settings: Settings) -> int:
    """Threads of one inference."""
    return settings.threads or cpu_limit()


def batch_limits(settings: Settings) -> BatchLimits:
    """How much an encoder computes at once."""
    # Measured on two cores: 512 tokens run at nearly twice the rate of 4096, whose states no longer
    # fit the cache; a GPU needs large batches to be busy at all. Passages get half: it is what a
    # query waits for at the worst, and a quarter cost a sixth of their throughput.
    tokens = settings.max_batch_tokens or BATCH_TOKENS[settings.device]
    return BatchLimits(
        max_batch_tokens=tokens,
        max_passage_batch_tokens=settings.max_passage_batch_tokens or max(16, tokens // 2),
        max_queue_tokens=settings.max_queue_tokens,
    )
