"""The HTTP surface over a retriever in memory: the real encoder, an exact search, no index."""

import asyncio
import dataclasses
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import anyio
import httpx
import numpy as np
import orjson
import pytest
import uvicorn
from fastapi import FastAPI

from service import filters, logs
from service.batcher import BatchLimits
from service.encoder import cut
from service.engine import Engine
from service.errors import Conflict, InvalidInput, NotFound
from service.http import install
from service.http.limits import Limits
from service.inventory import ModelCard, ModelUse, TrainingData
from service.metrics import Metrics
from service.types import (
    Check,
    CollectionInfo,
    Deleted,
    Document,
    DocumentPage,
    DocumentSummary,
    EmbedAnswer,
    Hit,
    ModelInfo,
    SearchAnswer,
    Span,
    Status,
    StoredDocument,
    Written,
)
from tests.service.http.memory_migrations import MemoryMigrations
from tests.tiny_bundle import build_tiny_bundle

LIMITS = BatchLimits(max_batch_tokens=4096, max_passage_batch_tokens=4096, max_queue_tokens=400_000)


@dataclass
class Collection:
    fields: Mapping[str, str]
    documents: dict[str, Document] = field(default_factory=dict)


class MemoryRetriever:
    """Every document is one passage; `failure` is raised by the next calls until it is taken away."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._bundle = f"{engine.name}/{engine.version}"
        self._revision = 0
        self.stores = {"default": Collection({"topic": "keyword", "year": "integer"})}
        self.failure: Exception | None = None
        self.index_answers = True
        self.encoder_works = True
        self.listed = True
        self.puts: list[int] = []
        self.has_put = anyio.Event()

    async def embed(self, texts, role, *, truncate, dimensions, normalize, deadline_s):
        self._fail()
        if dimensions is not None and dimensions not in self._engine.dimensions:
            raise InvalidInput(f"dimensions={dimensions} is not allowed", pointer="/dimensions")
        embedded = await self._engine.embed(texts, role, truncate=truncate)
        vectors = embedded.vectors
        if dimensions is not None:
            vectors = cut(vectors, dimensions)
        return EmbedAnswer(
            vectors, embedded.tokens, embedded.truncated, self._bundle, self._engine.space, role
        )

    async def search(self, request, *, deadline_s=None):
        self._fail()
        store = self._store(request.collection)
        where = filters.resolve(request.where, store.fields) if request.where else None
        found = [
            each
            for each in store.documents.values()
            if (request.languages is None or each.language in request.languages)
            and (where is None or filters.matches(where, each.metadata))
        ]
        asked = await self._engine.embed(request.queries, "query")
        texts = [each.text for each in found]
        vectors = (await self._engine.embed(texts, "passage")).vectors if texts else None
        answers = []
        for at, query in enumerate(asked.vectors):
            scores = vectors @ query if texts else np.zeros(0)
            best = np.argsort(-scores, kind="stable")[request.offset :][: request.limit]
            hits = [
                self._hit(found[n], float(scores[n]), vectors[n], request)
                for n in best
                if request.score_threshold is None or scores[n] >= request.score_threshold
            ]
            answers.append(
                SearchAnswer(
                    hits,
                    request.collection,
                    1,
                    self._bundle,
                    self._engine.space,
                    self._bundle,
                    self._engine.space,
                    "und",
                    asked.truncated[at],
                    stages={"search": 0.001},
                )
            )
        return answers

    def _hit(self, document, score, vector, request):
        return Hit(
            document.id,
            0,
            Span(0, len(document.text)),
            document.language,
            score,
            document.text,
            document.title,
            document.metadata,
            vector if request.include_vector else None,
        )

    async def put(self, collection, documents: Sequence[Document], wait):
        self._fail()
        store = self._store(collection)
        for at, document in enumerate(documents):
            for name, kind in store.fields.items():
                value = document.metadata.get(name)
                if value is not None:
                    try:
                        filters.typed(value, kind, name=name)
                    except InvalidInput as error:
                        pointer = f"/documents/{at}/metadata/{name}"
                        raise InvalidInput(error.detail, pointer=pointer) from error
        self.puts.append(len(documents))
        self.has_put.set()
        for document in documents:
            self._revision += 1
            known = dataclasses.replace(document, language=document.language or "und")
            store.documents[document.id] = known
        return Written(len(documents), self._revision, wait == "visible")

    async def delete(self, collection, ids, wait):
        return self._bury(self._store(collection), ids)

    async def delete_where(self, collection, where, wait):
        store = self._store(collection)
        found = filters.resolve(where, store.fields)
        ids = [
            each.id
            for each in store.documents.values()
            if filters.matches(found, {**each.metadata, "language": each.language})
        ]
        return self._bury(store, ids)

    def _bury(self, store, ids):
        gone = [store.documents.pop(each) for each in ids if each in store.documents]
        self._revision += len(gone)
        return Deleted(len(gone), self._revision, visible=True)

    async def document(self, collection, document_id):
        document = self._store(collection).documents.get(document_id)
        if document is None:
            raise NotFound(f"there is no document {document_id!r}")
        spans = [Span(0, len(document.text))]
        return StoredDocument(
            document.id,
            document.text,
            document.title,
            document.language,
            document.metadata,
            spans,
        )

    async def documents(self, collection, cursor, limit):
        everything = list(self._store(collection).documents.values())
        if cursor is not None and not cursor.isdecimal():
            raise InvalidInput(f"{cursor!r} is no cursor", pointer="/cursor")
        start = int(cursor or 0)
        some = everything[start : start + limit]
        more = start + limit < len(everything)
        return DocumentPage(
            [
                DocumentSummary(
                    each.id, each.title, each.language, each.metadata, len(each.text), 1
                )
                for each in some
            ],
            str(start + limit) if more else None,
        )

    async def create_collection(self, name, fields):
        there = self.stores.setdefault(name, Collection(fields))
        if there.fields != fields:
            raise Conflict(f"collection {name!r} has other fields")
        return await self.collection(name)

    async def collections(self):
        return [await self.collection(name) for name in self.stores]

    async def collection(self, name):
        store = self._store(name)
        size = len(store.documents)
        return CollectionInfo(name, store.fields, size, size, {"und": size}, self._revision, 0)

    async def drop_collection(self, name):
        self._store(name)
        del self.stores[name]

    async def models(self):
        if not self.listed:
            return []
        engine = self._engine
        return [
            ModelInfo(
                engine.name,
                engine.version,
                "active",
                space=engine.space,
                dimension=engine.dimension,
                dimensions=engine.dimensions,
                max_tokens=engine.max_tokens,
                languages=["de", "en"],
                precisions=["fp32"],
                roles=["query", "passage"],
                licence="Apache-2.0",
            ),
            ModelInfo("tiny", "0", "invalid", reason="model.onnx: wrong SHA-256"),
        ]

    async def model(self, name, version):
        for model in await self.models():
            if (model.name, model.version) == (name, version):
                break
        else:
            raise NotFound(f"no bundle {name}/{version} in the registry")
        if model.state == "invalid":
            return ModelCard(model, [])
        return ModelCard(
            model,
            [ModelUse(1, "fp32", "active", live=True)],
            created="2026-01-01T00:00:00+00:00",
            spaces={"fp32": model.space},
            evaluation={"ntrex": {"de": 73.9}},
            base_model="none",
            recipe="first",
            commit="0" * 40,
            data=[TrainingData("tatoeba", "CC-BY-2.0-FR", 69209)],
            tools={"torch": "2.13"},
        )

    async def status(self):
        checks = [
            Check("encoder", ok=self.encoder_works),
            Check("catalog", ok=True),
            Check("index", self.index_answers, "" if self.index_answers else "no answer in 2 s"),
        ]
        return Status(checks, 1, 1, self._bundle, self._engine.space, 3, 4)

    def _store(self, name):
        if name not in self.stores:
            raise NotFound(f"there is no collection {name!r}")
        return self.stores[name]

    def _fail(self):
        if self.failure is not None:
            raise self.failure


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("bundle") / "tiny"
    return build_tiny_bundle(folder, dimensions=[8, 16], max_tokens=64)


@pytest.fixture
async def retriever(bundle) -> AsyncIterator[MemoryRetriever]:
    opened = Engine.open(bundle, threads=1, tokenizer_threads=1, limits=LIMITS, metrics=Metrics())
    async with opened as engine:
        yield MemoryRetriever(engine)


@pytest.fixture
def limits() -> Limits:
    return Limits(
        max_body_bytes=200_000,
        max_line_bytes=2_000,
        max_characters=5_000,
        max_documents=20,
        max_queries=4,
        max_limit=50,
        max_offset=100,
        max_filter_depth=4,
        max_filter_clauses=10,
    )


@pytest.fixture
def log_lines() -> "LogLines":
    return LogLines()


class LogLines:
    """What the application logged, as objects."""

    def __init__(self) -> None:
        self.stream = StringIO()

    def all(self):
        return [orjson.loads(line) for line in self.stream.getvalue().splitlines()]

    def last(self):
        return self.all()[-1]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def migrations() -> MemoryMigrations:
    return MemoryMigrations()


@pytest.fixture
def app(retriever, migrations, limits, metrics, log_lines) -> FastAPI:
    app = FastAPI()
    install(
        app,
        metrics=metrics,
        limits=limits,
        settings={"precision": "fp32", "max_batch_tokens": 4096},
        log=logs.logger(log_lines.stream, level="debug"),
    )
    app.state.retriever = app.state.inventory = retriever  # it has the verbs of both
    app.state.migrations = migrations
    return app


@pytest.fixture
async def client(app) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        yield client


@pytest.fixture
async def address(app) -> AsyncIterator[str]:
    """The app behind a real uvicorn on a free port."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        port = listening.getsockname()[1]
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        await serving


@pytest.fixture(scope="session")
def app_without_service() -> FastAPI:
    """Everything but a retriever: what can be refused is, and the rest is 503."""
    app = FastAPI()
    log = logs.logger(StringIO())
    install(app, metrics=Metrics(), limits=Limits(), settings={}, log=log)
    return app
