"""What every vector backend promises, asked of each of them.

The embedded index runs as it does in the service, in its host process. The server adapter runs on
the client's local mode, and on a real server too when ISOGLOSS_QDRANT_URL is set.
"""

import asyncio
import math
import os
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_client import AsyncQdrantClient

from service import filters
from service.errors import IndexCorrupt, InvalidInput, NotFound, UnknownField
from service.filters import AllOf, AnyOf, Equals, Exists, In, Not, Range
from service.metrics import Metrics
from service.vectors.backend import IndexSpec, Point, Query
from service.vectors.edge import EdgeBackend
from service.vectors.qdrant import QdrantBackend
from tests.ram_folder import ram_folder

pytestmark = pytest.mark.filterwarnings(
    "ignore:Payload indexes have no effect in the local Qdrant:UserWarning"
)

SERVER = os.environ.get("ISOGLOSS_QDRANT_URL")
BACKENDS = ["edge", "qdrant-memory", "qdrant-folder", *(["qdrant-server"] if SERVER else [])]
DIMENSION = 8
FIELDS = {
    "kind": "keyword",
    "a.b": "integer",
    'a["b"] é': "float",
    "at": "datetime",
    "ok?": "boolean",
    "rev": "integer",
}


@asynccontextmanager
async def local(**where):
    client = AsyncQdrantClient(**where)
    try:
        yield QdrantBackend(client, metrics=Metrics())
    finally:
        await client.close()


def backend_of(kind, folder):
    match kind:
        case "edge":
            return EdgeBackend.start(folder / "index", metrics=Metrics())
        case "qdrant-memory":
            return local(location=":memory:")
        case "qdrant-folder":
            return local(path=str(folder))
        case "qdrant-server":
            prefix = f"isogloss-test-{uuid.uuid4().hex[:8]}-"
            return QdrantBackend.connect(SERVER, metrics=Metrics(), prefix=prefix)


@pytest.fixture(scope="module", params=BACKENDS)
async def backend(request):
    with ram_folder() as folder:
        async with backend_of(request.param, folder) as backend:
            yield backend
            for name in await backend.list():
                await backend.drop(name)


@pytest.fixture
def spec(request):
    return IndexSpec(f"g1-c{uuid.uuid4().hex[:8]}", "space-a", DIMENSION, FIELDS)


@pytest.fixture
async def index(backend, spec):
    yield await backend.create(spec)
    await backend.drop(spec.name)


def unit(*components):
    vector = np.zeros(DIMENSION, dtype=np.float32)
    vector[: len(components)] = components
    return vector / np.linalg.norm(vector)


def angled(degrees):
    return unit(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))


def point(number, vector=None, *, rev=1, document=0, language="en", **metadata):
    vector = angled(number) if vector is None else vector
    return Point(number, vector, rev, document, language, metadata)


async def everything(index):
    return [row async for page in index.scan() for row in page]


def ids(matches):
    return [match.id for match in matches]


async def test_it_answers_a_ping(backend):
    await backend.ping()


async def test_creating_twice_keeps_what_is_there(backend, spec, index):
    await index.apply([point(1)], [])
    again = await backend.create(spec)
    assert again.spec == spec
    assert await again.count() == 1


async def test_an_index_that_is_not_there_is_not_found(backend, spec):
    with pytest.raises(NotFound, match=spec.name):
        await backend.open(spec)


@pytest.mark.parametrize(
    ("name", "value"),
    [("space", "space-b"), ("dimension", 4), ("fields", {"kind": "integer"})],
)
async def test_an_index_of_another_kind_is_not_opened(backend, index, name, value):
    spec = index.spec
    other = {"name": spec.name, "space": "space-a", "dimension": DIMENSION, "fields": FIELDS}
    with pytest.raises(IndexCorrupt, match=name):
        await backend.open(IndexSpec(**{**other, name: value}))
    await index.apply([point(1)], [])
    assert await (await backend.open(spec)).count() == 1


async def test_the_indexes_are_listed(backend, spec, index):
    assert spec.name in await backend.list()


