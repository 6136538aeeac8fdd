"""The cut-over: under writes, when the candidate cannot follow, and when somebody was faster."""

import asyncio

import pytest
from anyio import to_thread

from service.errors import EpochMismatch, IndexUnavailable, NotReady, Unavailable
from service.migration import Switch
from tests.swap_house import House, until


@pytest.fixture
def house(tmp_path):
    with House(tmp_path) as house:
        yield house


async def ready(house, fleet):
    green = house.register("2").id
    house.move(green, "building")
    await until(lambda: green in fleet.open)
    house.move(green, "indexing", "catching_up", "verifying", "ready")
    return green


def switch_of(house, fleet, patience_s=20):
    return Switch(catalog=house.catalog, fleet=fleet, patience_s=patience_s, metrics=house.metrics)


async def test_a_cut_over_under_writes_loses_none_of_them(house):
    house.put("the river", "the bread")
    async with house.fleet() as fleet:
        green = await ready(house, fleet)
        stop = asyncio.Event()

        async def write():
            number = 0
            while not stop.is_set():
                await to_thread.run_sync(house.put, f"text {number}")
                number += 1
            return number

        writing = asyncio.create_task(write())
        try:
            route = await switch_of(house, fleet).to(green, epoch=1, soak_s=60)
        finally:
            stop.set()
            written = await writing
        assert (route.epoch, route.active, route.previous) == (2, green, 1)
        assert fleet.retriever.live.id == green
        for generation in (green, 1):
            assert await fleet.open[generation].applier.drain(timeout_s=20)
            index = house.backend.indexes[f"g{generation}-c{house.collection}"]
            assert len(index.visible) == written + 2


async def test_a_generation_that_cannot_follow_does_not_go_live_and_writes_go_on(house):
    house.put("the river")
    async with house.fleet() as fleet:
        green = await ready(house, fleet)

        def fail(operation, name):
            if operation == "apply" and name.startswith(f"g{green}-"):
                raise IndexUnavailable("the index does not answer")

        house.backend.before = fail
        house.put("the bread")
        with pytest.raises(Unavailable, match=r"0\.1 s .*ISOGLOSS_CUTOVER_PATIENCE_S"):
            await switch_of(house, fleet, patience_s=0.1).to(green, epoch=1, soak_s=60)
        assert house.put("the letter") == 3  # the gate is open
        assert house.catalog.generations.route().active == 1
        assert house.catalog.generations.get(green).state == "ready"


async def test_who_comes_too_late_changes_nothing_and_leaves_the_gate_open(house):
    async with house.fleet() as fleet:
        green = await ready(house, fleet)
        with pytest.raises(EpochMismatch):
            await switch_of(house, fleet).to(green, epoch=0, soak_s=60)
        assert house.put("the river") == 1
        assert house.catalog.generations.route().epoch == 1


async def test_a_generation_that_is_not_open_here_is_not_switched_to_from_here(house):
    async with house.fleet() as fleet:
        with pytest.raises(NotReady, match="generation 7 is not open"):
            await switch_of(house, fleet).to(7, epoch=1, soak_s=60)
