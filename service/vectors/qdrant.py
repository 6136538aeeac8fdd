"""The server index: collections of a Qdrant server or cluster, one for each index.

What an index is (space, dimension, fields) stands in its collection's metadata and is compared
whenever it is opened; payload indexes are made before there is data. How calls fail and are
repeated is in `qdrant_calls`.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, Self, TypeAlias

import httpx
import numpy as np
from qdrant_client import AsyncQdrantClient, models

from service.errors import ConfigurationError, IndexCorrupt, InvalidInput, NotFound
from service.filters import Filter
from service.metrics import Metrics
from service.vectors.backend import IndexSpec, Match, Point, Query
from service.vectors.payload import (
    REV,
    Condition,
    condition,
    disjoint,
    keys,
    lowered,
    matrix,
    payload,
    sought,
)
from service.vectors.qdrant_calls import PATIENT, Patience, QdrantCalls
from service.vectors.qdrant_settling import settled

VERSION_MIN = (1, 18)
CHUNK_POINTS = 64
CHUNK_DELETES = 1000
CONNECTIONS = httpx.Limits(max_connections=64, max_keepalive_connections=16)
Datatype: TypeAlias = Literal["float32", "float16", "turbo8"]


class QdrantBackend:
    """The indexes of one server whose collections carry our prefix; made by `connect`."""

    def __init__(
        self,
        client: AsyncQdrantClient,
        *,
        metrics: Metrics,
        prefix: str = "isogloss-",
        datatype: Datatype = "float32",
        patience: Patience = PATIENT,
    ) -> None:
        self._client = client
        self._calls = QdrantCalls(metrics=metrics, patience=patience)
        self._patience = patience
        self._prefix = prefix
        self._datatype = datatype
        self._version_known = False

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        url: str,
        *,
        metrics: Metrics,
        api_key: str | None = None,
        prefer_grpc: bool = False,
        grpc_port: int = 6334,
        **options: Any,
    ) -> AsyncGenerator[Self]:
        """A client for the URL, closed at the end; `options` are the constructor's.

        The server need not answer yet: embedding works without it.
        """
        client = AsyncQdrantClient(
            url=url,
            api_key=api_key,
            prefer_grpc=prefer_grpc,
            grpc_port=grpc_port,
            timeout=30,
            check_compatibility=False,  # it warns from a thread; `create` and `open` check
            limits=CONNECTIONS,
        )
        try:
            yield cls(client, metrics=metrics, **options)
        finally:
            await client.close()

    async def create(self, spec: IndexSpec) -> "QdrantIndex":
        """Make a collection if it is not there, and open it."""
        await self._require_version()
        name = self._named(spec.name)
        if not await self._calls.read("open", lambda: self._client.collection_exists(name)):
            try:
                await self._calls.write("open", lambda: self._create(name, spec))
            except (InvalidInput, IndexCorrupt):
                # An earlier attempt, or another replica, has made it: `open` tells.
                if not await self._calls.read("open", lambda: self._client.collection_exists(name)):
                    raise
        return await self.open(spec)

    async def open(self, spec: IndexSpec) -> "QdrantIndex":
        """Open an index; `NotFound`, `IndexCorrupt`. Payload indexes that are missing are made."""
        await self._require_version()
        name = self._named(spec.name)
        if not await self._calls.read("open", lambda: self._client.collection_exists(name)):
            raise NotFound(f"no index {spec.name!r} on the Qdrant server (collection {name!r})")
        info = await self._calls.read("open", lambda: self._client.get_collection(name))
        found, wanted = info.config.metadata or {}, self._description(spec)
        different = [
            f"{key} is {found.get(key)!r}, not {value!r}"
            for key, value in wanted.items()
            if found.get(key) != value
        ]
        if different:
            raise IndexCorrupt(f"collection {name!r} is another index: {'; '.join(different)}")
        for key, kind in keys(spec).items():
            if key not in (info.payload_schema or {}):
                await self._index_payload(name, key, models.PayloadSchemaType(kind))
        return QdrantIndex(self._client, self._calls, spec=spec, collection=name)

    async def drop(self, name: str) -> None:
        """Destroy an index; idempotent."""
        collection = self._named(name)
        await self._calls.write(
            "drop",
            lambda: self._client.delete_collection(collection, timeout=self._patience.write_s),
        )

    async def list(self) -> Sequence[str]:
        """The names of the indexes under our prefix."""
        answer = await self._calls.read("list", self._client.get_collections)
        names = sorted(collection.name for collection in answer.collections)
        return [name[len(self._prefix) :] for name in names if name.startswith(self._prefix)]

    async def ping(self) -> None:
        """Return if the server answers."""
        await self._calls.read("ping", self._client.info)

    async def _create(self, name: str, spec: IndexSpec) -> bool:
        return await self._client.create_collection(
            name,
            vectors_config=models.VectorParams(
                size=spec.dimension,
                distance=models.Distance.COSINE,
                datatype=models.Datatype(self._datatype),
            ),
            metadata=self._description(spec),
            timeout=self._patience.write_s,
        )

    async def _index_payload(self, name: str, key: str, kind: models.PayloadSchemaType) -> None:
        await self._calls.write(
            "open",
            lambda: self._client.create_payload_index(
                name, key, field_schema=kind, timeout=self._patience.write_s
            ),
        )

    async def _require_version(self) -> None:
        if self._version_known:
            return
        text = (await self._calls.read("ping", self._client.info)).version
        numbers = re.match(r"(\d+)\.(\d+)", text)
        if numbers and (int(numbers[1]), int(numbers[2])) < VERSION_MIN:
            least = ".".join(map(str, VERSION_MIN))
            raise ConfigurationError(
                f"the Qdrant server at ISOGLOSS_QDRANT_URL is {text}; {least} is the least"
            )
        self._version_known = True

    def _named(self, name: str) -> str:
        return self._prefix + name

    def _description(self, spec: IndexSpec) -> dict[str, Any]:
        return {
            "created_by": "isogloss",
            "format": 1,
            "space": spec.space,
            "dimension": spec.dimension,
            "datatype": self._datatype,
            "fields": dict(spec.fields),
        }


class QdrantIndex:
    """One collection of a `QdrantBackend`."""

    def __init__(
        self, client: AsyncQdrantClient, calls: QdrantCalls, *, spec: IndexSpec, collection: str
    ) -> None:
        self._client = client
        self._calls = calls
        self._patience = calls.patience
        self._spec = spec
        self._collection = collection

    @property
    def spec(self) -> IndexSpec:
        """What the index is."""
        return self._spec

    async def apply(self, upserts: Sequence[Point], deletes: Sequence[int]) -> None:
        """Write and delete; the batch is checked whole, then sent in chunks."""
        disjoint(upserts, deletes)
        rows = matrix(upserts, self._spec)
        payloads = [payload(point, self._spec.fields) for point in upserts]
        for start in range(0, len(upserts), CHUNK_POINTS):
            part = slice(start, start + CHUNK_POINTS)
            batch = models.Batch(
                ids=[point.id for point in upserts[part]],
                vectors=rows[part].tolist(),
                payloads=payloads[part],
            )
            await self._upsert(batch)
        for start in range(0, len(deletes), CHUNK_DELETES):
            await self._delete(list(deletes[start : start + CHUNK_DELETES]))

    async def flush(self) -> None:
        """Nothing to do: the server's log is on its disk before it acknowledges."""

    async def settle(self) -> None:
        """Wait until the server has nothing to optimise: see `qdrant_settling`."""
        await settled(self._client, self._calls, self._collection)

    async def search(self, queries: Sequence[Query]) -> list[list[Match]]:
        """Matches for each query; equal scores by ascending id among what the server returned.

        Which of several equal scores the server returns at the cut is its own choice, and groups
        are as complete as its bounded search for them makes them.
        """
        plain = [query for query in queries if query.group_by is None and query.limit > 0]
        ranked = iter(await self._ranked(plain) if plain else [])
        found: list[list[Match]] = []
        for query in queries:
            if query.limit < 1:
                found.append([])
            elif query.group_by is None:
                found.append(next(ranked))
            else:
                found.append(await self._grouped(query))
        return found

    async def scan(self, *, page: int = 10_000) -> AsyncIterator[Sequence[tuple[int, int]]]:
        """Pages of (id, rev) in ascending id order."""
        after: Any = None
        while True:
            records, after = await self._scroll(after, page)
            if records:
                yield [(int(record.id), int((record.payload or {})[REV])) for record in records]
            if after is None:
                return

    async def count(self, where: Filter | None = None) -> int:
        """The exact number of points that satisfy the filter."""
        asked = self._filter(where)
        answer = await self._calls.read(
            "count",
            lambda: self._client.count(
                self._collection, count_filter=asked, exact=True, timeout=self._patience.read_s
            ),
        )
        return answer.count

    async def _upsert(self, batch: models.Batch) -> None:
        await self._calls.write(
            "apply",
            lambda: self._client.upsert(
                self._collection,
                points=batch,
                wait=True,
                ordering=models.WriteOrdering.MEDIUM,
                timeout=self._patience.write_s,
            ),
        )

    async def _delete(self, ids: list[int]) -> None:
        await self._calls.write(
            "apply",
            lambda: self._client.delete(
                self._collection,
                points_selector=models.PointIdsList(points=[*ids]),
                wait=True,
                ordering=models.WriteOrdering.MEDIUM,
                timeout=self._patience.write_s,
            ),
        )

    async def _scroll(self, after: Any, page: int) -> tuple[list[models.Record], Any]:
        return await self._calls.read(
            "scan",
            lambda: self._client.scroll(
                self._collection,
                limit=page,
                offset=after,
                with_payload=[REV],
                timeout=self._patience.write_s,
            ),
        )

    async def _ranked(self, queries: Sequence[Query]) -> list[list[Match]]:
        requests = [
            models.QueryRequest(
                query=sought(query.vector, self._spec).tolist(),
                limit=query.offset + query.limit,
                filter=self._filter(query.where),
                score_threshold=lowered(query.score_threshold),
                with_vector=query.with_vector,
                with_payload=False,
            )
            for query in queries
        ]
        answers = await self._calls.read(
            "search",
            lambda: self._client.query_batch_points(
                self._collection, requests, timeout=self._patience.read_s
            ),
        )
        return [
            _matches(answer.points, query)[query.offset : query.offset + query.limit]
            for answer, query in zip(answers, queries, strict=True)
        ]

    async def _grouped(self, query: Query) -> list[Match]:
        answer = await self._calls.read(
            "search",
            lambda: self._client.query_points_groups(
                self._collection,
                group_by=str(query.group_by),
                query=sought(query.vector, self._spec).tolist(),
                limit=query.offset + query.limit,
                group_size=query.group_size,
                query_filter=self._filter(query.where),
                score_threshold=lowered(query.score_threshold),
                with_vectors=query.with_vector,
                with_payload=False,
                timeout=self._patience.read_s,
            ),
        )
        groups = [_matches(group.hits, query) for group in answer.groups]
        ordered = sorted((group for group in groups if group), key=lambda group: _rank(group[0]))
        chosen = ordered[query.offset : query.offset + query.limit]
        return [match for group in chosen for match in group]

    def _filter(self, where: Filter | None) -> models.Filter | None:
        return None if where is None else _filter(condition(where, self._spec.fields))


