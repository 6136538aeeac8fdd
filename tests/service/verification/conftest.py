"""A catalog with documents in three languages, two real encoders, and what each of them indexed."""

import random
from dataclasses import dataclass
from functools import partial

import pytest

from service.applier.batch import Batches
from service.batcher import BatchLimits
from service.catalog import Catalog, StoredDocument
from service.engine import Engine
from service.errors import NotFound
from service.golden import GoldenQuery
from service.metrics import Metrics
from service.types import Document, Span
from service.vectors.backend import IndexSpec
from service.verification.side import Side
from tests.memory_index import MemoryBackend
from tests.tiny_bundle import build_tiny_bundle

DIMENSION = 64
ALPHABETS = {
    "en": "abcdefghijklmnopqrstuvwxyz",
    "de": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "ru": "абвгдежзийклмнопрстуфхцчшщъыьэюя",
}


def word(language, meaning, variant, letters=24):
    """A word whose letters depend on the meaning: to the tiny encoder, variants of one are alike."""
    few = random.Random(f"{language} {meaning}").sample(ALPHABETS[language], 4)
    return "".join(random.Random(f"{meaning} {variant}").choices(few, k=letters))


def golden_lines(count, languages=("en", "de", "ru")):
    return [
        GoldenQuery(
            {language: word(language, meaning, "question") for language in languages},
            {language: word(language, meaning, "answer") for language in languages},
        )
        for meaning in range(count)
    ]


def stored(key, text, *, language="en", title="", pieces=1):
    size = -(-len(text) // pieces)
    spans = [Span(start, min(len(text), start + size)) for start in range(0, len(text), size)]
    return StoredDocument(Document(key, text, title, language, {}), language, spans)


def compose(title, text):
    return f"{title}\n{text}" if title else text


def open_engine(bundle):
    return Engine.open(
        bundle, threads=1, tokenizer_threads=1, limits=BatchLimits(), metrics=Metrics()
    )


class House:
    """A catalog, a place for indexes, and generations that follow the catalog when they are told."""

    def __init__(self, catalog, backend):
        self.catalog = catalog
        self.backend = backend
        self.collection = catalog.collections.create("default").id
        self.indexes = {}

    def put(self, *documents, collection=None):
        return self.catalog.documents.put(collection or self.collection, documents).revision

    def fill(self, per_language=12):
        self.put(
            *[
                stored(f"{language}-{n}", word(language, n, "passage"), language=language)
                for language in ALPHABETS
                for n in range(per_language)
            ]
        )

    async def side(self, engine, **options):
        """A generation of this encoder whose indexes are in step with the catalog."""
        record = self.catalog.generations.register(
            bundle=engine.name,
            version=engine.version,
            precision=engine.precision,
            space=engine.space,
            dimension=engine.dimension,
        )
        index = partial(self.index, record.id)
        side = Side(record.id, record.indexes, engine, index, compose, **options)
        for collection in self.catalog.collections.list():
            spec = IndexSpec(
                f"g{record.id}-c{collection.id}", engine.space, engine.dimension, collection.fields
            )
            self.indexes[record.id, collection.id] = await self.backend.create(spec)
        await self.follow(side)
        return side

    async def follow(self, side, *, flush=True, limit=10**9):
        """Apply what is new to the indexes of a generation; without a flush the cursor stays."""

        async def embed(texts):
            return (await side.engine.embed(texts, "passage")).vectors

        batches = Batches(self.catalog, embed, compose=compose, batch_passages=min(limit, 1000))
        for collection in self.catalog.collections.list():
            after = self.catalog.generations.cursors(side.indexes).get(collection.id, 0)
            while batch := await batches.read(collection.id, after=after):
                await side.index(collection.id).apply(batch.points, batch.gone)
                after = batch.last
                if flush:
                    self.catalog.generations.advance(
                        side.indexes, collection.id, applied_rev=after, failures=batch.failures
                    )
                if len(batch.points) + len(batch.gone) >= limit:
                    break

    def index(self, generation, collection):
        if (generation, collection) not in self.indexes:
            raise NotFound(f"collection {collection} is not here, or was deleted")
        return self.indexes[generation, collection]

    def points(self, side, collection=None):
        """What the memory index holds, for a test to spoil."""
        return self.index(side.generation, collection or self.collection).visible

    def collections(self):
        return list(self.catalog.collections.list())


@dataclass
class Changed:
    """An engine that gives something else than the one behind it."""

    engine: Engine
    embed: object

    def __getattr__(self, name):
        return getattr(self.engine, name)


@pytest.fixture(scope="session")
async def blue_engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blue")
    bundle = build_tiny_bundle(folder, name="blue", seed=1, dimension=DIMENSION)
    async with open_engine(bundle) as engine:
        yield engine


@pytest.fixture(scope="session")
async def green_engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("green")
    bundle = build_tiny_bundle(folder, name="green", seed=2, dimension=DIMENSION)
    async with open_engine(bundle) as engine:
        yield engine


@pytest.fixture
def catalog(tmp_path):
    with Catalog(f"sqlite:///{tmp_path / 'catalog.db'}") as catalog:
        yield catalog


@pytest.fixture
def house(catalog):
    return House(catalog, MemoryBackend())
