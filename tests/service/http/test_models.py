import pytest

from service.types import MigrationOptions
from tests.service.http.memory_migrations import migration


async def test_the_registry_is_listed_with_the_state_of_each_version(client, retriever):
    active, invalid = (await client.get("/models")).json()["models"]
    assert active == {
        "name": "tiny",
        "version": "1",
        "state": "active",
        "reason": "",
        "space": retriever._engine.space,
        "dimension": 16,
        "dimensions": [8, 16],
        "max_tokens": 64,
        "languages": ["de", "en"],
        "precisions": ["fp32"],
        "roles": ["query", "passage"],
        "licence": "Apache-2.0",
    }
    assert invalid["state"] == "invalid"
    assert "SHA-256" in invalid["reason"]


async def test_a_model_is_shown_with_where_it_comes_from_and_who_uses_it(client):
    listed = (await client.get("/models")).json()["models"][0]
    card = (await client.get("/models/tiny/1")).json()
    assert card == {
        **listed,
        "created": "2026-01-01T00:00:00+00:00",
        "spaces": {"fp32": listed["space"]},
        "evaluation": {"ntrex": {"de": 73.9}},
        "provenance": {
            "base_model": "none",
            "recipe": "first",
            "commit": "0" * 40,
            "data": [{"name": "tatoeba", "licence": "CC-BY-2.0-FR", "rows": 69209}],
            "tools": {"torch": "2.13"},
        },
        "generations": [{"generation": 1, "precision": "fp32", "state": "active", "live": True}],
    }


async def test_an_invalid_model_is_shown_with_the_reason(client):
    card = (await client.get("/models/tiny/0")).json()
    assert (card["state"], card["created"], card["generations"]) == ("invalid", "", [])
    assert "SHA-256" in card["reason"]


ROUTES = [("GET", ""), ("DELETE", ""), ("POST", "/verify"), ("POST", "/activate")]


@pytest.mark.parametrize(("method", "verb"), ROUTES)
async def test_a_model_that_is_not_there_is_not_found(client, method, verb):
    answer = await client.request(method, f"/models/tiny/9{verb}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(("method", "verb"), ROUTES)
@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("..", "1"),
        ("%2e%2e", "%2e%2e"),
        ("..%2f..%2fetc", "passwd"),
        ("%2Fetc", "passwd"),
        ("tiny", "..%5c1"),
        ("tiny", "1%00"),
        ("tiny", "1%0a"),
        ("Tiny", "1"),
        (".git", "1"),
        ("file:%2f%2f%2fetc", "1"),
        ("x" * 65, "1"),
        ("tiny", "%ff"),
        ("ti ny", "1"),
        ("", "1"),
    ],
)
async def test_an_attack_on_the_path_reaches_nothing(
    client, retriever, migrations, method, verb, name, version
):
    async def reached(*args, **options):
        raise AssertionError(f"{args} {options} got through")

    retriever.model = migrations.verify = migrations.remove = migrations.activate = reached
    answer = await client.request(method, f"http://service/models/{name}/{version}{verb}")
    assert answer.status_code in {404, 405, 422}
    assert answer.json()["code"] in {"route_not_found", "method_not_allowed", "validation_error"}
    assert "got through" not in answer.text


async def test_a_wrong_name_is_told_what_a_name_is(client):
    answer = await client.get("/models/Tiny/1")
    assert answer.json()["errors"] == [
        {
            "pointer": "/path/name",
            "detail": "no name in the registry: 1 to 64 of a-z, 0-9, '.', '_' and '-', a letter or a"
            " digit first: 'Tiny'",
        }
    ]


async def test_a_model_is_verified(client):
    answer = await client.post("/models/tiny/2/verify")
    assert answer.status_code == 200
    assert answer.json() == {
        "name": "tiny",
        "version": "2",
        "proofs": [
            {"precision": "fp32", "space": "5" * 32, "memory_bytes": 210 * 2**20, "seconds": 1.5}
        ],
    }


@pytest.mark.parametrize("verb", ["verify", "activate"])
async def test_a_bundle_that_breaks_the_contract_is_refused_with_the_reason(client, verb):
    answer = await client.post(f"/models/broken/1/{verb}")
    assert (answer.status_code, answer.json()["code"]) == (422, "bundle_refused")
    assert "model.onnx: wrong SHA-256" in answer.json()["detail"]


async def test_a_model_is_removed_unless_a_generation_uses_it(client, migrations):
    migrations.rows = {1: migration(1, version="1", state="active"), 2: migration(2)}
    answer = await client.delete("/models/tiny/1")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert "generation 1 uses tiny/1" in answer.json()["detail"]
    migrations.rows[1] = migration(1, version="1", state="retired")
    answer = await client.delete("/models/tiny/1")
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await client.delete("/models/tiny/1")).status_code == 404


