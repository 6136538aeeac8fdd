"""The verbs of the service over the live generation: embed, search, put, delete, and what is there.

A request takes the live `Generation` once and uses nothing else: the encoder that embeds its query
is the one that filled the index which it searches, or one that was proven to be compatible with it
on that very index. Two spaces of equal dimension cannot meet otherwise.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import TypeAlias, TypeVar, TypeVarTuple

import anyio.to_thread

from service import filters
from service.catalog import Catalog, Collection, Passage
from service.catalog import Written as CatalogWritten
from service.encoder import cut
from service.errors import (
    IndexCorrupt,
    IndexUnavailable,
    InvalidInput,
    NotFound,
)
from service.filters import LANGUAGE, AllOf, Filter, In
from service.generation import Generation
from service.language import canonical
from service.metrics import Metrics
from service.requests import SearchRequest
from service.types import (
    Deleted,
    Document,
    DocumentPage,
    EmbedAnswer,
    FieldType,
    Hit,
    Matrix,
    Role,
    SearchAnswer,
    StoredDocument,
    Wait,
    Written,
)
from service.vectors.backend import Match, Query

LOCKSTEP_S = 1.0
"""How long a write waits for the generation beside the live one: its lag is no reason to fail."""

T = TypeVar("T")
Args = TypeVarTuple("Args")

Observer: TypeAlias = Callable[[Generation, SearchRequest, Sequence[SearchAnswer]], None]
"""Is told of what was answered, and from which generation; it neither waits nor fails."""


class Retriever:
    """The live generation, the catalog that it follows, and what a document passes on its way in."""

    def __init__(
        self,
        generation: Generation,
        *,
        catalog: Catalog,
        visible_timeout_s: float,
        metrics: Metrics,
    ) -> None:
        self.live = generation
        """What new requests are answered from; a request reads it once, and pins it."""
        self.beside: Generation | None = None
        """What is kept in step with it: the one that is ready to follow, or the one before."""
        self.observer: Observer | None = None
        """Whoever compares answers; the search that it is told of is over."""
        self._catalog = catalog
        self._visible_timeout_s = visible_timeout_s
        self._metrics = metrics

    async def embed(
        self,
        texts: Sequence[str],
        role: Role,
        *,
        truncate: bool = True,
        dimensions: int | None = None,
        normalize: bool = True,
        deadline_s: float | None = None,
    ) -> EmbedAnswer:
        """Vectors for texts, in their order, cut to `dimensions` if the bundle allows that length."""
        live = self.live
        engine = live.engine
        if dimensions is not None and dimensions not in engine.dimensions:
            allowed = ", ".join(map(str, engine.dimensions))
            raise InvalidInput(
                f"dimensions={dimensions}: bundle {live.bundle} allows {allowed}",
                pointer="/dimensions",
            )
        with live.pinned():
            embedded = await engine.embed(texts, role, deadline=_at(deadline_s), truncate=truncate)
        vectors = embedded.vectors
        if dimensions is not None and dimensions != engine.dimension:
            vectors = cut(vectors, dimensions) if normalize else vectors[:, :dimensions]
        return EmbedAnswer(
            vectors=vectors,
            tokens=embedded.tokens,
            truncated=embedded.truncated,
            bundle=live.bundle,
            space=engine.space,
            role=role,
        )

    async def search(
        self, request: SearchRequest, deadline_s: float | None = None
    ) -> list[SearchAnswer]:
        """One answer for each query: embedded, searched and hydrated with the same generation."""
        live = self.live
        asker = live.asker or live
        with live.pinned(), asker.pinned():
            stages = _Stages(self._metrics)
            answers = await self._search(
                live, asker, request, stages=stages, deadline=_at(deadline_s)
            )
        for answer in answers:
            self._count(answer.hits, answer.query_language, live.languages)
        if self.observer is not None:
            self.observer(live, request, answers)
        return answers

    async def answer(self, generation: Generation, request: SearchRequest) -> list[SearchAnswer]:
        """What a generation answers that nobody asked: in no metric of what was asked."""
        with generation.pinned():
            return await self._search(
                generation, generation, request, stages=_Stages(None), deadline=None
            )

    async def _search(
        self,
        live: Generation,
        asker: Generation,
        request: SearchRequest,
        *,
        stages: "_Stages",
        deadline: float | None,
    ) -> list[SearchAnswer]:
        with stages.timed("embed"):  # and meanwhile what else there is to know
            embedding = asyncio.create_task(
                asker.engine.embed(request.queries, "query", deadline=deadline)
            )
            try:
                collection, where, languages = await _run(self._understand, live, request)
                await live.applier.attach(collection)  # another process may just have made it
                index = live.applier.index(collection.id)
                embedded = await embedding
            finally:
                embedding.cancel()
        with stages.timed("search"):
            try:
                found = await index.search(_queries(request, embedded.vectors, where))
            except (IndexCorrupt, NotFound) as error:
                live.applier.suspect(collection.id)
                raise IndexUnavailable(
                    f"the index of {collection.name!r} is being rebuilt: {error.detail}"
                ) from error
        with stages.timed("hydrate"):
            ids = [match.id for matches in found for match in matches]
            passages = await _run(self._catalog.passages.hydrate, ids)
        answers = []
        for matches, language, cut_off in zip(found, languages, embedded.truncated, strict=True):
            hits = [
                _hit(passages[match.id], match, request)
                for match in matches
                if match.id in passages  # a document deleted since is not shown again
            ]
            answers.append(
                SearchAnswer(
                    hits=hits,
                    collection=request.collection,
                    generation=live.id,
                    bundle=live.bundle,
                    space=live.engine.space,
                    query_bundle=asker.bundle,
                    query_space=asker.engine.space,
                    query_language=language,
                    truncated=cut_off,
                    stages=stages.seconds,
                )
            )
        return answers

    def _understand(
        self, live: Generation, request: SearchRequest
    ) -> tuple[Collection, Filter | None, Sequence[str]]:
        """The collection, the filter as it is stored there, and the language of each query."""
        collection = self._catalog.collections.get(request.collection)
        where = _where(request, collection.fields)
        return collection, where, [code for code, _ in live.identifier.identify(request.queries)]

    def _count(self, hits: Sequence[Hit], language: str, known: AbstractSet[str]) -> None:
        asked = language if language in known else "other"
        if not hits:
            self._metrics.search_empty.labels(query_language=asked).inc()
            return
        self._metrics.search_top_score.labels(query_language=asked).observe(hits[0].score)
        for hit in hits:
            found = hit.language if hit.language in known else "other"
            self._metrics.search_results.labels(query_language=asked, result_language=found).inc()

    async def put(self, collection: str, documents: Sequence[Document], wait: Wait) -> Written:
        """Insert or replace documents, all or none; acknowledged when stored, or when visible."""
        into = await self._collection(collection)
        live = self.live
        with live.pinned():
            prepared = await _run(live.intake.prepare, documents)
        written = await _run(self._catalog.documents.put, into.id, prepared)
        self._metrics.documents_written.labels(operation="put").inc(len(documents))
        visible = await self._follow(into, written.revision, wait)
        return Written(accepted=len(documents), revision=written.revision, visible=visible)

    async def delete(self, collection: str, ids: Sequence[str], wait: Wait) -> Deleted:
        """Delete documents by id; an id that is not there is not counted."""
        into = await self._collection(collection)
        return await self._deleted(
            into, wait, partial(self._catalog.documents.delete, into.id, ids)
        )

    async def delete_where(self, collection: str, where: Filter, wait: Wait) -> Deleted:
        """Delete the documents that a filter matches, as the catalog knows them at this moment."""
        into = await self._collection(collection)
        found = filters.resolve(where, into.fields)
        return await self._deleted(
            into, wait, partial(self._catalog.documents.delete_where, into.id, found)
        )

    async def document(self, collection: str, document_id: str) -> StoredDocument:
        """A document with its text, or `NotFound`."""
        within = await self._collection(collection)
        found = await _run(self._catalog.documents.get, within.id, document_id)
        return StoredDocument(
            id=found.document.id,
            text=found.document.text,
            title=found.document.title,
            language=found.language,
            metadata=found.document.metadata,
            passages=found.spans,
        )

    async def documents(self, collection: str, cursor: str | None, limit: int) -> DocumentPage:
        """A page of documents in the order of their first arrival."""
        within = await self._collection(collection)
        return await _run(
            partial(self._catalog.documents.list, within.id, limit=limit, after=cursor)
        )

    async def _collection(self, name: str) -> Collection:
        return await _run(self._catalog.collections.get, name)

    async def _deleted(
        self, collection: Collection, wait: Wait, delete: Callable[[], CatalogWritten]
    ) -> Deleted:
        written = await _run(delete)
        self._metrics.documents_written.labels(operation="delete").inc(written.documents)
        visible = await self._follow(collection, written.revision, wait)
        return Deleted(deleted=written.documents, revision=written.revision, visible=visible)

    async def _follow(self, collection: Collection, revision: int, wait: Wait) -> bool:
        """Whether searches see the revision, now or when they were waited for."""
        live, beside = self.live, self.beside
        patience_s = self._visible_timeout_s if wait == "visible" else 0.0
        visible = await _sees(live, collection, revision, timeout_s=patience_s)
        if beside is not None:
            # Whoever still answers from it, or answers from it next, sees the write as well.
            await _sees(beside, collection, revision, timeout_s=min(patience_s, LOCKSTEP_S))
        return visible


class _Stages:
    """Where the time of one request goes: into the metrics if any, and into its answer."""

    def __init__(self, metrics: Metrics | None) -> None:
        self.seconds: dict[str, float] = {}
        self._metrics = metrics

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        begun = perf_counter()
        yield
        self.seconds[stage] = perf_counter() - begun
        if self._metrics is not None:
            self._metrics.stage_duration_seconds.labels(stage).observe(self.seconds[stage])


def _queries(request: SearchRequest, vectors: Matrix, where: Filter | None) -> list[Query]:
    return [
        Query(
            vector=vector,
            limit=request.limit,
            offset=request.offset,
            where=where,
            score_threshold=request.score_threshold,
            group_by=request.group_by,
            group_size=request.group_size,
            with_vector=request.include_vector,
        )
        for vector in vectors
    ]


def _where(request: SearchRequest, fields: Mapping[str, FieldType]) -> Filter | None:
    clauses: list[Filter] = []
    if request.languages is not None:
        clauses.append(In(LANGUAGE, [canonical(code) for code in request.languages]))
    if request.where is not None:
        clauses.append(filters.resolve(request.where, fields))
    return AllOf(clauses) if clauses else None


def _hit(passage: Passage, match: Match, request: SearchRequest) -> Hit:
    return Hit(
        document=passage.document,
        number=passage.number,
        span=passage.span,
        language=passage.language,
        score=match.score,
        text=passage.text if request.include_text else "",
        title=passage.title,
        metadata=passage.metadata if request.include_metadata else {},
        vector=match.vector,
    )


async def _sees(
    generation: Generation, collection: Collection, revision: int, *, timeout_s: float
) -> bool:
    with generation.pinned():
        await generation.applier.attach(collection)  # another process may just have made it
        return await generation.applier.wait_visible(collection.id, revision, timeout_s=timeout_s)


async def _run(function: Callable[[*Args], T], *args: *Args) -> T:
    """Run a synchronous call in a worker thread, off the event loop."""
    return await anyio.to_thread.run_sync(function, *args)


def _at(deadline_s: float | None) -> float | None:
    return None if deadline_s is None else asyncio.get_running_loop().time() + deadline_s
