import pytest

from service.errors import StorageFull


async def put(client, *documents, **body):
    return await client.post("/documents", json={"documents": documents, **body})


def text(number, **more):
    return {"id": f"d{number}", "text": f"text {number}", **more}


async def test_documents_are_accepted_at_a_revision_and_can_be_read(client):
    answer = await put(client, text(1, title="One", metadata={"topic": "bees", "tags": ["a", 1]}))
    assert answer.json() == {"accepted": 1, "revision": 1, "visible": True}
    assert (await client.get("/documents/d1")).json() == {
        "id": "d1",
        "text": "text 1",
        "title": "One",
        "language": "und",
        "metadata": {"topic": "bees", "tags": ["a", 1]},
        "collection": "default",
        "passages": [{"number": 0, "start": 0, "end": 6}],
    }


async def test_a_small_write_waits_until_it_is_visible_unless_it_says_otherwise(client):
    assert (await put(client, text(1))).json()["visible"]
    assert not (await put(client, text(1), wait="stored")).json()["visible"]


@pytest.mark.parametrize("name", ["a/b", "a b?c#d", "été", "a%2Fb", "..."])
async def test_an_id_may_have_characters_that_mean_something_in_addresses(client, name):
    await put(client, {"id": name, "text": "x"})
    quoted = "".join(f"%{byte:02X}" for byte in name.encode())
    assert (await client.get(f"/documents/{quoted}")).json()["id"] == name
    assert (await client.delete(f"/documents/{quoted}")).json()["deleted"] == 1


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        ({"id": "a"}, "/documents/0/text"),
        ({"text": "a"}, "/documents/0/id"),
        ({"id": "", "text": "a"}, "/documents/0/id"),
        ({"id": "x" * 513, "text": "a"}, "/documents/0/id"),
        ({"id": "a\nb", "text": "a"}, "/documents/0/id"),
        ({"id": 5, "text": "a"}, "/documents/0/id"),
        ({"id": "a", "text": " \n"}, "/documents/0/text"),
        ({"id": "a", "text": "x" * 5001}, "/documents/0/text"),
        ({"id": "a", "text": "a\0"}, "/documents/0/text"),
        ({"id": "a", "text": "a", "title": "x" * 1001}, "/documents/0/title"),
        ({"id": "a", "text": "a", "rev": 1}, "/documents/0/rev"),
        ({"id": "a", "text": "a", "metadata": []}, "/documents/0/metadata"),
        ({"id": "a", "text": "a", "metadata": {"x": {}}}, "/documents/0/metadata/x"),
        ({"id": "a", "text": "a", "metadata": {"x": [[]]}}, "/documents/0/metadata/x"),
        ({"id": "a", "text": "a", "metadata": {"x/y": 2**63}}, "/documents/0/metadata/x~1y"),
        ({"id": "a", "text": "a", "metadata": {"": 1}}, "/documents/0/metadata"),
        (
            {"id": "a", "text": "a", "metadata": dict.fromkeys(map(str, range(65)))},
            "/documents/0/metadata",
        ),
        ({"id": "a", "text": "a", "metadata": {"year": "x"}}, "/documents/0/metadata/year"),
        ({"id": "a", "text": "a", "metadata": {"k\0": 1}}, "/documents/0/metadata"),
    ],
)
async def test_what_is_wrong_in_a_document_is_pointed_at(client, document, pointer):
    answer = await put(client, document)
    assert answer.status_code in {400, 413, 422}
    assert answer.json()["errors"][0]["pointer"] == pointer


async def test_infinite_metadata_is_refused(client):
    body = b'{"documents": [{"id": "a", "text": "b", "metadata": {"x": 1e999}}]}'
    answer = await client.post(
        "/documents", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.json()["errors"][0]["pointer"] == "/documents/0/metadata/x"


async def test_an_id_may_come_once_in_a_request(client):
    answer = await put(client, text(1), text(2), text(1))
    assert answer.json()["errors"][0]["pointer"] == "/documents/2/id"
    assert "/documents/0" in answer.json()["detail"]


async def test_no_documents_and_too_many_are_refused(client):
    assert (await put(client)).status_code == 422
    answer = await put(client, *map(text, range(21)))
    assert answer.status_code == 413
    assert "ISOGLOSS_MAX_DOCUMENTS" in answer.json()["detail"]


async def test_a_full_disk_is_a_503(client, retriever):
    retriever.failure = StorageFull("no space left")
    answer = await put(client, text(1))
    assert (answer.status_code, answer.json()["code"]) == (503, "storage_full")
    assert answer.headers["retry-after"] == "2"


async def test_a_list_comes_in_pages(client):
    await put(client, *map(text, range(5)))
    seen, cursor = [], None
    while True:
        params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/documents", params=params)).json()
        seen += page["documents"]
        cursor = page["cursor"]
        if cursor is None:
            break
    assert [each["id"] for each in seen] == [f"d{n}" for n in range(5)]
    assert seen[0] == {
        "id": "d0",
        "title": "",
        "language": "und",
        "metadata": {},
        "characters": 6,
        "passages": 1,
    }


@pytest.mark.parametrize("limit", ["0", "21", "x"])
async def test_a_page_has_bounds(client, limit):
    answer = await client.get("/documents", params={"limit": limit})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/query/limit"


async def test_a_missing_document_is_not_found_whatever_is_asked_of_it(client):
    assert (await client.get("/documents/nobody")).status_code == 404
    assert (await client.delete("/documents/nobody")).status_code == 404
    assert (await client.get("/documents/")).status_code in {404, 422}


async def test_documents_are_deleted_by_id(client):
    await put(client, text(1), text(2))
    answer = await client.post("/documents/delete", json={"ids": ["d1", "nobody"]})
    assert answer.json() == {"deleted": 1, "revision": 3, "visible": True}
    assert (await client.get("/documents/d1")).status_code == 404


async def test_documents_are_deleted_by_filter(client):
    await put(client, text(1, metadata={"year": 1}), text(2, metadata={"year": 2}))
    where = {"field": "year", "gte": 2}
    answer = await client.post("/documents/delete", json={"filter": where})
    assert answer.json()["deleted"] == 1
    assert (await client.get("/documents/d1")).status_code == 200


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/ids"),
        ({"ids": ["a"], "filter": {"all": []}}, "/ids"),
        ({"ids": ["a", ""]}, "/ids/1"),
        ({"ids": ["a"] * 21}, "/ids"),
        ({"filter": {"field": "nothing", "exists": True}}, "/filter"),
    ],
)
async def test_a_deletion_that_says_nothing_clear_is_refused(client, body, pointer):
    answer = await client.post("/documents/delete", json=body)
    assert answer.json()["errors"][0]["pointer"] == pointer


async def test_a_name_that_no_collection_can_have_is_refused(client):
    answer = await client.get("/documents/a", params={"collection": "../../etc"})
    assert answer.json()["errors"][0]["pointer"] == "/query/collection"


async def test_a_cursor_that_is_none_is_pointed_at(client):
    answer = await client.get("/documents", params={"cursor": "zzz"})
    assert answer.json()["errors"][0]["pointer"] == "/query/cursor"