async def test_an_activation_begins_a_migration_and_says_where_it_is_seen(client, migrations):
    answer = await client.post("/models/tiny/2/activate")
    assert answer.status_code == 202
    assert answer.headers["location"] == "/migrations/2"
    assert answer.headers["etag"] == '"3"'
    assert answer.json() == (await client.get(answer.headers["location"])).json()
    assert migrations.asked == [
        {
            "bundle": "tiny/2",
            "precision": None,
            "options": MigrationOptions(),
            "key": None,
            "epoch": None,
            "actor": "http 127.0.0.1",
        }
    ]


async def test_everything_that_may_be_asked_of_a_migration_arrives(client, migrations):
    body = {
        "precision": "int8",
        "hold": True,
        "queries_first": False,
        "override": ["latency", "recall"],
        "reason": "it is worth it",
        "passages_per_s": 100,
        "soak_s": 600,
    }
    headers = {"If-Match": '"3"', "Idempotency-Key": "a!~" + "k" * 197}
    answer = await client.post("/models/tiny/2/activate", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    (asked,) = migrations.asked
    assert (asked["precision"], asked["epoch"]) == ("int8", 3)
    assert asked["key"] == headers["Idempotency-Key"]
    assert asked["options"] == MigrationOptions(
        hold=True,
        queries_first=False,
        override=("latency", "recall"),
        reason="it is worth it",
        passages_per_s=100,
        soak_s=600,
    )
    assert answer.json()["options"] == {key: body[key] for key in body if key != "precision"}


async def test_the_same_key_is_answered_with_the_same_migration(client, migrations):
    answers = [
        await client.post("/models/tiny/2/activate", headers={"Idempotency-Key": "once"})
        for _ in range(2)
    ]
    assert [each.status_code for each in answers] == [202, 202]
    assert answers[0].headers["location"] == answers[1].headers["location"]
    again = await client.post("/models/tiny/2/activate", headers={"Idempotency-Key": "twice"})
    assert (again.status_code, again.json()["code"]) == (409, "conflict")


@pytest.mark.parametrize("key", ["", "k" * 201, "two words", "tab\there", "ключ".encode()])
async def test_a_key_that_is_none_is_refused(client, migrations, key):
    answer = await client.post("/models/tiny/2/activate", headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")
    assert answer.json()["errors"][0]["pointer"] == "/header/Idempotency-Key"
    assert "200 visible ASCII" in answer.json()["detail"]
    assert migrations.asked == []


async def test_an_activation_at_another_epoch_is_not_begun(client, migrations):
    answer = await client.post("/models/tiny/2/activate", headers={"If-Match": '"4"'})
    assert (answer.status_code, answer.json()["code"]) == (412, "epoch_mismatch")
    assert migrations.rows == {}


async def test_checks_are_overridden_only_for_a_reason(client, migrations):
    for reason in ({}, {"reason": ""}, {"reason": "  "}):
        body = {"override": ["latency"], **reason}
        answer = await client.post("/models/tiny/2/activate", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
        assert "override" in answer.json()["detail"]
        assert "reason" in answer.json()["detail"]
    assert migrations.asked == []


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"precision": "int4"}, "/precision"),
        ({"hold": "yes"}, "/hold"),
        ({"override": "latency"}, "/override"),
        ({"override": ["x"] * 33}, "/override"),
        ({"override": [""]}, "/override/0"),
        ({"override": ["x" * 65]}, "/override/0"),
        ({"override": ["nothing"], "reason": "x"}, "/override/0"),
        ({"reason": "x" * 1001}, "/reason"),
        ({"reason": "nul\0"}, "/reason"),
        ({"passages_per_s": 0}, "/passages_per_s"),
        ({"passages_per_s": 1e9}, "/passages_per_s"),
        ({"passages_per_s": True}, "/passages_per_s"),
        ({"soak_s": -1}, "/soak_s"),
        ({"soak_s": 1e8}, "/soak_s"),
        ({"path": "/models/tiny"}, "/path"),
        ({"url": "http://elsewhere/"}, "/url"),
        ([], ""),
    ],
)
async def test_a_wrong_option_is_named(client, migrations, body, pointer):
    answer = await client.post("/models/tiny/2/activate", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert migrations.rows == {}


async def test_before_the_service_is_open_no_model_is_touched(client, app):
    del app.state.retriever
    for method, verb in ROUTES:
        answer = await client.request(method, f"/models/tiny/1{verb}")
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
