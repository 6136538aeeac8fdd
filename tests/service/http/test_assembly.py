import pytest

from service.http.migrations import MigrationBody
from service.http.models import ActivateBody

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
    "/models/{name}/{version}": {"get", "delete"},
    "/models/{name}/{version}/verify": {"post"},
    "/models/{name}/{version}/activate": {"post"},
    "/migrations": {"get"},
    "/migrations/{generation}": {"get"},
    "/migrations/{generation}/events": {"get"},
    "/migrations/{generation}/{step}": {"post"},
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


async def test_what_a_route_may_refuse_is_a_problem_too_and_never_the_frameworks_own(schema):
    for methods in schema["paths"].values():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                if status.startswith("4"):
                    assert list(answer["content"]) == ["application/problem+json"]
                    assert answer["description"].endswith(".")
    assert "HTTPValidationError" not in schema["components"]["schemas"]


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


async def test_a_migration_is_documented_with_its_refusals_and_headers(schema):
    paths = schema["paths"]
    activate = paths["/models/{name}/{version}/activate"]["post"]
    assert {"202", "404", "409", "412", "422"} < set(activate["responses"])
    assert set(activate["responses"]["202"]["headers"]) == {"Location", "ETag"}
    assert {each["name"] for each in activate["parameters"]} == {
        *("name", "version", "If-Match", "Idempotency-Key")
    }
    step = paths["/migrations/{generation}/{step}"]["post"]
    assert {"202", "404", "409", "412", "422"} < set(step["responses"])
    for operation in (activate, step):
        content = operation["responses"]["202"]["content"]["application/json"]
        assert content["schema"] == {"$ref": "#/components/schemas/MigrationBody"}
    events = paths["/migrations/{generation}/events"]["get"]["responses"]["200"]["content"]
    assert list(events) == ["text/event-stream"]
    for path, methods in paths.items():
        if path.startswith("/migrations"):
            assert all(each["tags"] == ["migrations"] for each in methods.values())
    shapes = schema["components"]["schemas"]
    MigrationBody.model_validate(shapes["MigrationBody"]["examples"][0])
    for example in shapes["ActivateBody"]["examples"]:
        ActivateBody.model_validate(example).options()


async def test_the_pages_that_need_the_internet_are_gone(client):
    assert (await client.get("/redoc")).status_code == 404
    assert "cdn" not in (await client.get("/docs")).text


async def test_the_schema_is_made_once(client, schema):
    assert (await client.get("/openapi.json")).json() == schema
