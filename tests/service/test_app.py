"""The application as a whole, in this process: real bundle, catalog, index host and HTTP surface."""

import asyncio
from contextlib import asynccontextmanager
from functools import partial

import httpx
import numpy as np
import pytest

from service.app import _first, create_app
from service.catalog import Catalog
from service.errors import NotFound
from service.registry import Registry
from service.settings import Settings
from tests.tiny_bundle import build_tiny_bundle


@asynccontextmanager
async def running(folder, **settings):
    """A client of an application over `folder`, which outlives it."""
    chosen = {"data_dir": folder / "data", "models_dir": folder / "models", "bundle": "tiny"}
    app = create_app(Settings(**{**chosen, **settings}))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://isogloss") as client:
            yield client


@pytest.fixture
async def client(tmp_path):
    build_tiny_bundle(tmp_path / "models" / "tiny" / "1", dimensions=[8, 16])
    async with running(tmp_path) as client:
        yield client


async def ready(client):
    """Wait until searches are answered: an index that was opened again is first compared."""
    for _ in range(1000):
        if (await client.get("/readyz")).status_code == 200:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("not ready")


async def put(client, *documents, collection="default"):
    answer = await client.post(
        "/documents",
        json={"collection": collection, "documents": list(documents), "wait": "visible"},
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["visible"]
    return answer.json()


async def search(client, query, **options):
    answer = await client.post("/search", json={"query": query, **options})
    assert answer.status_code == 200, answer.text
    return answer.json()


def names(answer):
    return [hit["document"] for hit in answer["hits"]]


async def test_a_text_finds_itself_first_and_the_answer_says_where_it_comes_from(client):
    await put(
        client,
        {"id": "de", "text": "Der Fluss steigt im Frühling", "language": "de", "title": "Fluss"},
        {"id": "en", "text": "bread is baked in the morning", "language": "en"},
    )
    answer = await search(client, "bread is baked in the morning", limit=1)
    (hit,) = answer["hits"]
    assert hit["document"] == "en"
    assert hit["score"] == pytest.approx(1, abs=1e-3)
    assert hit["passage"] == {"number": 0, "start": 0, "end": 29}
    assert hit["text"] == "bread is baked in the morning"
    assert (answer["bundle"], answer["generation"]) == ("tiny/1", 1)
    listed = (await client.get("/models")).json()["models"]
    assert [(model["name"], model["state"]) for model in listed] == [("tiny", "active")]
    assert answer["space"] == listed[0]["space"]


async def test_filters_languages_and_groups_narrow_a_search(client):
    fields = {"year": "integer", "tags": "keyword"}
    made = await client.post("/collections", json={"name": "news", "fields": fields})
    assert made.status_code == 201, made.text
    await put(
        client,
        {
            "id": "a",
            "text": "red apple",
            "language": "en",
            "metadata": {"year": 2001, "tags": ["x", "y"]},
        },
        {
            "id": "b",
            "text": "roter Apfel",
            "language": "de",
            "metadata": {"year": 2010, "tags": "x"},
        },
        {"id": "c", "text": "green pear", "language": "en", "metadata": {"free": True}},
        collection="news",
    )

    async def found(**options):
        return sorted(names(await search(client, "apple", collection="news", **options)))

    assert await found() == ["a", "b", "c"]
    assert await found(languages=["de"]) == ["b"]
    assert await found(filter={"field": "year", "gte": 2002}) == ["b"]
    assert await found(filter={"field": "tags", "equals": "y"}) == ["a"]
    assert await found(filter={"not": {"field": "year", "exists": True}}) == ["c"]
    assert len(await found(group_by="language")) == 2
    assert await found(languages=["de"], filter={"field": "year", "lt": 2002}) == []


async def test_collections_do_not_see_each_other(client):
    for name in ("one", "two"):
        assert (await client.post("/collections", json={"name": name})).status_code == 201
        await put(client, {"id": "same", "text": f"text of {name}"}, collection=name)
    assert [hit["text"] for hit in (await search(client, "text", collection="one"))["hits"]] == [
        "text of one"
    ]
    assert (await client.delete("/collections/one")).status_code == 204
    gone = await client.post("/search", json={"query": "text", "collection": "one"})
    assert (gone.status_code, gone.json()["code"]) == (404, "not_found")
    assert names(await search(client, "text", collection="two")) == ["same"]


async def test_a_long_document_becomes_passages_that_can_be_grouped(client):
    text = " ".join(f"Sentence number {n} tells something else." for n in range(40))
    await put(client, {"id": "long", "text": text}, {"id": "short", "text": "Sentence number 3."})
    answer = await search(client, "Sentence number 3.", limit=50)
    spans = [hit["passage"] for hit in answer["hits"] if hit["document"] == "long"]
    assert len(spans) > 5
    for hit in answer["hits"]:
        whole = text if hit["document"] == "long" else "Sentence number 3."
        assert whole[hit["passage"]["start"] : hit["passage"]["end"]] == hit["text"]
    grouped = await search(client, "Sentence number 3.", limit=50, group_by="document")
    assert sorted(names(grouped)) == ["long", "short"]
    stored = (await client.get("/documents/long")).json()
    assert stored["text"] == text
    assert len(stored["passages"]) == len(spans)


async def test_a_long_title_does_not_push_its_passages_out(client):
    title = "a very long title " * 20
    texts = {"first": "the river rises", "second": "bread is baked"}
    await put(client, *({"id": i, "title": title, "text": t} for i, t in texts.items()))
    hits = (await search(client, "bread is baked"))["hits"]
    assert len({round(hit["score"], 4) for hit in hits}) == 2, "the texts took part in the vectors"
    assert hits[0]["title"] == title.strip() or hits[0]["title"] == title


async def test_replaced_and_deleted_documents_are_no_longer_found(client):
    await put(client, *({"id": str(n), "text": f"text {n}"} for n in range(6)))
    await put(client, {"id": "0", "text": "another text"})
    assert (await search(client, "another text", limit=1))["hits"][0]["document"] == "0"
    assert (await client.delete("/documents/1")).status_code == 200
    assert (await client.delete("/documents/1")).status_code == 404
    deleted = await client.post("/documents/delete", json={"ids": ["2", "3", "unknown"]})
    assert deleted.json()["deleted"] == 2
    assert sorted(names(await search(client, "text", limit=20))) == ["0", "4", "5"]
    by_language = {"field": "language", "exists": True}
    gone = await client.post("/documents/delete", json={"filter": by_language})
    assert gone.json()["deleted"] == 3
    assert names(await search(client, "text")) == []


async def test_documents_are_listed_page_by_page(client):
    await put(client, *({"id": f"d{n}", "text": f"text {n}"} for n in range(5)))
    seen, cursor = [], None
    while True:
        query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = (await client.get("/documents", params=query)).json()
        seen += [each["id"] for each in page["documents"]]
        cursor = page["cursor"]
        if cursor is None:
            break
    assert seen == ["d0", "d1", "d2", "d3", "d4"]


async def test_vectors_may_be_cut_to_an_allowed_length_and_no_other(client):
    answer = await client.post("/embed", json={"inputs": ["one", "two"], "dimensions": 8})
    vectors = np.array(answer.json())
    assert vectors.shape == (2, 8)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)
    raw = await client.post("/embed", json={"inputs": "one", "dimensions": 8, "normalize": False})
    assert np.linalg.norm(raw.json()[0]) < 1
    refused = await client.post("/embed", json={"inputs": "one", "dimensions": 9})
    assert refused.status_code == 422
    assert "allows 8, 16" in refused.json()["detail"]
    assert refused.json()["errors"][0]["pointer"] == "/dimensions"


