"""Queries first: a compatible encoder asks at once, and only if it is declared, proven and wanted."""

import asyncio

import httpx
import pytest

from service.catalog import UNDER_WAY
from tests.service.migration.test_swap import (
    FAST,
    activate,
    documents,
    reach,
    searched,
    step,
)
from tests.service.test_app import put, ready, running, search
from tests.tiny_bundle import build_tiny_bundle, claim

SLOW = {"passages_per_s": 5}


@pytest.fixture
def folder(tmp_path):
    models = tmp_path / "models" / "tiny"
    first = build_tiny_bundle(models / "1", version="1")
    build_tiny_bundle(models / "near", version="near", drift=0.05, compatible_with=[claim(first)])
    build_tiny_bundle(models / "far", version="far", seed=7, compatible_with=[claim(first)])
    build_tiny_bundle(models / "silent", version="silent", drift=0.06)
    return tmp_path


@pytest.fixture
async def client(folder):
    async with running(folder, bundle="tiny/1", **FAST) as client:
        await put(client, *documents(40))
        yield client


async def pair(client: httpx.AsyncClient):
    answer = await search(client, "river bread 2", limit=3)
    return answer["query_bundle"], answer["bundle"]


async def seen(client, generation):
    return (await client.get(f"/migrations/{generation}")).json()


async def asks(client, generation):
    """Wait until it does."""
    async with asyncio.timeout(20):
        while not (found := await seen(client, generation))["asking"]:
            assert found["state"] in UNDER_WAY, found
            await asyncio.sleep(0.02)
    return found


async def test_queries_go_first_and_the_passages_come_behind(client, folder):
    pairs = set()
    async with searched(client, folder, pairs):
        generation = await activate(client, "near", **SLOW)
        found = await asks(client, generation)
        assert (found["live"], found["epoch"]) == (False, 2)
        assert found["compatible"]["ok"], found["compatible"]
        assert await pair(client) == ("tiny/near", "tiny/1")
        embedded = (await client.post("/embed", json={"inputs": "river"})).headers
        assert embedded["x-isogloss-model"] == "tiny/1"  # what is stored elsewhere stays comparable
        await put(client, {"id": "late", "text": "garden winter letter"})
        late = await search(client, "garden winter letter", limit=1)
        assert late["hits"][0]["document"] == "late"
        live = await reach(client, generation, "active")
        assert (live["epoch"], live["asking"]) == (3, False)
        assert await pair(client) == ("tiny/near", "tiny/near")
        await step(client, generation, "rollback")
        assert await pair(client) == ("tiny/1", "tiny/1")
    assert pairs == {
        ("tiny/1", "tiny/1"),
        ("tiny/near", "tiny/1"),
        ("tiny/near", "tiny/near"),
    }


async def test_an_abort_gives_the_queries_back(client, folder):
    async with searched(client, folder):
        generation = await activate(client, "near", **SLOW)
        await asks(client, generation)
        await step(client, generation, "abort")
        found = await reach(client, generation, "aborted")
        assert (found["epoch"], found["asking"]) == (3, False)
        assert await pair(client) == ("tiny/1", "tiny/1")


async def test_a_restart_asks_on_with_the_encoder_that_asked(folder):
    async with running(folder, bundle="tiny/1", **FAST) as client:
        await put(client, *documents(40))
        generation = await activate(client, "near", **SLOW)
        await asks(client, generation)
    async with running(folder, bundle="tiny/1", **FAST) as client:
        await ready(client)
        assert (await seen(client, generation))["asking"]
        async with asyncio.timeout(20):
            while await pair(client) == ("tiny/1", "tiny/1"):  # noqa: ASYNC110 - until it is open
                await asyncio.sleep(0.02)
        assert await pair(client) in {("tiny/near", "tiny/1"), ("tiny/near", "tiny/near")}
        await reach(client, generation, "active")


async def test_a_claim_that_does_not_hold_here_changes_nothing_but_the_moment(client, folder):
    pairs = set()
    async with searched(client, folder, pairs):
        live = await reach(client, await activate(client, "far"), "active")
    assert not live["compatible"]["ok"]
    assert "all languages" in live["compatible"]["detail"]
    assert live["epoch"] == 2
    assert pairs <= {("tiny/1", "tiny/1"), ("tiny/far", "tiny/far")}


@pytest.mark.parametrize(
    ("version", "options"),
    [("silent", {}), ("near", {"queries_first": False}), ("near", {"hold": True})],
)
async def test_who_does_not_declare_it_or_is_told_not_to_waits(client, version, options):
    generation = await activate(client, version, **options)
    found = await reach(client, generation, "active", "ready")
    assert found["compatible"] is None
    assert found["epoch"] == (2 if found["live"] else 1)
