"""The migrator, step by step: what ends a migration, what only holds it up, and who is waited for."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from service.candidate import Proof
from service.errors import BundleInvalid, IndexCorrupt, IndexUnavailable
from service.migration import Migrator, Pace, Switch
from service.types import GateCheck, GateReport
from service.verification import Gate
from tests.swap_house import House, until


class ScriptedGate(Gate):
    """A gate whose verdicts are given; after the last of them it passes everything."""

    def __init__(self, catalog, *verdicts):
        super().__init__(catalog)
        self.verdicts = list(verdicts)
        self.asked = asyncio.Event()

    async def verify(self, green, blue, *, override, reason):
        self.asked.set()
        verdict = self.verdicts.pop(0) if self.verdicts else True
        if isinstance(verdict, Exception):
            raise verdict
        if verdict is None:
            await asyncio.Event().wait()
        check = GateCheck("golden", verdict, "worse in German", overridable=True, measures={})
        return GateReport(verdict, [check], [], "", "2026-01-01T00:00:00Z", 0.1)


@pytest.fixture
def house(tmp_path):
    with House(tmp_path) as house:
        house.put("the river", "the bread")
        yield house


async def prove(record):
    return Proof("fp32", record.space, 1_000_000, 0.1)


@asynccontextmanager
async def migrating(house, fleet, gate, *, prove=prove, laggards_s=0.0, lease_ttl_s=20.0):
    switch = Switch(catalog=house.catalog, fleet=fleet, patience_s=20, metrics=house.metrics)
    pace = Pace(soak_s=60, lease_ttl_s=lease_ttl_s, pod_silent_s=20, laggards_s=laggards_s)
    async with Migrator(
        catalog=house.catalog,
        fleet=fleet,
        backend=house.backend,
        switch=switch,
        gate=gate,
        prove=prove,
        pace=pace,
        metrics=house.metrics,
    ) as migrator:
        yield migrator


def state(house, generation):
    return house.catalog.generations.get(generation).state


async def test_every_state_is_passed_in_order(house):
    async with house.fleet() as fleet, migrating(house, fleet, ScriptedGate(house.catalog)):
        green = house.register("2").id
        await until(lambda: state(house, green) == "active")
        events = house.catalog.generations.events(limit=50, generation=green)
        passed = [each.detail["after"] for each in reversed(events) if each.kind == "state"]
        assert passed == ["building", "indexing", "catching_up", "verifying", "ready", "active"]
        assert house.catalog.generations.get(green).options["memory_bytes"] == 1_000_000
        assert house.catalog.generations.report(green)["passed"]


async def test_a_bundle_that_is_not_proven_ends_the_migration_before_anything_is_built(house):
    async def refuse(record):
        raise BundleInvalid("probe 3 (de) is not reproduced")

    async with (
        house.fleet() as fleet,
        migrating(house, fleet, ScriptedGate(house.catalog), prove=refuse),
    ):
        green = house.register("2").id
        await until(lambda: state(house, green) == "failed")
        assert house.catalog.generations.get(green).error == "probe 3 (de) is not reproduced"
        assert [name for name in house.backend.indexes if name.startswith(f"g{green}-")] == []


async def test_what_the_gate_refuses_is_deleted_and_the_reason_kept(house):
    async with house.fleet() as fleet, migrating(house, fleet, ScriptedGate(house.catalog, False)):
        green = house.register("2").id
        await until(lambda: state(house, green) == "failed")
        error = house.catalog.generations.get(green).error
        assert error == "the gate refused it: golden: worse in German"
        assert house.catalog.generations.report(green)["passed"] is False
        await until(lambda: f"g{green}-c1" not in house.backend.indexes)
        assert state(house, 1) == "active"


async def test_an_outage_is_no_verdict(house):
    outage = IndexUnavailable("the index host is being started again")
    gate = ScriptedGate(house.catalog, outage, IndexCorrupt("torn"))
    async with house.fleet() as fleet, migrating(house, fleet, gate):
        green = house.register("2").id
        await until(lambda: state(house, green) == "active")
        assert gate.verdicts == []


async def test_a_bug_is_tried_again_and_ends_the_migration_if_it_stays(house):
    once, always = [ValueError("once")], [ValueError("always")] * 10
    async with house.fleet() as fleet:
        async with migrating(house, fleet, ScriptedGate(house.catalog, *once)):
            green = house.register("2").id
            await until(lambda: state(house, green) == "active")
            house.catalog.generations.retire(1)
        async with migrating(house, fleet, ScriptedGate(house.catalog, *always)):
            green = house.register("1").id
            await until(lambda: state(house, green) == "failed")
    assert (
        "a bug of the service: ValueError('always')" in house.catalog.generations.get(green).error
    )


async def test_an_abort_ends_the_step_that_is_under_way(house):
    gate = ScriptedGate(house.catalog, None)
    async with house.fleet() as fleet, migrating(house, fleet, gate):
        green = house.register("2").id
        await asyncio.wait_for(gate.asked.wait(), 20)
        house.catalog.generations.move(green, "aborted", expect=["verifying"])
        await until(lambda: f"g{green}-c1" not in house.backend.indexes)
        second = house.register("2").id
        await until(lambda: state(house, second) == "active")


async def test_a_pause_ends_the_step_that_is_under_way_and_it_is_done_again(house):
    gate = ScriptedGate(house.catalog, None)
    async with house.fleet() as fleet, migrating(house, fleet, gate):
        green = house.register("2").id
        await asyncio.wait_for(gate.asked.wait(), 20)
        house.catalog.generations.pause(green, paused=True)
        await asyncio.sleep(0.7)
        assert state(house, green) == "verifying"
        house.catalog.generations.pause(green, paused=False)
        await until(lambda: state(house, green) == "active")


async def test_a_candidate_waits_for_processes_that_have_not_opened_it_and_then_leaves_them(house):
    house.catalog.pods.report("late", epoch=1, loaded=[1], refused={})
    gate = ScriptedGate(house.catalog)
    async with house.fleet() as fleet, migrating(house, fleet, gate, laggards_s=600):
        green = house.register("2").id
        await until(lambda: state(house, green) == "ready")
        await asyncio.sleep(0.7)
        assert state(house, green) == "ready"
        house.catalog.pods.report("late", epoch=1, loaded=[1, green], refused={})
        await until(lambda: state(house, green) == "active")
    house.catalog.generations.retire(1)
    house.catalog.pods.report("late", epoch=1, loaded=[1, green], refused={})
    async with house.fleet() as fleet, migrating(house, fleet, gate, laggards_s=0):
        await asyncio.sleep(0.7)
        assert state(house, 1) == "retiring"  # somebody has it open still
        house.catalog.pods.report("late", epoch=1, loaded=[green], refused={})
        await until(lambda: state(house, 1) == "retired")
        blue = house.register("1").id
        await until(lambda: state(house, blue) == "active")  # without the one that is late


async def test_a_process_that_cannot_open_the_candidate_ends_the_migration(house):
    async with house.fleet() as fleet, migrating(house, fleet, ScriptedGate(house.catalog)):
        green = house.register("2").id
        house.catalog.pods.report("small", epoch=1, loaded=[1], refused={green: "no memory"})
        await until(lambda: state(house, green) == "failed")
        assert house.catalog.generations.get(green).error == "small: no memory"


async def test_the_soak_ends_by_itself(house):
    async with house.fleet() as fleet, migrating(house, fleet, ScriptedGate(house.catalog)):
        green = house.register("2", options={"soak_s": 0.5}).id
        await until(lambda: state(house, 1) == "retired")
        assert state(house, green) == "active"
        assert list(house.backend.indexes) == [f"g{green}-c1"]
        await until(lambda: 1 not in fleet.open)


async def test_another_process_goes_on_where_the_leader_ended(house):
    gate = ScriptedGate(house.catalog, None)
    async with house.fleet() as fleet:
        async with migrating(house, fleet, gate):
            green = house.register("2").id
            await asyncio.wait_for(gate.asked.wait(), 20)
        assert state(house, green) == "verifying"
        async with house.fleet("other") as second, migrating(house, second, gate):
            await until(lambda: state(house, green) == "active")
            await until(lambda: fleet.retriever.live.id == green)


async def test_leftovers_of_what_ended_are_dropped_at_the_next_start(house):
    async with house.fleet() as fleet, migrating(house, fleet, ScriptedGate(house.catalog)):
        green = house.register("2", options={"hold": True}).id
        await until(lambda: state(house, green) == "ready")
    house.catalog.generations.move(green, "aborted", expect=["ready"])
    assert f"g{green}-c1" in house.backend.indexes
    async with house.fleet() as fleet, migrating(house, fleet, ScriptedGate(house.catalog)):
        await until(lambda: f"g{green}-c1" not in house.backend.indexes)
        assert "g1-c1" in house.backend.indexes
