"""The application: builds every part from the settings, owns it, and closes it in reverse order."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial

import anyio.to_thread
import structlog
from fastapi import FastAPI

from service.applier import Applier
from service.batcher import BatchLimits
from service.bundle import Bundle
from service.catalog import Catalog, Route
from service.catalog import Generation as Record
from service.chunker import Chunker
from service.encoder import LAST_CAP
from service.engine import Engine
from service.errors import ServiceError
from service.http import install
from service.http.limits import Limits
from service.intake import Intake
from service.inventory import Inventory
from service.language import LanguageIdentifier
from service.manifest import Precision
from service.metrics import Metrics
from service.onnx_session import cpu_limit
from service.registry import Registry
from service.retriever import Generation, Retriever
from service.settings import Settings
from service.types import Matrix
from service.vectors.backend import VectorBackend
from service.vectors.edge import EdgeBackend
from service.vectors.qdrant import QdrantBackend

DEFAULT_COLLECTION = "default"
FLUSH_PASSAGES = 20_000
"""A load that outruns the clock is flushed after so many passages: what a crash replays."""
LAG_PROBE_S = 0.25
BATCH_TOKENS = {"cpu": 512, "cuda": 16_384}

log = structlog.get_logger()


def create_app(settings: Settings) -> FastAPI:
    """The application of one service; nothing is opened before its lifespan begins."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            try:
                retriever, inventory = await _open(settings, metrics, stack)
            except ServiceError as error:
                app.state.failure = error
                raise
            app.state.retriever, app.state.inventory = retriever, inventory
            watch = asyncio.create_task(_watch_loop(metrics))
            stack.callback(watch.cancel)
            yield
            app.state.retriever = None

    app = FastAPI(lifespan=lifespan)
    limits = {name: getattr(settings, name) for name in Limits.__dataclass_fields__}
    # What was left to the service to choose is shown as it was chosen.
    batches = _batch_limits(settings)
    chosen = {
        "threads": _threads(settings),
        "max_batch_tokens": batches.max_batch_tokens,
        "max_passage_batch_tokens": batches.max_passage_batch_tokens,
    }
    install(app, limits=Limits(**limits), metrics=metrics, settings=settings.redacted() | chosen)
    return app


async def _open(
    settings: Settings, metrics: Metrics, stack: AsyncExitStack
) -> tuple[Retriever, Inventory]:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    registry = Registry(settings.models_dir)
    catalog = stack.enter_context(Catalog(_catalog_url(settings)))
    catalog.collections.create(DEFAULT_COLLECTION)
    bundle, precision, record, route = await anyio.to_thread.run_sync(
        partial(_live, settings, registry, catalog)
    )
    engine = await stack.enter_async_context(
        Engine.open(
            bundle,
            precision=precision,
            device=settings.device,
            threads=_threads(settings),
            tokenizer_threads=settings.tokenizer_threads,
            limits=_batch_limits(settings),
            metrics=metrics,
        )
    )
    backend = await stack.enter_async_context(_backend(settings, metrics))

    chunker = Chunker(
        engine.tokenizer,
        max_tokens=engine.max_tokens,
        max_characters=LAST_CAP * engine.max_tokens,
        prompt=bundle.manifest.prompts["passage"],
    )

    async def embed(texts: Sequence[str]) -> Matrix:
        return (await engine.embed(texts, "passage")).vectors

    applier = await stack.enter_async_context(
        Applier(
            record,
            catalog,
            backend,
            embed,
            compose=chunker.whole,
            batch_passages=settings.apply_batch_passages,
            flush_interval_s=settings.flush_interval_s,
            flush_passages=FLUSH_PASSAGES,
            metrics=metrics,
        )
    )
    _announce(engine, route, metrics)
    identifier = LanguageIdentifier(expected=bundle.manifest.languages)
    generation = Generation(
        record.id, route.epoch, engine, applier, languages=frozenset(bundle.manifest.languages)
    )
    retriever = Retriever(
        generation,
        catalog=catalog,
        identifier=identifier,
        intake=Intake(identifier=identifier, chunker=chunker),
        visible_timeout_s=settings.visible_timeout_s,
        metrics=metrics,
    )
    return retriever, Inventory(retriever, catalog=catalog, backend=backend, registry=registry)


def _threads(settings: Settings) -> int:
    return settings.threads or cpu_limit()


def _batch_limits(settings: Settings) -> BatchLimits:
    # Measured on two cores: 512 tokens run at nearly twice the rate of 4096, whose states no longer
    # fit the cache; a GPU needs large batches to be busy at all. Passages get half: it is what a
    # query waits for at the worst, and a quarter cost a sixth of their throughput.
    tokens = settings.max_batch_tokens or BATCH_TOKENS[settings.device]
    return BatchLimits(
        max_batch_tokens=tokens,
        max_passage_batch_tokens=settings.max_passage_batch_tokens or max(16, tokens // 2),
        max_queue_tokens=settings.max_queue_tokens,
    )


def _live(
    settings: Settings, registry: Registry, catalog: Catalog
) -> tuple[Bundle, Precision, Record, Route]:
    """The live generation and the bundle of its space: the index decides the encoder.

    At the first start there is none yet, and the settings say which bundle makes it.
    """
    generations = catalog.generations
    route = generations.route()
    if route.active is not None:
        record = generations.get(route.active)
        bundle, precision = registry.by_space(record.space)
        if settings.bundle not in (record.bundle, f"{record.bundle}/{record.version}"):
            log.warning(
                "the live generation decides the bundle; ISOGLOSS_BUNDLE is for the first start",
                live=f"{record.bundle}/{record.version}",
                asked=settings.bundle,
            )
        return bundle, precision, record, route
    bundle = registry.find(settings.bundle)
    manifest = bundle.manifest
    record = generations.register(
        bundle=manifest.name,
        version=manifest.version,
        space=manifest.space[settings.precision],
        dimension=manifest.dimension,
    )
    return bundle, settings.precision, record, generations.activate(record.id, epoch=route.epoch)


def _backend(settings: Settings, metrics: Metrics) -> AbstractAsyncContextManager[VectorBackend]:
    if settings.qdrant_url is None:
        return EdgeBackend.start(settings.data_dir / "index", metrics=metrics)
    key = settings.qdrant_api_key
    return QdrantBackend.connect(
        settings.qdrant_url, api_key=key.get_secret_value() if key else None, metrics=metrics
    )


def _catalog_url(settings: Settings) -> str:
    if settings.catalog_url is not None:
        return settings.catalog_url.get_secret_value()
    return f"sqlite:///{settings.data_dir.absolute() / 'catalog.sqlite'}"


def _announce(engine: Engine, route: Route, metrics: Metrics) -> None:
    metrics.active_epoch.set(route.epoch)
    metrics.model_info.labels(
        model=engine.name,
        version=engine.version,
        space=engine.space,
        precision=engine.precision,
        provider=engine.device,
        state="active",
    ).set(1)
    log.info("bundle loaded", bundle=f"{engine.name}/{engine.version}", space=engine.space)


async def _watch_loop(metrics: Metrics) -> None:
    """How late the loop wakes this task is how late it serves everybody."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_PROBE_S
        await asyncio.sleep(LAG_PROBE_S)
        metrics.event_loop_lag_seconds.observe(max(0.0, loop.time() - due))
