import re
from http import HTTPStatus

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import errors
from service.errors import EngineFailure, Overloaded, ServiceError
from service.http.problems import KINDS, Problem, of_service, printable
from service.placing import VersionTaken

JSON = {"Content-Type": "application/json"}
KEYS = {"type", "title", "status", "detail", "instance", "code", "request_id", "errors"}


def kinds_of(error):
    yield error
    for child in error.__subclasses__():
        yield from kinds_of(child)


@pytest.mark.parametrize("error", sorted(kinds_of(ServiceError), key=lambda each: each.__name__))
def test_every_error_of_the_service_has_a_status(error):
    if error.__module__.startswith(("service.http", errors.__name__)):
        assert error.code in KINDS
    more = {"free": "2"} if error is VersionTaken else {}
    problem = of_service(error("x", **more))
    assert problem.kind.status >= 400


def test_every_code_has_a_status_and_a_sentence():
    for code, kind in KINDS.items():
        assert re.fullmatch("[a-z_]+", code)
        HTTPStatus(kind.status)
        assert kind.title.endswith(".")


def test_what_may_be_repeated_says_when():
    assert of_service(Overloaded("full", retry_after_s=9)).retry_after_s == 9
    assert of_service(errors.IndexUnavailable("gone")).retry_after_s == 2
    scope = {"path": "/search"}
    assert Problem("overloaded", "x", retry_after_s=0).response(scope).headers["retry-after"] == "1"


async def test_a_problem_has_every_documented_key(client):
    answer = await client.post("/search", json={"query": ""}, headers={"X-Request-ID": "abc"})
    problem = answer.json()
    assert problem.keys() == KEYS
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["status"] == answer.status_code == 400
    assert problem["instance"] == "/search"
    assert problem["request_id"] == answer.headers["x-request-id"] == "abc"
    assert (await client.get(problem["type"])).json()["code"] == "empty_input"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "route_not_found"),
        ("GET", "/search", 405, "method_not_allowed"),
        ("DELETE", "/embed", 405, "method_not_allowed"),
        ("GET", "/v1/nowhere", 404, "route_not_found"),
    ],
)
async def test_wrong_addresses_and_methods_are_problems_too(client, method, path, status, code):
    answer = await client.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert ("allow" in answer.headers) == (status == 405)
    assert ("error" in answer.json()) == path.startswith(("/v1/", "/embed"))


@pytest.mark.parametrize(
    ("content", "headers", "expected"),
    [
        (b"{", JSON, (400, "malformed_json")),
        (b"", JSON, (422, "validation_error")),
        (b"\xff\xfe\xfd", JSON, (400, "bad_request")),
        (b"[" * 100_000, JSON, (400, "bad_request")),
        (b"null", JSON, (422, "validation_error")),
        (b"[]", JSON, (422, "validation_error")),
        (b'{"inputs": NaN}', JSON, (422, "invalid_input")),
        (b'{"inputs": "a"}', {}, (415, "unsupported_media_type")),
        (
            b"inputs=a",
            {"Content-Type": "application/x-www-form-urlencoded"},
            (415, "unsupported_media_type"),
        ),
        (b'{"\\ud800": 1}', JSON, (422, "invalid_input")),
        (b'{"\\u0000": 1}', JSON, (422, "invalid_input")),
        (b'{"inputs": "\\ud800', JSON, (400, "malformed_json")),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused_and_the_next_is_fine(
    client, content, headers, expected
):
    answer = await client.post("/embed", content=content, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == expected
    assert (await client.post("/embed", json={"inputs": "fine"})).status_code == 200


async def test_a_refusal_never_echoes_much_of_the_input(client):
    for body in (
        {"inputs": "a", "dimensions": "y" * 100_000},
        {"inputs": "a", "y" * 100_000: 1},
        {"inputs": "a", "role": ["y" * 100_000]},
        {"inputs": [{"y": "y"}] * 2000},
        {"inputs": "a"} | {f"key{n}": n for n in range(2000)},
    ):
        answer = await client.post("/embed", json=body)
        assert answer.status_code == 422
        assert len(answer.content) < 5000


async def test_a_failure_of_the_service_says_nothing_internal_and_is_logged(
    client, retriever, log_lines
):
    retriever.failure = EngineFailure("the weights at /secret/place are broken")
    answer = await client.post("/embed", json={"inputs": "a"}, headers={"X-Request-ID": "r-1"})
    assert (answer.status_code, answer.json()["code"]) == (500, "engine_failure")
    assert "/secret" not in answer.text
    line, access = log_lines.all()
    assert (access["event"], access["code"], access["error"]) == ("request", 500, "engine_failure")
    assert (line["level"], line["request_id"], line["exception"]) == (
        "error",
        "r-1",
        "EngineFailure",
    )
    assert any("conftest.py" in frame for frame in line["frames"])


@given(st.text(st.characters(exclude_categories=[]), max_size=2000))
def test_any_text_can_be_shown(text):
    shown = printable(text)
    shown.encode()
    assert len(shown) < 6 * 501


@given(
    st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3),
    st.sampled_from(["/embed", "/search", "/v1/embeddings", "/documents/delete"]),
)
def test_no_small_object_makes_a_500(app_without_service, body, path):
    async def post():
        transport = httpx.ASGITransport(app_without_service)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.post(path, json=body)

    answer = anyio.run(post)
    assert answer.status_code in {400, 413, 422, 503}
    assert answer.json().keys() >= KEYS
