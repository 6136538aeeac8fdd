"""Where appliers live: a catalog, an index backend and an encoder, all small, and ways to wait."""

import asyncio
import hashlib
import threading

import numpy as np
import pytest

from service.applier import Applier
from service.catalog import Catalog, StoredDocument
from service.errors import EngineFailure, Overloaded
from service.metrics import Metrics
from service.types import Document, Span
from tests.memory_index import MemoryBackend

DIMENSION = 8
PATIENCE_S = 20


def vector(text, space="s"):
    """In a space any text has its own direction, and always the same one."""
    key = f"{space}\n{text}" if space != "s" else text
    seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())
    drawn = np.random.default_rng(seed).standard_normal(DIMENSION)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


class Encoder:
    """Embeds by hash; poison fails its batch, and a broken one fails every batch."""

    def __init__(self, space="s"):
        self.space = space
        self.broken = False
        self.batches = []
        self.limit = 1_000
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, texts):
        await self.gate.wait()
        if len(texts) > self.limit:
            raise Overloaded(f"{len(texts)} texts, at most {self.limit}")
        self.batches.append(list(texts))
        if self.broken or any("poison" in text for text in texts):
            raise EngineFailure("not finite")
        return np.stack([vector(text, self.space) for text in texts])


def stored(key, text, *, pieces=1, title="", language="en", **metadata):
    size = -(-len(text) // pieces) if text else 1
    spans = [Span(i, min(len(text), i + size)) for i in range(0, len(text), size)]
    return StoredDocument(Document(key, text, title, None, metadata), language, spans)


class Mortal:
    """A catalog as a process sees it that may be killed: afterwards nothing is done through it."""

    def __init__(self, part, lock=None):
        self._part = part
        self._lock = lock or threading.Lock()
        self.dead = threading.Event()

    def __getattr__(self, name):
        found = getattr(self._part, name)
        if not callable(found):
            inner = Mortal(found, self._lock)
            inner.dead = self.dead
            return inner

        def call(*args, **kwargs):
            with self._lock:
                if self.dead.is_set():
                    raise RuntimeError("a dead process wrote")
                return found(*args, **kwargs)

        return call

    def kill(self):
        with self._lock:  # what has begun is done: it could as well have been a moment earlier
            self.dead.set()


class House:
    """A catalog, an index backend and an encoder, with appliers that come and go between them."""

    def __init__(self, folder):
        self.url = f"sqlite:///{folder / 'catalog.db'}"
        self.catalog = Catalog(self.url)
        self.catalog.__enter__()
        self.fields = {"year": "integer"}
        self.collection = self.catalog.collections.create("default", self.fields).id
        self.generation = self.catalog.generations.register(
            bundle="b", version="1", precision="fp32", space="s", dimension=DIMENSION
        )
        self.backend = MemoryBackend()
        self.encoder = Encoder()
        self.metrics = Metrics()

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self.catalog.__exit__(*raised)

    def applier(self, *, generation=None, encoder=None, catalog=None, **options):
        usual = {
            "batch_passages": 4,
            "flush_interval_s": 0.02,
            "flush_passages": 1_000,
            "owner": "pod",
            "takeover_grace_s": 0.0,
        }
        return Applier(
            generation or self.generation,
            catalog or self.catalog,
            self.backend,
            encoder or self.encoder,
            compose=lambda title, text: f"{title}\n{text}" if title else text,
            metrics=self.metrics,
            **(usual | options),
        )

    def candidate(self, *, space):
        """A second generation, beside the first one, which is live then."""
        self.catalog.generations.cut_over(self.generation.id, epoch=0, soak_s=0)
        return self.catalog.generations.register(
            bundle="b", version="2", precision="fp32", space=space, dimension=DIMENSION
        )

    def put(self, *documents, collection=None):
        return self.catalog.documents.put(collection or self.collection, documents).revision

    def index(self, collection=None, *, generation=None):
        owner = (generation or self.generation).indexes
        return self.backend.indexes[f"g{owner}-c{collection or self.collection}"]

    def cursor(self, collection=None):
        return self.catalog.generations.cursors(self.generation.id).get(
            collection or self.collection, 0
        )

    def value(self, name, **labels):
        return self.metrics.registry.get_sample_value(f"isogloss_{name}", labels)


async def visible(applier, house, collection=None):
    """Wait until the collection is as the catalog has it."""
    collection = collection or house.collection
    head = house.catalog.passages.heads()[collection]
    assert await applier.wait_visible(collection, head, timeout_s=PATIENCE_S)


async def until(condition):
    for _ in range(PATIENCE_S * 200):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it never came true")


async def settled(applier):
    """Wait until every collection is current: applied and verified."""
    for _ in range(PATIENCE_S * 200):
        if all(each.state == "current" for each in await applier.progress()):
            return
        await asyncio.sleep(0.005)
    pytest.fail(f"it never settled: {await applier.progress()}")


def texts(house, collection=None):
    """What the index holds, by the text that the catalog has for it."""
    held = house.index(collection).visible
    found = house.catalog.passages.hydrate(list(held))
    return {found[number].text if number in found else None for number in held}


def expire(house, applier):
    """Let the time of its lease be over for the catalog; it is not told."""
    house.catalog.leases.release(applier._keeper._lease)


async def die(applier):
    """End its loops as a SIGKILL would: nothing is flushed, no cursor saved, no lease released."""
    loops = {applier._loop, applier._keeping}
    for loop in loops:
        loop.cancel()
    await asyncio.wait(loops)
