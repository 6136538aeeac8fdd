"""Where swaps are tried without HTTP: real bundles and catalog, an index in memory, one pod or several."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

from service.catalog import Catalog, StoredDocument
from service.fleet import Fleet, Parts
from service.metrics import Metrics
from service.opener import Opener
from service.registry import Registry
from service.settings import Settings
from service.types import Document, Span
from tests.memory_index import MemoryBackend
from tests.tiny_bundle import build_tiny_bundle


class House:
    """A registry with the bundles tiny/1 and tiny/2, a catalog in which tiny/1 is live, and a backend."""

    def __init__(self, folder):
        self.folder = folder
        self.models = folder / "models"
        for version, seed in (("1", 0), ("2", 7)):
            build_tiny_bundle(self.models / "tiny" / version, version=version, seed=seed)
        self.registry = Registry(self.models)
        self.backend = MemoryBackend()
        self.metrics = Metrics()
        self.url = f"sqlite:///{folder / 'catalog.db'}"
        self.catalog = Catalog(self.url, busy_timeout_s=20)

    def __enter__(self):
        self.catalog.__enter__()
        self.collection = self.catalog.collections.create("default").id
        first = self.register("1")
        self.catalog.generations.cut_over(first.id, epoch=0, soak_s=0)
        return self

    def __exit__(self, *error):
        self.catalog.__exit__(*error)

    def register(self, version, **options):
        manifest = self.registry.find(f"tiny/{version}").manifest
        return self.catalog.generations.register(
            bundle="tiny",
            version=version,
            precision="fp32",
            space=manifest.space["fp32"],
            dimension=manifest.dimension,
            **options,
        )

    def move(self, generation, *states):
        for state in states:
            now = self.catalog.generations.get(generation)
            self.catalog.generations.move(generation, state, expect=[now.state])

    def put(self, *texts):
        stored = [
            StoredDocument(Document(text, text), "en", [Span(0, len(text))]) for text in texts
        ]
        return self.catalog.documents.put(self.collection, stored).revision

    def opener(self, pod="pod", **settings):
        chosen = {"data_dir": self.folder, "models_dir": self.models, "lease_ttl_s": 20}
        return Opener(
            Settings(**{**chosen, **settings}),
            catalog=self.catalog,
            registry=self.registry,
            backend=self.backend,
            pod=pod,
            metrics=self.metrics,
        )

    @asynccontextmanager
    async def fleet(self, pod="pod"):
        opener = self.opener(pod)
        async with AsyncExitStack() as stack:
            yield await stack.enter_async_context(
                Fleet(
                    catalog=self.catalog,
                    parts=Parts(encoder=opener.encoder, applier=opener.applier),
                    pod=pod,
                    visible_timeout_s=20,
                    heartbeat_s=0,
                    metrics=self.metrics,
                )
            )


async def until(holds, within_s=20):
    """Wait for something that nobody announces."""
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)
