"""A swap from end to end in this process: real bundles, catalog, index host and HTTP surface."""

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from service.bundle import Bundle, write_bundle
from service.encoder import Encoder
from tests.service.test_app import names, put, ready, running, search
from tests.tiny_bundle import build_tiny_bundle, declared

WORDS = ["river", "mountain", "bread", "window", "music", "winter", "garden", "letter"]
FAST = {"soak_s": 60, "gate_samples_per_language": 8, "laggards_s": 1}


def documents(count):
    return [
        {"id": f"d{n}", "text": f"{WORDS[n % 8]} {WORDS[n // 8 % 8]} {n}", "language": "en"}
        for n in range(count)
    ]


@pytest.fixture
def folder(tmp_path):
    for version, seed in (("1", 0), ("2", 7)):
        build_tiny_bundle(tmp_path / "models" / "tiny" / version, version=version, seed=seed)
    return tmp_path


@pytest.fixture
async def client(folder):
    async with running(folder, bundle="tiny/1", **FAST) as client:
        await put(client, *documents(40))
        yield client


async def activate(client, version="2", *, headers=None, **options):
    answer = await client.post(
        f"/models/tiny/{version}/activate", json=options, headers=headers or {}
    )
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/migrations/{answer.json()['generation']}"
    return answer.json()["generation"]


async def step(client, generation, step, status=202):
    answer = await client.post(f"/migrations/{generation}/{step}")
    assert answer.status_code == status, answer.text
    return answer.json()


async def reach(client, generation, *states, within_s=30):
    seen = {}
    async with asyncio.timeout(within_s):
        while seen.get("state") not in states:
            seen = (await client.get(f"/migrations/{generation}")).json()
            if seen["state"] in {"failed", "aborted"} and seen["state"] not in states:
                raise AssertionError(f"{seen['state']}: {seen['error']}")
            await asyncio.sleep(0.02)
    return seen


@asynccontextmanager
async def searched(client, folder, pairs=None):
    """Ask all the time, and check every answer: each hit's score is that of the encoders it names.

    `pairs` takes the bundles that embedded query and passages.
    """
    encoders = {
        f"tiny/{version.name}": Encoder.open(Bundle.open(version), precision="fp32", threads=1)
        for version in sorted((folder / "models" / "tiny").iterdir())
    }
    answers, stop = [], asyncio.Event()
    pairs = set() if pairs is None else pairs

    async def ask():
        number = 0
        while not stop.is_set():
            number += 1
            query = f"{WORDS[number % 8]} {number}"
            answer = await search(client, query, limit=5)
            encoder, asker = encoders[answer["bundle"]], encoders[answer["query_bundle"]]
            assert (answer["space"], answer["query_space"]) == (encoder.space, asker.space)
            [asked] = asker.infer(asker.tokenize([query], "query"))
            for hit in answer["hits"]:
                [stored] = encoder.infer(encoder.tokenize([hit["text"]], "passage"))
                assert hit["score"] == pytest.approx(float(asked @ stored), abs=0.02)
            answers.append((answer["generation"], len(answer["hits"])))
            pairs.add((answer["query_bundle"], answer["bundle"]))
            await asyncio.sleep(0.01)

    asking = asyncio.create_task(ask())
    try:
        yield answers
    finally:
        stop.set()
        await asking


async def until(holds, within_s=20):
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)


async def both_open(client):
    """Wait until the generation before is open again beside the live one."""
    async with asyncio.timeout(20):
        while True:
            listed = (await client.get("/migrations")).json()["migrations"]
            open_here = [each for each in listed if each["pods"] and each["pods"][0]["loaded"]]
            if len(open_here) == 2:
                return
            await asyncio.sleep(0.05)


async def test_a_retrained_encoder_takes_over_while_it_serves_and_can_be_taken_back(client, folder):
    before = await search(client, "river bread 2", limit=3)
    async with searched(client, folder) as answers:
        generation = await activate(client)
        live = await reach(client, generation, "active")
        assert live["live"]
        assert live["report"]["passed"]
        after = await search(client, "river bread 2", limit=3)
        assert (after["bundle"], after["generation"]) == ("tiny/2", generation)
        assert after["space"] != before["space"]
        rolled = await step(client, generation, "rollback")
        assert rolled["state"] == "soaking"
        again = await search(client, "river bread 2", limit=3)
        assert (again["bundle"], again["generation"]) == ("tiny/1", before["generation"])
        assert names(again) == names(before)
        forth = await step(client, generation, "rollback")  # and back is forth again
        assert (forth["state"], forth["live"]) == ("active", True)
        assert (await search(client, "river", limit=1))["generation"] == generation
    assert {each for each, _ in answers} == {before["generation"], generation}
    assert all(hits for _, hits in answers)


