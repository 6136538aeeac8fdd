import asyncio
import re

import anyio
import anyio.lowlevel
import httpx
import pytest
from starlette.responses import PlainTextResponse

JSON = {"Content-Type": "application/json"}


async def test_a_request_id_is_taken_if_it_is_harmless_and_made_if_not(client):
    for given, kept in (("abc-1.X_", True), ("a b", False), ("x" * 65, False), ("", False)):
        answer = await client.get("/livez", headers={"X-Request-ID": given})
        assert (answer.headers["x-request-id"] == given) == kept
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", answer.headers["x-request-id"])


async def test_the_response_says_where_its_time_went(client):
    answer = await client.post("/embed", json={"inputs": "a"})
    assert re.fullmatch(r"encode;dur=[0-9.]+, total;dur=[0-9.]+", answer.headers["server-timing"])


async def test_a_declared_body_over_the_limit_is_refused_before_it_is_read(client, metrics):
    answer = await client.post("/embed", content=b"x" * 200_001, headers=JSON)
    assert answer.status_code == 413
    assert "200001" in answer.json()["detail"]
    assert "ISOGLOSS_MAX_BODY_BYTES" in answer.json()["detail"]
    assert answer.headers["connection"] == "close"
    assert metrics.rejected_requests.labels("body_too_large")._value.get() == 1


async def test_an_undeclared_body_is_counted_while_it_streams(client):
    sent = 0

    async def endless():
        nonlocal sent
        while True:
            sent += 10_000
            yield b" " * 10_000
            await anyio.lowlevel.checkpoint()

    answer = await client.post(
        "/embed", content=endless(), headers={**JSON, "Expect": "100-continue"}
    )
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert sent < 300_000


async def test_a_client_that_is_still_sending_gets_its_answer(address):
    async def much():
        for _ in range(100):
            yield b" " * 10_000

    async with httpx.AsyncClient(base_url=address) as client:
        for content in (much(), b" " * 1_000_000):
            answer = await client.post("/embed", content=content, headers=JSON)
            assert answer.status_code == 413


async def test_the_access_line_has_the_facts_and_no_text(client, log_lines):
    await client.post(
        "/embed",
        json={"inputs": ["my secret", "b" * 100], "role": "query"},
        headers={"X-Request-ID": "r-1"},
    )
    line = log_lines.last()
    assert line.pop("ms") > 0
    assert line.pop("encode_ms") >= 0
    assert line.pop("time")
    assert line == {
        "event": "request",
        "level": "info",
        "request_id": "r-1",
        "route": "/embed",
        "method": "POST",
        "code": 200,
        "items": 2,
        "lane": "query",
        "tokens": 11 + 64,
        "truncated": 1,
        "bundle": "tiny/1",
    }
    assert "secret" not in log_lines.stream.getvalue()


async def test_a_refusal_is_one_access_line_with_its_code(client, log_lines):
    await client.post("/embed", json={"inputs": "my secret", "role": "my secret"})
    await client.get("/documents/my-secret")
    assert [line["error"] for line in log_lines.all()] == ["validation_error", "not_found"]
    assert "secret" not in log_lines.stream.getvalue()


async def test_probes_are_only_logged_for_debugging(client, log_lines):
    await client.get("/livez")
    assert log_lines.last()["level"] == "debug"


async def test_strange_methods_do_not_make_series(client, metrics):
    await client.request("BREW", "/embed")
    assert metrics.http_requests.labels("/embed", "other", "405")._value.get() == 1


async def test_a_bug_is_a_500_with_the_request_id_and_a_traceback_in_the_log(
    client, retriever, log_lines
):
    retriever.failure = ZeroDivisionError("in the middle of my secret " + "x" * 1000)
    answer = await client.post("/search", json={"query": "a"}, headers={"X-Request-ID": "r-9"})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.json()["request_id"] == answer.headers["x-request-id"] == "r-9"
    assert "secret" not in answer.text
    line = log_lines.all()[-2]
    assert (line["request_id"], line["exception"]) == ("r-9", "ZeroDivisionError")
    assert len(line["message"]) <= 200


async def test_a_bug_after_the_first_byte_is_logged_with_the_status_that_was_sent(
    app, client, log_lines
):
    async def broken(scope, receive, send):
        await PlainTextResponse("half")(scope, receive, send)
        raise RuntimeError("too late")

    app.mount("/broken", broken)
    assert (await client.get("/broken/")).status_code == 200
    failure, access = log_lines.all()
    assert (access["code"], failure["exception"]) == (200, "RuntimeError")


async def test_other_protocols_pass_unseen(app, log_lines):
    told = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        told.append(message["type"])

    scope = {"type": "websocket", "path": "/x", "headers": [], "query_string": b""}
    await app({**scope, "subprotocols": []}, receive, send)
    assert told == ["websocket.close"]
    assert log_lines.all() == []


class Waiting:
    """A retriever whose work never ends, and that tells when it was begun and cancelled."""

    def __init__(self):
        self.begun = anyio.Event()
        self.cancelled = anyio.Event()

    async def embed(self, *args, **kwargs):
        self.begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


async def test_work_for_a_client_that_hangs_up_is_cancelled(app, address, metrics, log_lines):
    waiting = app.state.retriever = Waiting()
    async with httpx.AsyncClient(base_url=address) as client, anyio.create_task_group() as group:

        async def ask():
            await client.post("/embed", json={"inputs": "a"})

        group.start_soon(ask)
        await waiting.begun.wait()
        group.cancel_scope.cancel()
    with anyio.fail_after(5):
        await waiting.cancelled.wait()
        await anyio.wait_all_tasks_blocked()
    assert log_lines.last()["code"] == 499
    assert log_lines.last()["client_left"]
    assert metrics.inflight_requests.labels("/embed")._value.get() == 0


@pytest.mark.parametrize("length", [b"50", b"300000"])
async def test_a_client_that_hangs_up_while_it_sends_is_let_go(app, log_lines, length):
    messages = [
        {"type": "http.request", "body": b'{"inp', "more_body": True},
        {"type": "http.disconnect"},
    ]
    answers = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        answers.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "method": "POST",
        "path": "/embed",
        "headers": [(b"content-type", b"application/json"), (b"content-length", length)],
        "query_string": b"",
    }
    await app(scope, receive, send)
    assert answers == []
    assert (log_lines.last()["code"], log_lines.last()["client_left"]) == (499, True)


async def test_reading_on_after_the_body_is_waiting_for_the_end(app, address, log_lines):
    begun, ended = anyio.Event(), anyio.Event()

    async def greedy(scope, receive, send):
        await receive()
        begun.set()
        try:
            await receive()
        finally:
            ended.set()

    app.mount("/greedy", greedy)
    async with httpx.AsyncClient(base_url=address) as client, anyio.create_task_group() as group:
        group.start_soon(client.get, "/greedy/")
        await begun.wait()
        group.cancel_scope.cancel()
    with anyio.fail_after(5):
        await ended.wait()


async def test_a_client_that_hangs_up_during_a_bulk_load_ends_it(app, address, retriever):
    async def lines():
        for number in range(300):
            yield b'{"id": "%d", "text": "x"}\n' % number
        await retriever.has_put.wait()
        raise ConnectionError("gone")

    async with httpx.AsyncClient(base_url=address) as client:
        with pytest.raises(ConnectionError):
            await client.post("/documents/bulk", content=lines())
    with anyio.fail_after(5):
        await anyio.wait_all_tasks_blocked()
    assert retriever.puts == [256]