async def test_several_queries_are_answered_as_if_each_came_alone(client):
    await put(client, *({"id": str(n), "text": f"word{n} and more"} for n in range(5)))
    queries = ["word1 and more", "word4 and more"]
    together = (await client.post("/search", json={"queries": queries, "limit": 2})).json()
    alone = [await search(client, query, limit=2) for query in queries]
    for one, other in zip(together, alone, strict=True):
        assert names(one) == names(other)


async def test_a_bundle_that_has_int8_alone_is_served_without_a_word_of_it(tmp_path):
    bundle = build_tiny_bundle(tmp_path / "models" / "tiny" / "1", precisions=("int8",))
    async with running(tmp_path) as client:
        await put(client, {"id": "a", "text": "river"})
        assert (await search(client, "river"))["space"] == bundle.manifest.space["int8"]


async def test_the_index_decides_the_encoder_after_the_first_start(tmp_path):
    build_tiny_bundle(tmp_path / "models" / "tiny" / "1")
    async with running(tmp_path) as client:
        await put(client, {"id": "a", "text": "river"})
    build_tiny_bundle(tmp_path / "models" / "other" / "1", name="other", seed=1)
    async with running(tmp_path, bundle="other") as client:
        await ready(client)
        answer = await search(client, "river")
        assert answer["bundle"] == "tiny/1"
        assert answer["hits"][0]["score"] == pytest.approx(1, abs=1e-3)


