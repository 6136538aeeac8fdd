"""One shard of the embedded engine: everything that speaks to `qdrant_edge`.

Why flat and Turbo8: at 100,000 vectors a scan of 8-bit vectors takes about two milliseconds with
(nearly) the recall of float32, needs no build, and so never calls `optimize`, which would hold the
process for a minute. Why `load` distrusts everything: the engine is beta and its errors are bare
exceptions, so the index keeps its own description beside the shard and compares that first.
"""

import json
import os
import shutil
from collections.abc import Generator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import qdrant_edge as edge

from service.errors import IndexCorrupt, IndexUnavailable, NotFound, StorageFull
from service.vectors.backend import IndexSpec
from service.vectors.payload import EVERYTHING, REV, Condition, holds, keys, lowered, read_by

DESCRIPTION = "index.json"
ENGINE = f"qdrant-edge-py {version('qdrant-edge-py')}"
LEAKED = "temp_segments"
"""Where the engine builds segments; a kill leaves what it had built, and nobody deletes it."""
TIES_MAX = 4096
"""How many equal scores at the cut are ordered by id before the engine's own order is taken."""
BROAD = 0.2
"""The share of points from which on a filter is dearer than filtering some more hits here."""
FETCH_MIN, FETCH_MAX = 64, 4096

SCHEMA = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "integer": edge.PayloadSchemaType.Integer,
    "float": edge.PayloadSchemaType.Float,
    "datetime": edge.PayloadSchemaType.Datetime,
}
Found: TypeAlias = list[Any]
"""The answer to one query: `[ids, scores, vectors as bytes or None]`."""


class Search(NamedTuple):
    """A query as it arrives at the host."""

    vector: bytes
    limit: int
    offset: int
    where: Condition
    threshold: float | None
    group_by: str | None
    group_size: int
    with_vector: bool