async def test_what_is_written_during_a_migration_is_found_after_it_and_what_is_deleted_is_not(
    client,
):
    generation = await activate(client, hold=True)
    ids = []
    for number in range(60):
        await put(client, {"id": f"new{number}", "text": f"written late {number}"})
        ids.append(f"new{number}")
        if number % 3 == 0:
            gone = await client.post("/documents/delete", json={"ids": [f"d{number % 40}"]})
            assert gone.status_code == 200
        await put(client, {"id": "edited", "text": f"edition {number}"})
    await reach(client, generation, "ready")
    await step(client, generation, "cut-over")
    await reach(client, generation, "active")
    found = await search(client, "written late", limit=200)
    assert found["generation"] == generation
    held = {hit["document"]: hit["text"] for hit in found["hits"]}
    expected = {f"d{n}" for n in range(40)} - {f"d{n % 40}" for n in range(0, 60, 3)}
    assert held.keys() == expected | set(ids) | {"edited"}
    assert held["edited"] == "edition 59"
    await step(client, generation, "rollback")
    back = await search(client, "written late", limit=200)
    assert {hit["document"]: hit["text"] for hit in back["hits"]} == held


async def test_after_the_soak_the_generation_before_is_gone_with_its_indexes(client, folder):
    generation = await activate(client)
    await reach(client, generation, "active")
    refused = await client.post("/models/tiny/1/activate")
    assert refused.status_code == 409
    assert "soaks" in refused.json()["detail"]
    removed = await client.delete("/models/tiny/1")
    assert removed.status_code == 409
    assert "generation 1, which is soaking" in removed.json()["detail"]
    await step(client, generation, "finish")
    await reach(client, 1, "retired")
    indexes = sorted(path.name for path in (folder / "data" / "index").glob("g*"))
    assert indexes == [f"g{generation}-c1"]
    refused = await client.post(f"/migrations/{generation}/rollback")
    assert refused.status_code == 409
    assert "nothing to roll back" in refused.json()["detail"]
    assert (await client.delete("/models/tiny/1")).status_code == 204
    assert not (folder / "models" / "tiny" / "1").exists()


async def test_a_candidate_is_held_paused_resumed_and_aborted(client, folder):
    generation = await activate(client, hold=True, passages_per_s=1)
    paused = await step(client, generation, "pause")
    assert paused["paused"]
    await asyncio.sleep(1)
    again = (await client.get(f"/migrations/{generation}")).json()
    assert again["state"] == paused["state"]
    await step(client, generation, "resume")
    await reach(client, generation, "building")
    assert (await step(client, generation, "abort"))["state"] == "aborted"
    refused = await client.post(f"/migrations/{generation}/resume")
    assert refused.status_code == 409
    await until(lambda: not list((folder / "data" / "index").glob(f"g{generation}-*")))
    assert (await search(client, "river", limit=1))["generation"] == 1
    second = await activate(client)
    await reach(client, second, "active")


async def test_one_request_makes_one_migration_and_a_stale_epoch_none(client):
    key = {"Idempotency-Key": "swap-1"}
    first = await activate(client, headers=key, hold=True)
    assert await activate(client, headers=key, hold=True) == first
    busy = await client.post("/models/tiny/2/activate")
    assert busy.status_code == 409
    await step(client, first, "abort")
    stale = await client.post("/models/tiny/2/activate", headers={"If-Match": '"7"'})
    assert stale.status_code == 412
    live = await client.post("/models/tiny/1/activate")
    assert live.status_code == 409
    assert "live already" in live.json()["detail"]