async def test_a_dropped_index_is_gone_and_may_be_made_again(backend, spec, index):
    await index.apply([point(1)], [])
    await backend.drop(spec.name)
    await backend.drop(spec.name)
    assert spec.name not in await backend.list()
    with pytest.raises(NotFound):
        await backend.open(spec)
    again = await backend.create(IndexSpec(spec.name, "space-b", 4, {}))
    assert await again.count() == 0


async def test_what_was_applied_is_visible_on_return(index):
    await index.apply([point(number, rev=number + 10) for number in range(5)], [])
    assert await everything(index) == [(number, number + 10) for number in range(5)]
    assert ids((await index.search([Query(angled(0), 2)]))[0]) == [0, 1]


async def test_applying_again_replaces_vector_and_payload(index):
    await index.apply([point(1, angled(0), kind="old"), point(2, angled(50))], [])
    await index.apply([point(1, angled(90), rev=7, **{"a.b": 3})], [])
    assert await everything(index) == [(1, 7), (2, 1)]
    assert ids((await index.search([Query(angled(0), 2)]))[0]) == [2, 1]
    assert await index.count(Exists("kind")) == 0
    assert await index.count(Equals("a.b", 3)) == 1


async def test_deleting_is_idempotent_and_goes_with_writing(index):
    await index.apply([point(1), point(2)], [])
    await index.apply([point(3)], [1, 99])
    await index.apply([], [1])
    assert await everything(index) == [(2, 1), (3, 1)]


async def test_an_empty_batch_changes_nothing(index):
    await index.apply([], [])
    assert await everything(index) == []
    assert await index.search([]) == []
    assert await index.search([Query(angled(0), 5)]) == [[]]


async def test_a_large_batch_is_whole(index):
    await index.apply([point(number, rev=number) for number in range(300)], [])
    await index.apply([], list(range(0, 300, 2)))
    assert await everything(index) == [(number, number) for number in range(1, 300, 2)]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (point(999, np.ones(4, dtype=np.float32)), InvalidInput),
        (point(999, np.ones((1, DIMENSION), dtype=np.float32)), InvalidInput),
        (point(999, unit(1) * np.nan), InvalidInput),
        (point(999, np.full(DIMENSION, np.inf, dtype=np.float32)), InvalidInput),
        (point(999, nobody="declared this"), UnknownField),
        (point(999, **{'a["b"] é': math.inf}), InvalidInput),
        (point(999, kind="a lone \ud800 surrogate"), InvalidInput),
        (point(999, language="\udfff"), InvalidInput),
        (point(1), InvalidInput),
    ],
)
async def test_a_batch_with_one_bad_point_writes_nothing(index, bad, error):
    with pytest.raises(error):
        await index.apply([*map(point, range(200)), bad], [])
    assert await everything(index) == []


async def test_a_point_is_not_written_and_deleted_in_one_batch(index):
    with pytest.raises(InvalidInput, match="point 3 occurs twice"):
        await index.apply([point(3)], [3])


@pytest.mark.parametrize("vector", [np.ones(4, dtype=np.float32), unit(1) * np.nan])
async def test_a_bad_query_is_refused(index, vector):
    with pytest.raises(InvalidInput, match="query vector"):
        await index.search([Query(vector, 1)])


async def test_hits_come_best_first_with_their_cosine(index):
    await index.apply([point(number, angled(10 * number)) for number in range(10)], [])
    (matches,) = await index.search([Query(angled(31), 4)])
    assert ids(matches) == [3, 4, 2, 5]
    assert [match.score for match in matches] == pytest.approx(
        [math.cos(math.radians(angle)) for angle in (1, 9, 11, 19)], abs=5e-3
    )
    assert all(match.vector is None for match in matches)


async def test_every_query_of_a_batch_gets_its_own_answer(index):
    await index.apply([point(number, angled(10 * number)) for number in range(10)], [])
    answers = await index.search(
        [
            Query(angled(0), 2),
            Query(angled(90), 1, group_by="document"),
            Query(angled(0), 0),
            Query(angled(50), 1, with_vector=True),
        ]
    )
    assert [ids(matches) for matches in answers] == [[0, 1], [9], [], [5]]
    assert answers[3][0].vector == pytest.approx(angled(50), abs=1e-2)
    assert answers[3][0].vector.dtype == np.float32