class Shard:
    """An open shard; `close` it, or the next `load` replays its log."""

    def __init__(self, engine: edge.EdgeShard, *, spec: IndexSpec) -> None:
        self._engine = engine
        self.spec = spec
        self.unflushed = 0

    @classmethod
    def create(cls, folder: Path, spec: IndexSpec) -> Generator[None, None, "Shard"]:
        """Make a shard, in steps of about 10 ms, and return it.

        The description is written last, so that half a shard is no shard.
        """
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "shard").mkdir(parents=True)
        vectors = edge.EdgeVectorParams(
            size=spec.dimension,
            distance=edge.Distance.Cosine,
            datatype=edge.VectorStorageDatatype.Turbo8,
        )
        engine = edge.EdgeShard.create(
            str(folder / "shard"), edge.EdgeConfig(vectors=vectors, wal_enabled=True)
        )
        for key, kind in keys(spec).items():
            yield
            engine.update(edge.UpdateOperation.create_field_index(key, SCHEMA[kind]))
        yield
        engine.flush()
        draft = folder / f"{DESCRIPTION}.draft"
        draft.write_text(json.dumps(_description(spec), indent=2))
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        draft.replace(folder / DESCRIPTION)
        sync(folder)
        return cls(engine, spec=spec)

    @classmethod
    def load(cls, folder: Path, spec: IndexSpec) -> "Shard":
        """Open a shard that is what the spec says: `NotFound`, `IndexCorrupt` if it is not."""
        try:
            found = json.loads((folder / DESCRIPTION).read_text())
        except FileNotFoundError as error:
            raise NotFound(f"no index {spec.name!r}") from error
        except ValueError as error:
            raise IndexCorrupt(
                f"index {spec.name!r}: {DESCRIPTION} is not JSON: {error}"
            ) from error
        if found != _description(spec):
            raise IndexCorrupt(f"index {spec.name!r} is another one: {_difference(found, spec)}")
        shutil.rmtree(folder / "shard" / LEAKED, ignore_errors=True)
        try:
            shard = cls(edge.EdgeShard.load(str(folder / "shard")), spec=spec)
            readable = shard._readable()
        except BaseException as error:  # a panic of the engine is no Exception
            raise translated(error, IndexCorrupt(f"index {spec.name!r}: {error}")) from error
        if not readable:
            raise IndexCorrupt(f"index {spec.name!r}: it has points, but their vectors are lost")
        return shard

    def apply(
        self,
        ids: Sequence[int],
        vectors: bytes,
        *,
        payloads: Sequence[dict[str, Any]],
        deletes: list[int],
    ) -> None:
        """Write and delete points, in the log and visible on return."""
        if ids:
            rows = np.frombuffer(vectors, "<f4").reshape(len(ids), -1).tolist()
            points = [edge.Point(*point) for point in zip(ids, rows, payloads, strict=True)]
            self._engine.update(edge.UpdateOperation.upsert_points(points))
        if deletes:
            self._engine.update(edge.UpdateOperation.delete_points([*deletes]))
        self.unflushed += len(ids) + len(deletes)

    def search(self, queries: Sequence[Search]) -> list[Found]:
        """The answers, in the order of the queries; those without grouping share one pass."""
        plain = [query for query in queries if query.group_by is None and query.limit > 0]
        ranked = iter(self._ranked(plain))
        return [
            _packed([], query)
            if query.limit < 1
            else _packed(next(ranked) if query.group_by is None else self._grouped(query), query)
            for query in queries
        ]

    def scan(self, *, after: int | None, page: int) -> tuple[bytes, bytes]:
        """Ids (uint64) and revisions (int64) that follow an id, in ascending order."""
        points, _ = self._engine.scroll(
            edge.ScrollRequest(
                offset=0 if after is None else after + 1, limit=page, with_payload=[REV]
            )
        )
        ids = np.array([point.id for point in points], dtype="<u8")
        return ids.tobytes(), np.array([_carried(p, REV) for p in points], dtype="<i8").tobytes()

    def count(self, where: Condition) -> int:
        """The exact number of points."""
        return self._engine.count(edge.CountRequest(exact=True, filter=_filter(where)))

    def flush(self) -> None:
        """Everything to the disk, and the log cut short. Blocks for tens of milliseconds."""
        self._engine.flush()
        self.unflushed = 0

    def close(self) -> None:
        """Everything to the disk, and let go of the files."""
        self._engine.close()

    def _readable(self) -> bool:
        """Whether any point is found: the engine loads a shard without its vectors in silence."""
        nearest = edge.Query.Nearest([1.0] * self.spec.dimension)
        found = self._engine.query(edge.QueryRequest(limit=1, query=nearest))
        return bool(found) or not self.count(EVERYTHING)

    def _ranked(self, queries: Sequence[Search]) -> list[list[edge.ScoredPoint]]:
        """Hits `offset … offset + limit`.

        A filter that keeps much costs the engine several times the scan itself, so then a few more
        hits are fetched without it and are filtered here; most often enough are left.
        """
        plans = [self._plan(query) for query in queries]
        rows = self._query([request for request, _ in plans])
        ranked = []
        for query, (request, unfiltered), hits in zip(queries, plans, rows, strict=True):
            here = unfiltered
            want, fetch, found = query.offset + query.limit, request.limit, hits
            kept = [hit for hit in hits if holds(query.where, hit.payload or {})] if here else hits
            while not _settled(kept, found, want, fetch):
                fetch, here = (want + 1 if here else fetch * 2), False
                (found,) = self._query([_request(query, fetch)])
                kept = found
            ranked.append(_ordered(kept)[query.offset : want])
        return ranked

    def _plan(self, query: Search) -> tuple[edge.QueryRequest, bool]:
        """The first request for a query, and whether its hits are to be filtered here."""
        want = query.offset + query.limit
        if query.where != EVERYTHING:
            roughly = edge.CountRequest(exact=False, filter=_filter(query.where))
            share = self._engine.count(roughly) / max(1, self._engine.info().points_count)
            fetch = 16 + int(2 * want / share) if share >= BROAD else FETCH_MAX
            if fetch < FETCH_MAX:
                unfiltered = query._replace(where=EVERYTHING)
                return _request(unfiltered, fetch, payload=[*read_by(query.where)]), True
        return _request(query, want + 1), False

    def _grouped(self, query: Search) -> list[edge.ScoredPoint]:
        """The best hits of each of the best groups, group by group.

        Over-fetch, four times as much while groups are missing; past `FETCH_MAX` the groups that
        are known are excluded instead, so that one huge document cannot hide the others. Groups
        that the cut left short are filled by a query of their own, which an index makes cheap.
        """
        key, want = str(query.group_by), query.offset + query.limit
        groups: dict[Any, list[edge.ScoredPoint]] = {}
        fetch, known, exhausted = max(FETCH_MIN, 2 * want * query.group_size), EVERYTHING, False
        while len(groups) < want and not exhausted:
            (hits,) = self._query([_request(query, fetch, also=known, payload=[key])])
            exhausted = len(hits) < fetch
            fresh: dict[Any, list[edge.ScoredPoint]] = {}
            for hit in _ordered(hits):
                fresh.setdefault(_carried(hit, key), []).append(hit)
            groups |= fresh
            if fetch >= FETCH_MAX:
                known = ["not", ["match", key, [*groups]]]
            fetch = min(fetch * 4, max(FETCH_MAX, fetch))
        chosen = [*groups][query.offset : want]
        short = [group for group in chosen if len(groups[group]) < query.group_size]
        filled = self._query(
            [_request(query, query.group_size, also=["match", key, [group]]) for group in short]
        )
        groups |= zip(short, map(_ordered, filled), strict=True)
        return [hit for group in chosen for hit in groups[group][: query.group_size]]

    def _query(self, requests: list[edge.QueryRequest]) -> list[list[edge.ScoredPoint]]:
        if len(requests) == 1:
            return [self._engine.query(requests[0])]
        return self._engine.query_batch(edge.QueryBatchRequest(requests)) if requests else []


