"""Fleets follow the catalog: what is open, what answers, and who still uses what was let go."""

import asyncio

import pytest

from service import memory
from service.errors import NotReady, ServiceError
from service.requests import SearchRequest
from tests.swap_house import House, until
from tests.tiny_bundle import build_tiny_bundle


@pytest.fixture
def house(tmp_path):
    with House(tmp_path) as house:
        yield house


async def ask(fleet, query="river"):
    [answer] = await fleet.retriever.search(SearchRequest([query], "default"))
    return answer.generation, [hit.document for hit in answer.hits]


async def searchable(fleet, generation, house):
    applier = fleet.open[generation].applier
    head = house.catalog.passages.heads()[house.collection]
    assert await applier.wait_visible(house.collection, head, timeout_s=20)


async def test_a_fleet_opens_the_live_generation_and_closes_it_at_its_end(house):
    house.put("the river", "the bread")
    async with house.fleet() as fleet:
        await searchable(fleet, 1, house)
        assert (await ask(fleet))[0] == 1
        await until(lambda: house.catalog.pods.list(fresh_s=60))
        [pod] = house.catalog.pods.list(fresh_s=60)
        assert (pod.id, pod.epoch, pod.loaded) == ("pod", 1, [1])
    assert house.catalog.pods.list(fresh_s=60) == []
    with pytest.raises(NotReady):
        _ = fleet.retriever


async def test_a_candidate_is_opened_beside_the_live_one_and_answers_after_the_cut_over(house):
    house.put("the river", "the bread")
    async with house.fleet() as fleet:
        green = house.register("2").id
        await fleet.follow()
        assert green not in fleet.open  # nothing of it is needed yet
        house.move(green, "building")
        fleet.notify()
        await until(lambda: green in fleet.open)
        await searchable(fleet, green, house)
        assert fleet.retriever.beside is None
        house.move(green, "indexing", "catching_up", "verifying", "ready")
        await fleet.follow()
        assert fleet.retriever.beside is fleet.open[green]
        assert (await ask(fleet))[0] == 1
        assert await fleet.open[green].applier.drain(timeout_s=20)
        house.catalog.generations.cut_over(green, epoch=1, soak_s=60)
        await fleet.follow()
        assert (await ask(fleet)) == (green, ["the river", "the bread"])
        assert fleet.retriever.beside is fleet.open[1]
        assert fleet.retriever.live.epoch == 2


async def test_a_generation_is_closed_when_it_is_retired_and_no_request_needs_it(house):
    house.put("the river")
    async with house.fleet() as fleet:
        green = house.register("2").id
        house.move(green, "building")
        await until(lambda: green in fleet.open)
        await fleet.open[green].applier.drain(timeout_s=20)
        house.move(green, "indexing", "catching_up", "verifying", "ready")
        house.catalog.generations.cut_over(green, epoch=1, soak_s=60)
        await fleet.follow()
        blue = fleet.open[1]
        with blue.pinned():
            house.catalog.generations.retire(1)
            await fleet.follow()
            await asyncio.sleep(0.1)
            assert 1 in fleet.open
            assert blue.engine.healthy
        await until(lambda: 1 not in fleet.open)
        assert not blue.engine.healthy
        assert (await ask(fleet))[0] == green


async def test_a_candidate_for_which_there_is_no_memory_is_refused_and_the_reason_told(
    house, monkeypatch
):
    monkeypatch.setattr(memory, "available_bytes", lambda: 100 * 2**20)
    async with house.fleet() as fleet:
        green = house.register("2", options={"memory_bytes": 50 * 2**20}).id
        house.move(green, "building")
        fleet.notify()
        await until(lambda: green in fleet.refused)
        assert fleet.refused[green] == (
            "encoder tiny/2 needs 50 MB beside the live one, and 100 MB are free (of which 64 MB"
            " stay so): give the service more memory"
        )
        await fleet.follow()
        await until(lambda: house.catalog.pods.list(fresh_s=60)[0].refused)
        house.move(green, "failed")
        await fleet.follow()
        assert not fleet.refused
        assert green not in fleet.open


async def test_a_candidate_whose_bundle_is_gone_is_refused_and_the_live_one_goes_on(house):
    house.put("the river")
    async with house.fleet() as fleet:
        green = house.register("2").id
        house.registry.remove("tiny", "2")
        house.move(green, "building")
        fleet.notify()
        await until(lambda: green in fleet.refused)
        assert "no bundle of space" in fleet.refused[green]
        await searchable(fleet, 1, house)
        assert (await ask(fleet))[0] == 1


async def test_a_generation_of_the_live_space_shares_its_indexes_and_outlives_it(house):
    build_tiny_bundle(house.models / "tiny" / "1b", version="1b", seed=0)
    house.put("the river")
    async with house.fleet() as fleet:
        twin = house.register("1b").id
        house.move(twin, "building")
        await until(lambda: twin in fleet.open)
        assert fleet.open[twin].applier is fleet.open[1].applier
        assert fleet.open[twin].engine is not fleet.open[1].engine
        await fleet.open[twin].applier.drain(timeout_s=20)
        house.move(twin, "indexing", "catching_up", "verifying", "ready")
        house.catalog.generations.cut_over(twin, epoch=1, soak_s=60)
        house.catalog.generations.retire(1)
        await fleet.follow()
        await until(lambda: 1 not in fleet.open)
        house.put("the bread")
        await searchable(fleet, twin, house)
        assert sorted((await ask(fleet))[1]) == ["the bread", "the river"]


async def test_two_fleets_over_one_catalog_answer_from_the_same_generation(house):
    house.put("the river", "the bread")
    async with house.fleet("a") as one, house.fleet("b") as two:
        green = house.register("2").id
        house.move(green, "building")
        for fleet in (one, two):
            await until(lambda fleet=fleet: green in fleet.open)
        for fleet in (one, two):
            await searchable(fleet, green, house)
        house.move(green, "indexing", "catching_up", "verifying", "ready")
        assert await one.open[green].applier.drain(timeout_s=20)
        house.catalog.generations.cut_over(green, epoch=1, soak_s=60)
        for fleet in (one, two):
            await until(lambda fleet=fleet: fleet.retriever.live.id == green)
            assert (await ask(fleet)) == (green, ["the river", "the bread"])
        await until(lambda: [pod.epoch for pod in house.catalog.pods.list(fresh_s=60)] == [2, 2])


async def test_an_outage_of_the_catalog_is_survived(house, monkeypatch):
    async with house.fleet() as fleet:

        def fail():
            raise ServiceError("gone")

        with monkeypatch.context() as broken:
            broken.setattr(house.catalog.generations, "snapshot", fail)
            fleet.notify()
            await asyncio.sleep(0.05)
        green = house.register("2").id
        house.move(green, "building")
        await until(lambda: green in fleet.open)