async def test_a_service_whose_bundle_was_taken_away_does_not_start(tmp_path):
    build_tiny_bundle(tmp_path / "models" / "tiny" / "1")
    async with running(tmp_path):
        pass
    build_tiny_bundle(tmp_path / "elsewhere" / "tiny" / "1", seed=1)
    with pytest.raises(NotFound, match="no bundle of space"):
        async with running(tmp_path, models_dir=tmp_path / "elsewhere"):
            pass


async def test_without_qdrant_texts_are_embedded_and_searches_say_when_to_come_back(tmp_path):
    build_tiny_bundle(tmp_path / "models" / "tiny" / "1")
    async with running(tmp_path, qdrant_url="http://127.0.0.1:9") as client:
        assert (await client.post("/embed", json={"inputs": "x"})).status_code == 200
        answer = await client.post("/search", json={"query": "x"})
        assert (answer.status_code, answer.json()["code"]) == (503, "index_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        ready = await client.get("/readyz?verbose=true")
        assert ready.status_code == 503
        assert (await client.get("/livez")).status_code == 200
        stored = await client.post(
            "/documents", json={"documents": [{"id": "a", "text": "kept"}], "wait": "stored"}
        )
        assert stored.json()["visible"] is False
        assert (await client.get("/documents/a")).json()["text"] == "kept"


async def test_every_series_has_the_prefix_and_searches_are_counted(client):
    await put(client, {"id": "a", "text": "Der Fluss steigt im Frühling"})
    await search(client, "Der Fluss steigt")
    text = (await client.get("/metrics")).text
    series = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if line[:1] != "#"}
    ours = {name for name in series if not name.startswith(("process_", "python_"))}
    assert ours
    assert all(name.startswith("isogloss_") for name in ours)
    assert 'isogloss_search_results_total{query_language="de",result_language="de"} 1.0' in text
    assert 'isogloss_http_requests_total{code="200",method="POST",route="/search"} 1.0' in text


class Overtaken:
    """A registry in which a bundle is found so slowly that another process does its first start."""

    def __init__(self, registry, meanwhile):
        self._registry = registry
        self._meanwhile = meanwhile

    def find(self, reference):
        self._meanwhile()
        return self._registry.find(reference)


@pytest.mark.parametrize(("other", "states"), [("1", ["active"]), ("2", ["active", "aborted"])])
def test_of_processes_that_start_at_once_on_an_empty_catalog_the_first_decides(
    tmp_path, other, states
):
    for version, seed in (("1", 0), ("2", 7)):
        build_tiny_bundle(tmp_path / "models" / "tiny" / version, version=version, seed=seed)
    registry = Registry(tmp_path / "models")
    with Catalog(f"sqlite:///{tmp_path / 'catalog.db'}") as catalog:
        quick = partial(_first, Settings(bundle=f"tiny/{other}"), registry, catalog)
        _first(Settings(bundle="tiny/1"), Overtaken(registry, quick), catalog)
        assert [each.state for each in catalog.generations.list()] == states
        route = catalog.generations.route()
        assert (route.epoch, catalog.generations.get(route.active).version) == (1, other)