def translated(error: BaseException, otherwise: Exception) -> Exception:
    """The engine's error, known only by its text, as one of ours."""
    text = str(error)
    if any(mark in text for mark in ("No space left", "os error 28", "isk quota exceeded")):
        return StorageFull(f"the disk of the index is full: {text}")
    if "WouldBlock" in text:
        return IndexUnavailable(f"another process has the shard open: {text}")
    return otherwise


def sync(folder: Path) -> None:
    """Make the names in a folder survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _description(spec: IndexSpec) -> dict[str, Any]:
    return {
        "format": 1,
        "engine": ENGINE,
        "space": spec.space,
        "dimension": spec.dimension,
        "fields": dict(spec.fields),
    }


def _difference(found: Any, spec: IndexSpec) -> str:
    if not isinstance(found, Mapping):
        return "its description is no object"
    return "; ".join(
        f"{name} is {found.get(name)!r}, not {value!r}"
        for name, value in _description(spec).items()
        if found.get(name) != value
    )


def _request(
    query: Search, limit: int, *, also: Condition = EVERYTHING, payload: list[str] | None = None
) -> edge.QueryRequest:
    where = [clause for clause in (query.where, also) if clause != EVERYTHING]
    return edge.QueryRequest(
        limit=limit,
        query=edge.Query.Nearest(np.frombuffer(query.vector, "<f4").tolist()),
        filter=_filter(["all", where]) if where else None,
        score_threshold=lowered(query.threshold),
        with_vector=query.with_vector,
        with_payload=payload or False,
    )


def _settled(
    kept: Sequence[edge.ScoredPoint], found: Sequence[edge.ScoredPoint], want: int, fetch: int
) -> bool:
    """Whether no hit beyond those fetched belongs among the first `want`, ties by id included."""
    if len(found) < fetch:
        return True
    enough = len(kept) >= want
    return enough and (kept[want - 1].score > found[-1].score or fetch > TIES_MAX)


def _ordered(hits: Sequence[edge.ScoredPoint]) -> list[edge.ScoredPoint]:
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))


def _packed(hits: Sequence[edge.ScoredPoint], query: Search) -> Found:
    vectors = np.array([hit.vector for hit in hits], "<f4").tobytes() if query.with_vector else None
    return [[hit.id for hit in hits], [hit.score for hit in hits], vectors]


def _carried(point: edge.ScoredPoint | edge.Record, key: str) -> Any:
    return (point.payload or {})[key]


def _filter(condition: Condition) -> edge.Filter:
    """A filter as flat as can be: the engine plans what is nested four times slower."""
    match condition:
        case ["all", clauses]:
            denied = [clause for clause in clauses if clause[0] in {"not", "filled"}]
            asked = [clause for clause in clauses if clause[0] not in {"not", "filled"}]
            return edge.Filter(
                must=[_clause(clause) for clause in asked] or None,
                must_not=[_denied(clause) for clause in denied] or None,
            )
        case ["any", clauses] if clauses:
            return edge.Filter(should=[_clause(clause) for clause in clauses])
        case ["not" | "filled", _]:
            return edge.Filter(must_not=[_denied(condition)])
        case _:
            return edge.Filter(must=[_clause(condition)])


def _denied(condition: Condition) -> Any:
    kind, inner = condition
    return edge.IsEmptyCondition(inner) if kind == "filled" else _clause(inner)


def _clause(condition: Condition) -> Any:
    match condition:
        case ["any", []]:
            return edge.HasIdCondition(set())
        case ["match", key, [value]]:
            return edge.FieldCondition(key, match=edge.MatchValue(value))
        case ["match", key, values]:
            return edge.FieldCondition(key, match=edge.MatchAny(values))
        case ["range", key, "datetime", bounds]:
            return edge.FieldCondition(key, range=edge.RangeDateTime(**bounds))
        case ["range", key, _, bounds]:
            return edge.FieldCondition(key, range=edge.RangeFloat(**bounds))
        case _:
            return _filter(condition)
