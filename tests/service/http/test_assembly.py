import pytest

ROUTES = {
    "/search": {"post"},
    "/embed": {"post"},
    "/documents": {"post", "get"},
    "/documents/bulk": {"post"},
    "/documents/delete": {"post"},
    "/documents/{id}": {"get", "delete"},
    "/collections": {"post", "get"},
    "/collections/{name}": {"get", "delete"},
    "/models": {"get"},
    "/v1/embeddings": {"post"},
    "/v1/models": {"get"},
    "/v1/models/{model}": {"get"},
    "/livez": {"get"},
    "/readyz": {"get"},
    "/startupz": {"get"},
    "/health": {"get"},
    "/info": {"get"},
    "/metrics": {"get"},
}


@pytest.fixture
async def schema(client):
    return (await client.get("/openapi.json")).json()


async def test_the_schema_names_every_route(schema):
    paths = {path: set(methods) for path, methods in schema["paths"].items()}
    assert paths == ROUTES
    assert schema["info"]["title"] == "Isogloss"


async def test_every_operation_has_a_summary_a_tag_and_the_shape_of_its_problems(schema):
    for methods in schema["paths"].values():
        for operation in methods.values():
            assert operation["summary"]
            assert len(operation["tags"]) == 1
            problem = operation["responses"]["default"]["content"]["application/problem+json"]
            assert problem["schema"] == {"$ref": "#/components/schemas/ProblemDocument"}
            assert "422" not in operation["responses"]


async def test_every_reference_leads_somewhere(schema):
    def references(part):
        if isinstance(part, dict):
            if "$ref" in part:
                yield part["$ref"]
            for each in part.values():
                yield from references(each)
        elif isinstance(part, list):
            for each in part:
                yield from references(each)

    known = schema["components"]["schemas"]
    assert {each.removeprefix("#/components/schemas/") for each in references(schema)} <= set(known)


async def test_every_body_has_an_example_that_is_accepted(client, schema):
    for path in ("/embed", "/search", "/documents", "/documents/delete", "/collections"):
        body = schema["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        name = body["$ref"].rsplit("/", 1)[1]
        for example in schema["components"]["schemas"][name]["examples"]:
            answer = await client.post(path, json=example)
            assert answer.status_code < 300, answer.text


async def test_the_pages_that_need_the_internet_are_gone(client):
    assert (await client.get("/redoc")).status_code == 404
    assert "cdn" not in (await client.get("/docs")).text


async def test_the_schema_is_made_once(client, schema):
    assert (await client.get("/openapi.json")).json() == schema