async def test_a_restart_goes_on_with_the_migration_where_it_was(folder):
    async with running(folder, bundle="tiny/1", **FAST) as client:
        await put(client, *documents(40))
        generation = await activate(client, hold=True)
    async with running(folder, bundle="tiny/1", **FAST) as client:
        await reach(client, generation, "ready")
    async with running(folder, bundle="tiny/1", **FAST) as client:
        await ready(client)
        assert (await search(client, "river", limit=1))["generation"] == 1
        await step(client, generation, "cut-over")
        await reach(client, generation, "active")
    async with running(folder, bundle="tiny/1", **FAST) as client:
        await ready(client)
        assert (await search(client, "river", limit=1))["generation"] == generation
        await reach(client, generation, "active")
        await both_open(client)
        await step(client, generation, "rollback")
        assert (await search(client, "river", limit=1))["generation"] == 1


def spoil(folder: Path, how: str):
    """A bundle that is sealed as it should be, but for the first way, and does not work."""
    build_tiny_bundle(folder, version="3", seed=3, external=how != "truncated")
    if how == "truncated":
        path = folder / "model.onnx"
        path.write_bytes(path.read_bytes()[:-100])
        return
    weights = bytearray((folder / "model.safetensors").read_bytes())
    value = np.nan if how == "NaN" else 1.0
    weights[-4 * 16 * 250 :] = np.full(16 * 250, value, "<f4").tobytes()
    (folder / "model.safetensors").write_bytes(weights)
    write_bundle(folder, **declared(version="3"))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("truncated", "model.onnx"),
        ("NaN", "finite"),
        ("other weights", "probe"),
    ],
)
async def test_a_candidate_that_breaks_the_contract_never_reaches_the_live_one(
    client, folder, how, reason
):
    spoil(folder / "models" / "tiny" / "3", how)
    answer = await client.post("/models/tiny/3/activate")
    if answer.status_code == 202:
        seen = await reach(client, answer.json()["generation"], "failed")
        said = seen["error"]
    else:
        assert answer.status_code in {409, 422}, answer.text
        said = answer.json()["detail"]
    assert reason in said, said
    assert (await search(client, "river", limit=1))["generation"] == 1
    generation = await activate(client, "2")  # the next one is not harmed
    await reach(client, generation, "active")


async def test_a_candidate_that_is_worse_is_refused_unless_somebody_has_a_reason(folder):
    golden = folder / "golden.jsonl"
    lines = [
        {
            "query": f"{WORDS[n % 8]} {WORDS[n // 8 % 8]} {n}",
            "language": "en",
            "collection": "default",
            "relevant": [f"d{n}"],
        }
        for n in range(32)
    ]
    golden.write_text("\n".join(map(json.dumps, lines)))
    build_tiny_bundle(
        folder / "models" / "tiny" / "bad", version="bad", prompts={"query": "so much noise " * 4}
    )
    async with running(folder, bundle="tiny/1", gate_golden=golden, **FAST) as client:
        await put(client, *documents(40))
        generation = await activate(client, "bad")
        failed = await reach(client, generation, "failed")
        assert "golden" in failed["error"]
        [check] = [each for each in failed["report"]["checks"] if each["name"] == "golden"]
        assert not check["ok"]
        assert (await search(client, "river", limit=1))["generation"] == 1
        unreasoned = await client.post("/models/tiny/bad/activate", json={"override": ["golden"]})
        assert unreasoned.status_code == 422
        second = await activate(client, "bad", override=["golden"], reason="a drill")
        live = await reach(client, second, "active")
        assert live["report"]["overridden"] == ["golden"]
        assert live["report"]["reason"] == "a drill"


async def test_a_bundle_of_the_live_space_takes_over_without_embedding_anything(client, folder):
    build_tiny_bundle(folder / "models" / "tiny" / "1b", version="1b", seed=0)
    embedded = await metric(client, 'isogloss_index_applied_passages_total{operation="upsert"}')
    generation = await activate(client, "1b")
    live = await reach(client, generation, "active")
    assert live["total"] == live["applied"] == 40
    assert (
        await metric(client, 'isogloss_index_applied_passages_total{operation="upsert"}')
        == embedded
    )
    await step(client, generation, "finish")
    await reach(client, 1, "retired")
    assert [path.name for path in (folder / "data" / "index").glob("g*")] == ["g1-c1"]
    await put(client, {"id": "late", "text": "written after the swap"})
    found = await search(client, "written after the swap", limit=1)
    assert (found["bundle"], names(found)) == ("tiny/1b", ["late"])


async def metric(client, name):
    lines = (await client.get("/metrics")).text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)
