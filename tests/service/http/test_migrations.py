import anyio
import httpx
import orjson
import pytest

from service.errors import IndexUnavailable
from service.types import GateCheck
from tests.service.http.memory_migrations import migration, report

LIVE = {"state": "active", "live": True, "epoch": 4}


def events(text):
    """The events of a stream as (name, id, data)."""
    for block in text.split("\n\n"):
        lines = [line.split(": ", 1) for line in block.splitlines() if not line.startswith(":")]
        if lines:
            fields = dict(lines)
            yield fields["event"], fields.get("id"), orjson.loads(fields["data"])


async def test_all_migrations_are_listed_with_the_newest_first(client, migrations):
    assert (await client.get("/migrations")).json() == {"migrations": []}
    migrations.rows = {1: migration(1, state="retired"), 2: migration(2)}
    answer = await client.get("/migrations")
    assert [each["generation"] for each in answer.json()["migrations"]] == [2, 1]
    assert (answer.headers["etag"], answer.headers["cache-control"]) == ('"3"', "no-store")


async def test_one_migration_is_seen_whole(client, migrations):
    migrations.rows[2] = migration(report=report(), shadow={"overlap": 0.9})
    answer = await client.get("/migrations/2")
    assert (answer.headers["etag"], answer.headers["cache-control"]) == ('"3"', "no-store")
    body = answer.json()
    recall = body.pop("report")["checks"][1]
    assert recall == {
        "name": "recall",
        "ok": True,
        "detail": "0.91 and 0.90 before",
        "overridable": True,
        "measures": {"de-en": {"new": 0.91, "old": 0.9}, "en-ja": {"new": 0.72, "old": 0.7}},
    }
    assert body == {
        "generation": 2,
        "bundle": "tiny",
        "version": "2",
        "precision": "fp32",
        "space": "5" * 32,
        "state": "registered",
        "paused": False,
        "live": False,
        "epoch": 3,
        "created": "2026-01-31T10:00:00Z",
        "changed": "2026-01-31T10:00:00Z",
        "error": "",
        "options": {
            "hold": False,
            "queries_first": True,
            "override": [],
            "reason": "",
            "passages_per_s": None,
            "soak_s": None,
        },
        "collections": [
            {"name": "default", "state": "building", "applied": 120, "total": 900, "error": ""}
        ],
        "applied": 120,
        "total": 900,
        "passages_per_s": 60.0,
        "remaining_s": 13.0,
        "asking": False,
        "compatible": None,
        "shadow": {"overlap": 0.9},
        "soak_until": None,
        "pods": [{"id": "pod-1", "seen_s_ago": 0.5, "epoch": 3, "loaded": True, "refused": ""}],
    }


