import pytest


async def test_a_collection_is_made_seen_listed_and_dropped(client):
    made = await client.post("/collections", json={"name": "news", "fields": {"year": "integer"}})
    assert made.status_code == 201
    assert made.json() == {
        "name": "news",
        "fields": {"year": "integer"},
        "documents": 0,
        "passages": 0,
        "languages": {"und": 0},
        "revision": 0,
        "lag": 0,
    }
    assert (await client.get("/collections/news")).json() == made.json()
    listed = (await client.get("/collections")).json()["collections"]
    assert [each["name"] for each in listed] == ["default", "news"]
    assert (await client.delete("/collections/news")).status_code == 204
    assert (await client.get("/collections/news")).status_code == 404
    assert (await client.delete("/collections/news")).status_code == 404


async def test_making_it_again_with_other_fields_is_a_conflict(client):
    await client.post("/collections", json={"name": "news"})
    assert (await client.post("/collections", json={"name": "news"})).status_code == 201
    other = await client.post("/collections", json={"name": "news", "fields": {"x": "float"}})
    assert (other.status_code, other.json()["code"]) == (409, "conflict")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/name"),
        ({"name": ""}, "/name"),
        ({"name": "a/b"}, "/name"),
        ({"name": ".hidden"}, "/name"),
        ({"name": "x" * 65}, "/name"),
        ({"name": "a", "fields": {"x": "text"}}, "/fields/x"),
        ({"name": "a", "fields": {"language": "keyword"}}, "/fields/language"),
        ({"name": "a", "fields": {"a b": "keyword"}}, "/fields/a b"),
        ({"name": "a", "fields": {f"f{n}": "float" for n in range(65)}}, "/fields"),
        ({"name": "a", "dimension": 5}, "/dimension"),
    ],
)
async def test_a_collection_that_cannot_be_is_refused(client, body, pointer):
    answer = await client.post("/collections", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer
