import numpy as np
import pytest

from service.errors import IndexUnavailable, Overloaded

DOCUMENTS = [
    {"id": "h-de", "text": "Honig", "language": "de", "metadata": {"topic": "bees", "year": 2001}},
    {"id": "h-en", "text": "honey", "language": "en", "metadata": {"topic": "bees", "year": 2011}},
    {"id": "r-de", "text": "Fluss", "language": "de", "metadata": {"topic": "rivers"}},
]


@pytest.fixture
async def filled(client):
    await client.post("/documents", json={"documents": DOCUMENTS})
    return client


async def found(client, **body):
    answer = await client.post("/search", json={"query": "honey", **body})
    assert answer.status_code == 200, answer.text
    return [hit["document"] for hit in answer.json()["hits"]]


async def refused(client, **body):
    answer = await client.post("/search", json=body)
    assert answer.status_code in {400, 413, 422}, answer.text
    return answer.json()


async def test_an_answer_names_where_it_comes_from_and_every_hit(filled, retriever):
    answer = (await filled.post("/search", json={"query": "honey", "limit": 1})).json()
    (hit,) = answer.pop("hits")
    assert hit.pop("score") == pytest.approx(1, abs=1e-4)
    assert hit == {
        "document": "h-en",
        "passage": {"number": 0, "start": 0, "end": 5},
        "language": "en",
        "text": "honey",
        "title": "",
        "metadata": {"topic": "bees", "year": 2011},
    }
    assert answer == {
        "collection": "default",
        "generation": 1,
        "bundle": "tiny/1",
        "space": retriever._engine.space,
        "query_bundle": "tiny/1",
        "query_space": retriever._engine.space,
        "query_language": "und",
        "truncated": False,
    }


async def test_queries_give_a_list_of_answers_in_order(filled):
    answer = await filled.post("/search", json={"queries": ["honey", "Fluss"], "limit": 1})
    best = [each["hits"][0]["document"] for each in answer.json()]
    assert best == ["h-en", "r-de"]


async def test_a_list_of_one_query_gives_a_list_of_one_answer(filled):
    answer = await filled.post("/search", json={"queries": ["honey"]})
    assert len(answer.json()) == 1


async def test_limit_offset_languages_and_threshold_narrow_the_hits(filled):
    every = await found(filled)
    assert len(every) == 3
    assert await found(filled, limit=2) == every[:2]
    assert await found(filled, offset=1) == every[1:]
    assert set(await found(filled, languages=["DE"])) == {"h-de", "r-de"}
    assert await found(filled, score_threshold=0.9999) == ["h-en"]


async def test_a_filter_narrows_the_hits(filled):
    where = {"all": [{"field": "topic", "equals": "bees"}, {"field": "year", "lt": 2010}]}
    assert await found(filled, filter=where) == ["h-de"]


async def test_include_chooses_what_comes_with_a_hit(filled):
    body = {"query": "honey", "limit": 1, "include": ["vector"]}
    (hit,) = (await filled.post("/search", json=body)).json()["hits"]
    assert np.linalg.norm(hit["vector"]) == pytest.approx(1, abs=1e-5)
    assert "text" not in hit
    assert "metadata" not in hit


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/query"),
        ({"query": "a", "queries": ["b"]}, "/query"),
        ({"query": "  "}, "/query"),
        ({"query": 5}, "/query"),
        ({"query": "a\0"}, "/query"),
        ({"queries": []}, "/queries"),
        ({"queries": ["a", ""]}, "/queries/1"),
        ({"queries": ["a"] * 5}, "/queries"),
        ({"query": "a", "limit": 0}, "/limit"),
        ({"query": "a", "limit": 51}, "/limit"),
        ({"query": "a", "limit": "5"}, "/limit"),
        ({"query": "a", "offset": -1}, "/offset"),
        ({"query": "a", "offset": 101}, "/offset"),
        ({"query": "a", "languages": []}, "/languages"),
        ({"query": "a", "languages": ["de", "not a language"]}, "/languages/1"),
        ({"query": "a", "collection": "../x"}, "/collection"),
        ({"query": "a", "group_by": "author"}, "/group_by"),
        ({"query": "a", "group_size": 0}, "/group_size"),
        ({"query": "a", "score_threshold": 2}, "/score_threshold"),
        ({"query": "a", "include": ["everything"]}, "/include/0"),
        ({"query": "a", "filter": {"field": "author", "equals": "x"}}, "/filter"),
        ({"query": "a", "filter": {"field": "year", "equals": "x"}}, "/filter"),
        ({"query": "a", "filter": {}}, "/filter"),
        ({"query": "a", "tenant": "x"}, "/tenant"),
    ],
)
async def test_what_is_wrong_is_pointed_at(client, body, pointer):
    problem = await refused(client, **body)
    assert [each["pointer"] for each in problem["errors"]] == [pointer]


async def test_an_undeclared_field_is_told_which_ones_there_are(client):
    problem = await refused(client, query="a", filter={"field": "author", "equals": "x"})
    assert problem["code"] == "unknown_field"
    assert "topic" in problem["detail"]


async def test_an_unknown_collection_is_not_found(client):
    answer = await client.post("/search", json={"query": "a", "collection": "nowhere"})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("failure", "status"),
    [(IndexUnavailable("no answer", retry_after_s=7), 503), (Overloaded("full"), 429)],
)
async def test_a_failing_dependency_says_when_to_try_again(client, retriever, failure, status):
    retriever.failure = failure
    answer = await client.post("/search", json={"query": "a"})
    assert answer.status_code == status
    assert answer.headers["retry-after"] == str(failure.retry_after_s)


async def test_the_log_has_no_text_of_a_query(filled, log_lines):
    await filled.post("/search", json={"query": "a secret of mine", "limit": 2})
    line = log_lines.last()
    assert line["search_ms"] == 1
    assert (line["route"], line["code"], line["items"], line["hits"]) == ("/search", 200, 1, 2)
    assert "secret" not in log_lines.stream.getvalue()