async def test_an_offset_continues_where_a_limit_ended(index):
    await index.apply([point(number) for number in range(50)], [])
    (whole,) = await index.search([Query(angled(0), 50)])
    (page,) = await index.search([Query(angled(0), 7, offset=14)])
    assert page == whole[14:21]
    assert await index.search([Query(angled(0), 5, offset=50)]) == [[]]


async def test_a_threshold_keeps_the_scores_that_reach_it(index):
    await index.apply([point(number, angled(10 * number)) for number in range(10)], [])
    (whole,) = await index.search([Query(angled(0), 10)])
    for cut in (1, 4, 9):
        query = Query(angled(0), 10, score_threshold=whole[cut].score)
        assert await index.search([query]) == [whole[: cut + 1]]
    assert await index.search([Query(angled(0), 10, score_threshold=1.1)]) == [[]]


async def test_equal_scores_come_in_the_order_of_their_ids(index):
    same = [point(number, angled(30)) for number in (7, 3, 11, 5, 2)]
    await index.apply([point(1, angled(90)), *same, point(4, angled(0))], [])
    (matches,) = await index.search([Query(angled(0), 7)])
    assert ids(matches) == [4, 2, 3, 5, 7, 11, 1]


async def test_groups_come_by_their_best_hit_and_keep_their_best(index):
    angles = {1: (0, 80), 2: (5, 6, 7), 3: (70,), 4: (60, 61)}
    numbered = [(document, angle) for document in angles for angle in angles[document]]
    await index.apply(
        [point(angle, document=document) for document, angle in numbered],
        [],
    )

    async def found(**query):
        return ids((await index.search([Query(angled(0), group_by="document", **query)]))[0])

    assert await found(limit=10) == [0, 5, 60, 70]
    assert await found(limit=2) == [0, 5]
    assert await found(limit=2, offset=1) == [5, 60]
    assert await found(limit=2, offset=9) == []
    assert await found(limit=2, group_size=2) == [0, 80, 5, 6]
    assert await found(limit=1, offset=1, group_size=10) == [5, 6, 7]
    assert await found(limit=10, where=Not(Equals("language", "en"))) == []
    assert await found(limit=10, score_threshold=math.cos(math.radians(30))) == [0, 5]


async def test_groups_by_language_look_past_a_dominant_one(index):
    many = [point(number, angled(number / 100), language="en") for number in range(900)]
    few = [point(1000 + at, angled(45 + at), language=code) for at, code in enumerate("abc")]
    await index.apply([*many, *few], [])
    (matches,) = await index.search([Query(angled(0), 3, group_by="language", group_size=2)])
    assert ids(matches) == [0, 1, 1000, 1001]
    (matches,) = await index.search([Query(angled(0), 3, group_by="language", with_vector=True)])
    assert matches[1].vector == pytest.approx(angled(45), abs=1e-2)


async def test_a_scan_pages_through_everything_in_order(index):
    numbers = [5, 900, 17, 3, 2**40, 4, 0]
    await index.apply([point(number, rev=number * 2) for number in numbers], [])
    for page in (1, 3, 7, 100):
        pages = [rows async for rows in index.scan(page=page)]
        assert all(0 < len(rows) <= page for rows in pages)
        assert [row for rows in pages for row in rows] == [(n, 2 * n) for n in sorted(numbers)]


async def test_an_empty_index_scans_to_nothing(index):
    assert [page async for page in index.scan()] == []


async def test_queries_and_writes_may_be_in_flight_together(index):
    await index.apply([point(number) for number in range(100)], [])

    async def ask(number):
        return ids((await index.search([Query(angled(number), 1)]))[0])

    answers, *_ = await asyncio.gather(
        asyncio.gather(*(ask(number) for number in range(0, 90, 3))),
        *(index.apply([point(1000 + number, unit(0, 0, 1))], []) for number in range(20)),
        index.flush(),
    )
    assert answers == [[number] for number in range(0, 90, 3)]
    assert await index.count() == 120


async def test_a_flushed_index_opens_with_everything(backend, spec, index):
    await index.apply([point(1), point(2)], [])
    await index.flush()
    assert await everything(await backend.open(spec)) == [(1, 1), (2, 1)]