def _matches(points: Sequence[models.ScoredPoint], query: Query) -> list[Match]:
    found = [
        Match(
            int(point.id),
            point.score,
            np.array(point.vector, dtype=np.float32) if query.with_vector else None,
        )
        for point in points
    ]
    return sorted(found, key=_rank)


def _rank(match: Match) -> tuple[float, int]:
    return (-match.score, match.id)


def _filter(condition: Condition) -> models.Filter:
    match condition:
        case ["all", clauses]:
            return models.Filter(must=[_clause(clause) for clause in clauses])
        case ["any", clauses] if clauses:
            return models.Filter(should=[_clause(clause) for clause in clauses])
        case ["not", clause]:
            return models.Filter(must_not=[_clause(clause)])
        case ["filled", key]:
            empty = models.IsEmptyCondition(is_empty=models.PayloadField(key=key))
            return models.Filter(must_not=[empty])
        case _:
            return models.Filter(must=[_clause(condition)])


def _clause(condition: Condition) -> models.Condition:
    match condition:
        case ["any", []]:
            return models.HasIdCondition(has_id=[])
        case ["match", key, [value]]:
            return models.FieldCondition(key=key, match=models.MatchValue(value=value))
        case ["match", key, values]:
            return models.FieldCondition(key=key, match=models.MatchAny(any=values))
        case ["range", key, "datetime", bounds]:
            return models.FieldCondition(key=key, range=models.DatetimeRange(**bounds))
        case ["range", key, _, bounds]:
            return models.FieldCondition(key=key, range=models.Range(**bounds))
        case _:
            return _filter(condition)
