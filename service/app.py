"""The application: builds every part from the settings, owns it, and closes it in reverse order."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from uuid import uuid4

import anyio.to_thread
import structlog
from fastapi import FastAPI

from service.catalog import Catalog
from service.errors import ConfigurationError, EpochMismatch, ServiceError
from service.fleet import Fleet, Parts
from service.http import install
from service.http.limits import Limits
from service.inventory import Inventory
from service.language import load_model
from service.metrics import Metrics
from service.migration import Migrations, Migrator, Pace, Switch
from service.opener import Opener, batch_limits, inference_threads
from service.registry import Registry
from service.settings import Settings
from service.shadow import Shadow
from service.types import MigrationOptions
from service.vectors.backend import VectorBackend
from service.vectors.edge import EdgeBackend
from service.verification import Gate

DEFAULT_COLLECTION = "default"
LAG_PROBE_S = 0.25

log = structlog.get_logger()


def create_app(settings: Settings) -> FastAPI:
    """The application of one service; nothing is opened before its lifespan begins."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            try:
                opened = await _open(settings, metrics, stack)
            except ServiceError as error:
                app.state.failure = error
                raise
            app.state.retriever = opened.fleet.retriever
            app.state.inventory, app.state.migrations = opened.inventory, opened.migrations
            watch = asyncio.create_task(_watch_loop(metrics))
            stack.callback(watch.cancel)
            yield
            app.state.retriever = None

    app = FastAPI(lifespan=lifespan)
    limits = {name: getattr(settings, name) for name in Limits.__dataclass_fields__}
    # What was left to the service to choose is shown as it was chosen.
    batches = batch_limits(settings)
    chosen = {
        "threads": inference_threads(settings),
        "max_batch_tokens": batches.max_batch_tokens,
        "max_passage_batch_tokens": batches.max_passage_batch_tokens,
    }
    install(app, limits=Limits(**limits), metrics=metrics, settings=settings.redacted() | chosen)
    return app


@dataclass(frozen=True, slots=True)
class _Service:
    """What the routes reach."""

    fleet: Fleet
    inventory: Inventory
    migrations: Migrations


async def _open(settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> _Service:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    # Half a second of one core, while the other one starts the index host.
    reading = asyncio.create_task(anyio.to_thread.run_sync(load_model))
    stack.push_async_callback(asyncio.gather, reading, return_exceptions=True)
    registry = Registry(settings.models_dir)
    catalog = stack.enter_context(Catalog(_catalog_url(settings)))
    catalog.collections.create(DEFAULT_COLLECTION)
    await anyio.to_thread.run_sync(partial(_first, settings, registry, catalog))
    backend = await stack.enter_async_context(_backend(settings, metrics))
    pod = settings.pod_id or _pod_name(settings)
    opener = Opener(
        settings, catalog=catalog, registry=registry, backend=backend, pod=pod, metrics=metrics
    )
    fleet = await stack.enter_async_context(
        Fleet(
            catalog=catalog,
            parts=Parts(encoder=opener.encoder, applier=opener.applier),
            pod=pod,
            visible_timeout_s=settings.visible_timeout_s,
            heartbeat_s=settings.lease_ttl_s / 3,
            metrics=metrics,
        )
    )
    shadow = await stack.enter_async_context(
        Shadow(fleet.retriever, share=settings.shadow_share, metrics=metrics)
    )
    gate = Gate(
        catalog,
        samples_per_language=settings.gate_samples_per_language,
        tolerance=settings.gate_tolerance,
        floor=settings.gate_floor,
        latency_ratio=settings.gate_latency_ratio,
        min_cosine=settings.gate_min_cosine,
        golden=settings.gate_golden,
    )
    switch = Switch(
        catalog=catalog, fleet=fleet, patience_s=settings.cutover_patience_s, metrics=metrics
    )
    migrator = await stack.enter_async_context(
        Migrator(
            catalog=catalog,
            fleet=fleet,
            backend=backend,
            switch=switch,
            gate=gate,
            prove=opener.prove_record,
            pace=Pace(
                soak_s=settings.soak_s,
                lease_ttl_s=settings.lease_ttl_s,
                pod_silent_s=settings.lease_ttl_s,
                laggards_s=settings.laggards_s,
            ),
            metrics=metrics,
        )
    )
    migrations = Migrations(
        catalog=catalog,
        registry=registry,
        fleet=fleet,
        migrator=migrator,
        switch=switch,
        gate=gate,
        shadow=shadow,
        prove=opener.prove,
        defaults=MigrationOptions(
            soak_s=settings.soak_s, passages_per_s=settings.migration_passages_per_s
        ),
        pod_silent_s=settings.lease_ttl_s,
    )
    inventory = Inventory(fleet.retriever, catalog=catalog, backend=backend, registry=registry)
    return _Service(fleet, inventory, migrations)


def _pod_name(settings: Settings) -> str:
    """A name that no other process over this catalog has, and that a restart keeps if it can.

    A process that keeps its name goes on with its leases at once; with another it would wait until
    those of the one that died run out. Of an embedded index there is one process.
    """
    if settings.qdrant_url is None:
        return "embedded"
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:48]
    return f"{host}-{settings.port or uuid4().hex[:8]}"


def _first(settings: Settings, registry: Registry, catalog: Catalog) -> None:
    """At the first start there is no generation yet, and the settings say which bundle makes it."""
    generations = catalog.generations
    route = generations.route()
    if route.active is not None:
        live = generations.get(route.active)
        if settings.bundle not in (live.bundle, live.model):
            log.warning(
                "the live generation decides the bundle; ISOGLOSS_BUNDLE is for the first start",
                live=live.model,
                asked=settings.bundle,
            )
        return
    bundle = registry.find(settings.bundle)
    manifest = bundle.manifest
    precision = settings.precision or manifest.fullest
    if precision not in manifest.precisions:
        raise ConfigurationError(
            f"ISOGLOSS_PRECISION is {precision!r}, and {manifest.name}/{manifest.version}"
            f" has {', '.join(manifest.precisions)}"
        )
    record = generations.register(
        bundle=manifest.name,
        version=manifest.version,
        precision=precision,
        space=manifest.space[precision],
        dimension=manifest.dimension,
        request=f"first start: {manifest.space[precision]}",  # once, whoever starts at once
    )
    try:
        generations.cut_over(record.id, epoch=route.epoch, soak_s=0.0)
    except EpochMismatch:
        if generations.route().active != record.id:  # another process was quicker, with another one
            generations.move(record.id, "aborted", expect=["registered"], reason="not the first")


def _backend(settings: Settings, metrics: Metrics) -> AbstractAsyncContextManager[VectorBackend]:
    if settings.qdrant_url is None:
        return EdgeBackend.start(settings.data_dir / "index", metrics=metrics)
    # The server's client takes a third of all the time that imports take, and only a server needs it.
    from service.vectors.qdrant import QdrantBackend  # noqa: PLC0415

    key = settings.qdrant_api_key
    return QdrantBackend.connect(
        settings.qdrant_url, api_key=key.get_secret_value() if key else None, metrics=metrics
    )


def _catalog_url(settings: Settings) -> str:
    if settings.catalog_url is not None:
        return settings.catalog_url.get_secret_value()
    return f"sqlite:///{settings.data_dir.absolute() / 'catalog.sqlite'}"


async def _watch_loop(metrics: Metrics) -> None:
    """How late the loop wakes this task is how late it serves everybody."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_PROBE_S
        await asyncio.sleep(LAG_PROBE_S)
        metrics.event_loop_lag_seconds.observe(max(0.0, loop.time() - due))