async def test_a_settled_index_answers_with_everything(index):
    await index.settle()
    await index.apply([point(number) for number in range(50)], [])
    await index.settle()
    assert ids((await index.search([Query(angled(0), 50)]))[0]) == list(range(50))


async def test_an_undeclared_field_cannot_be_filtered(index):
    for clause in (Equals("nope", 1), Exists("nope"), Range("nope", gt=1)):
        with pytest.raises(UnknownField, match="nope"):
            await index.count(Not(clause))


@pytest.mark.parametrize("bound", [2**53, -(2**53), 2**63 - 1])
async def test_a_range_on_integers_refuses_bounds_that_would_be_rounded(index, bound):
    with pytest.raises(InvalidInput, match=r"2\^53"):
        await index.count(Range("a.b", lte=bound))


async def test_a_range_needs_an_order(index):
    with pytest.raises(InvalidInput, match="keyword"):
        await index.count(Range("kind", gt="a"))


keywords = st.sampled_from(["", "a", "A", "b", "é", "日本", "a b", "a\0", "true", "1", "x" * 300])
integers = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**53 - 1, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)]),
)
bounds = st.one_of(st.integers(-3, 3), st.sampled_from([2**53 - 1, 1 - 2**53]))
LEAP_DAY = datetime(2024, 2, 29, 12, tzinfo=UTC)
floats = st.one_of(
    st.sampled_from([0.0, -0.0, 0.1, 1.0, -1.5, 1e300, 5e-324, 2.0**53]),
    st.floats(allow_nan=False, allow_infinity=False),
)
instants = st.one_of(
    st.sampled_from([LEAP_DAY, LEAP_DAY + timedelta(microseconds=1)]),
    st.datetimes(),
).map(lambda moment: moment.replace(tzinfo=UTC).isoformat())
VALUES = {
    "keyword": keywords,
    "integer": integers,
    "float": floats,
    "datetime": instants,
    "boolean": st.booleans(),
}
languages = st.sampled_from(["en", "de", "und"])


def one_or_many(values):
    return st.one_of(values, st.lists(values, max_size=3))


def ranges(field, kind):
    bound = st.none() | (bounds if kind == "integer" else VALUES[kind])
    return st.builds(Range, st.just(field), gt=bound, gte=bound, lt=bound, lte=bound)


def leaves(field, kind):
    values = languages if field == filters.LANGUAGE else VALUES[kind]
    clauses = [
        st.builds(Equals, st.just(field), values),
        st.builds(In, st.just(field), st.lists(values, max_size=3)),
        st.builds(Exists, st.just(field)),
    ]
    return st.one_of(
        *clauses, *([ranges(field, kind)] if kind in {"integer", "float", "datetime"} else [])
    )


some_filter = st.recursive(
    st.one_of(*(leaves(field, kind) for field, kind in {**FIELDS, "language": "keyword"}.items())),
    lambda inner: st.one_of(
        st.builds(AllOf, st.lists(inner, max_size=3)),
        st.builds(AnyOf, st.lists(inner, max_size=3)),
        st.builds(Not, inner),
    ),
    max_leaves=6,
)
some_payload = st.tuples(
    languages,
    st.fixed_dictionaries(
        {}, optional={field: one_or_many(VALUES[kind]) for field, kind in FIELDS.items()}
    ),
)


@pytest.fixture(scope="module")
async def filtered(backend):
    return await backend.create(IndexSpec("g1-filtered", "space-a", DIMENSION, FIELDS))


@given(
    st.lists(some_payload, min_size=1, max_size=8), st.lists(some_filter, min_size=1, max_size=4)
)
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_a_filter_means_in_an_index_what_it_means_everywhere(filtered, payloads, wheres):
    before = [number for number, _ in await everything(filtered)]
    after = [
        Point(number, angled(number), 1, 0, language, values)
        for number, (language, values) in enumerate(payloads)
    ]
    await filtered.apply(after, [number for number in before if number >= len(after)])
    for where in wheres:
        expected = {
            number
            for number, (language, values) in enumerate(payloads)
            if filters.matches(where, {**values, "language": language})
        }
        (matches,) = await filtered.search([Query(angled(0), 50, where=where)])
        assert set(ids(matches)) == expected, where
        assert await filtered.count(where) == len(expected), where