async def test_a_number_that_is_none_is_null_to_clients(client, migrations):
    measures = {"de": float("nan"), "en": [float("inf")]}
    check = GateCheck("bias", ok=False, detail="", overridable=True, measures=measures)
    migrations.rows[2] = migration(report=report(checks=[check]), remaining_s=float("inf"))
    body = (await client.get("/migrations/2")).json()
    assert body["remaining_s"] is None
    assert body["report"]["checks"][0]["measures"] == {"de": None, "en": [None]}


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_generation_that_is_not_there_is_not_found(client, method):
    for path in {"GET": ["", "/events"], "POST": ["/pause", "/rollback"]}[method]:
        answer = await client.request(method, f"/migrations/7{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert "7" in answer.json()["detail"]


@pytest.mark.parametrize("number", ["0", "-1", "x", "9" * 30, "1.5", "..%2f1", "%00"])
async def test_what_is_no_number_of_a_generation_is_refused(client, migrations, number):
    migrations.rows[2] = migration()
    for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/pause")):
        answer = await client.request(method, f"/migrations/{number}{path}")
        assert answer.status_code in {404, 405, 422}
        assert answer.json()["code"] != "not_found"


@pytest.mark.parametrize(
    ("step", "state"),
    [
        ("pause", "building"),
        ("resume", "building"),
        ("abort", "verifying"),
        ("cut-over", "ready"),
        ("rollback", "active"),
        ("finish", "active"),
    ],
)
async def test_every_step_is_taken_and_answered_with_the_migration(client, migrations, step, state):
    migrations.rows[2] = migration(state=state)
    migrations.after_step[step] = {"changed": "2026-01-31T11:00:00Z"}
    answer = await client.post(f"/migrations/2/{step}", headers={"If-Match": '"3"'})
    assert answer.status_code == 202
    assert answer.json()["changed"] == "2026-01-31T11:00:00Z"
    assert answer.headers["etag"] == '"3"'
    assert migrations.asked == [
        {"step": step, "generation": 2, "epoch": 3, "actor": "http 127.0.0.1"}
    ]


async def test_a_step_that_the_state_does_not_allow_is_a_conflict_that_says_so(client, migrations):
    migrations.rows[2] = migration(state="building")
    answer = await client.post("/migrations/2/rollback")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert "building, not active" in answer.json()["detail"]


async def test_an_unknown_step_names_those_that_there_are(client, migrations):
    migrations.rows[2] = migration()
    for step in ("explode", "events", "cut_over"):
        answer = await client.post(f"/migrations/2/{step}")
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
        assert "'cut-over'" in answer.json()["detail"]


@pytest.mark.parametrize("given", ['"3"', "3", "*", ' "3" '])
async def test_a_step_at_the_epoch_that_was_seen_is_taken(client, migrations, given):
    migrations.rows[2] = migration()
    answer = await client.post("/migrations/2/pause", headers={"If-Match": given})
    assert answer.status_code == 202
    assert migrations.asked[0]["epoch"] == (None if given == "*" else 3)


async def test_a_step_at_another_epoch_is_not_taken(client, migrations):
    migrations.rows[2] = migration()
    answer = await client.post("/migrations/2/pause", headers={"If-Match": '"2"'})
    assert (answer.status_code, answer.json()["code"]) == (412, "epoch_mismatch")
    assert "epoch 3, not 2" in answer.json()["detail"]


@pytest.mark.parametrize("given", ['W/"3"', '"3', "'3'", '"3", "4"', "-3", "three", "9" * 19, ""])
async def test_an_if_match_that_is_no_epoch_is_refused(client, migrations, given):
    migrations.rows[2] = migration()
    answer = await client.post("/migrations/2/pause", headers={"If-Match": given})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert answer.json()["errors"][0]["pointer"] == "/header/If-Match"
    assert migrations.asked == []


async def test_events_follow_a_migration_to_its_rest_and_then_end(client, migrations):
    migrations.rows[2] = migration()
    migrations.script = [{"state": "building", "applied": 900}, {"state": "verifying"}, LIVE]
    answer = await client.get("/migrations/2/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-accel-buffering"] == "no"
    *told, end = events(answer.text)
    assert end == ("end", None, {})
    assert [(name, number) for name, number, _ in told] == [
        ("migration", str(number)) for number in (1, 2, 3, 4)
    ]
    states = [data["state"] for _, _, data in told]
    assert states == ["registered", "building", "verifying", "active"]
    assert told[-1][2] == (await client.get("/migrations/2")).json()


async def test_a_text_with_line_breaks_stays_one_event(client, migrations):
    migrations.rows[2] = migration(state="failed", error="first\nsecond\r\n\nevent: migration")
    told = list(events((await client.get("/migrations/2/events")).text))
    assert [name for name, _, _ in told] == ["migration", "end"]
    assert told[0][2]["error"] == "first\nsecond\r\n\nevent: migration"


async def test_a_watch_that_fails_says_why_in_its_last_event(client, migrations):
    migrations.rows[2] = migration()
    migrations.script = [IndexUnavailable("the index does not answer")]
    _, (name, _, problem) = events((await client.get("/migrations/2/events")).text)
    assert (name, problem["code"], problem["status"]) == ("problem", "index_unavailable", 503)
    assert problem["instance"] == "/migrations/2/events"


async def test_a_stream_ends_when_the_service_does(app, client, migrations):
    migrations.rows[2] = migration()
    app.state.draining = True
    with anyio.fail_after(30):
        answer = await client.get("/migrations/2/events")
    assert "event: end" not in answer.text
    assert migrations.rows[2].state == "registered"


async def test_a_stream_that_waits_ends_when_the_service_does(app, address, migrations):
    migrations.rows[2] = migration()
    with anyio.fail_after(30):
        async with (
            httpx.AsyncClient(base_url=address) as client,
            client.stream("GET", "/migrations/2/events") as answer,
        ):
            lines = answer.aiter_lines()
            assert await anext(lines) == "event: migration"
            app.state.draining = True
            assert "event: end" not in [line async for line in lines]
        await migrations.unwatched.wait()


async def test_a_client_that_leaves_is_watched_for_no_longer(address, migrations, log_lines):
    migrations.rows[2] = migration()
    async with (
        httpx.AsyncClient(base_url=address) as client,
        client.stream("GET", "/migrations/2/events") as answer,
    ):
        assert await anext(answer.aiter_lines()) == "event: migration"
    with anyio.fail_after(30):
        await migrations.unwatched.wait()
        await anyio.wait_all_tasks_blocked()
    line = log_lines.last()
    assert (line["route"], line["generation"]) == ("/migrations/{generation}/events", 2)
    assert line["client_left"]


async def test_before_the_service_is_open_there_are_no_migrations(client, app):
    del app.state.retriever
    for method, path in (("GET", ""), ("GET", "/2"), ("GET", "/2/events"), ("POST", "/2/pause")):
        answer = await client.request(method, f"/migrations{path}")
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")


async def test_a_wait_for_the_catalog_says_when_to_come_again(client, migrations):
    migrations.failure = IndexUnavailable("the catalog does not answer", retry_after_s=3)
    answer = await client.get("/migrations")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
