"""How embedding is slowed down and held, and what goes on meanwhile."""

import numpy as np
import pytest

from service.applier import Throttle
from service.applier.throttle import PIECE_PASSAGES, Paused
from service.errors import InvalidInput, NotFound, Unavailable
from tests.applier_house import House, settled, stored, texts, until, vector, visible
from tests.ram_folder import ram_folder

COST_S = 0.01


class Machine:
    """A clock that moves when somebody sleeps or embeds, and queries that come or do not."""

    def __init__(self, passages_per_s=None):
        self.now_s = 0.0
        self.busy = False
        self.pieces = []
        self.at = []
        self.then = lambda: None
        self.throttle = Throttle(
            passages_per_s, lambda: self.busy, clock=lambda: self.now_s, sleep=self.sleep
        )
        self.embed = self.throttle.around(self._embed)

    async def sleep(self, seconds):
        assert seconds > 0
        self.now_s += seconds
        self.then()

    async def _embed(self, texts):
        self.at.append(self.now_s)
        self.now_s += COST_S * len(texts)
        self.pieces.append(len(texts))
        self.then()
        return np.stack([vector(text) for text in texts])


def passages(count):
    return [f"text {number}" for number in range(count)]


async def test_without_reason_nothing_is_slowed_down():
    machine = Machine()
    found = await machine.embed(passages(64))
    assert machine.pieces == [64]
    assert machine.now_s == pytest.approx(64 * COST_S)
    assert np.array_equal(found, np.stack([vector(text) for text in passages(64)]))


async def test_while_queries_come_half_of_the_time_is_left_to_them():
    machine = Machine()
    machine.busy = True
    found = await machine.embed(passages(20))
    await machine.embed(passages(20))
    assert machine.pieces == [PIECE_PASSAGES, PIECE_PASSAGES, 4] * 2
    assert machine.now_s == pytest.approx(COST_S * (2 * 40 - 4))  # it rests after the last one too
    assert np.array_equal(found, np.stack([vector(text) for text in passages(20)]))


async def test_the_rest_ends_with_the_queries():
    machine = Machine()
    machine.busy = True
    machine.then = lambda: setattr(machine, "busy", len(machine.pieces) < 2)
    await machine.embed(passages(64))
    assert machine.pieces == [PIECE_PASSAGES, PIECE_PASSAGES, 64 - 2 * PIECE_PASSAGES]
    assert machine.now_s == pytest.approx(COST_S * (64 + PIECE_PASSAGES))


async def test_a_rate_is_kept_over_all_that_is_asked_for():
    machine = Machine(passages_per_s=20.0)
    for _ in range(4):
        await machine.embed(passages(30))
        machine.throttle.passages_per_s = 20  # said again, it forgives nothing
    assert max(machine.pieces) <= 20  # a second's worth at once
    assert 120 / 20 - 1 <= machine.now_s <= 120 / 20 + 1


async def test_a_rate_below_one_is_kept_too():
    machine = Machine(passages_per_s=0.5)
    await machine.embed(passages(3))
    assert machine.pieces == [1, 1, 1]
    assert machine.at == pytest.approx([0, 2, 4])


async def test_a_rate_may_be_changed_while_somebody_waits_for_it():
    machine = Machine(passages_per_s=0.001)

    def faster():
        if machine.now_s > 5:
            machine.throttle.passages_per_s = None

    machine.throttle.passages_per_s = 0.001  # which is no change
    machine.then = faster
    await machine.embed(passages(10))
    assert machine.pieces == [1, 9]
    assert machine.at[1] == pytest.approx(5, abs=0.3)
    assert machine.throttle.passages_per_s is None


async def test_a_pause_holds_what_is_not_begun_and_is_told():
    machine = Machine()
    machine.busy = True
    machine.then = machine.throttle.pause
    with pytest.raises(Paused):
        await machine.embed(passages(20))
    assert machine.pieces == [PIECE_PASSAGES]
    assert machine.throttle.paused
    machine.then = lambda: None
    machine.throttle.resume()
    await machine.embed(passages(8))
    assert machine.pieces == [PIECE_PASSAGES] * 2


async def test_a_pause_is_noticed_by_who_waits_for_the_rate():
    machine = Machine(passages_per_s=0.001)
    await machine.embed(passages(1))
    machine.then = machine.throttle.pause
    with pytest.raises(Paused):
        await machine.embed(passages(1))
    assert machine.now_s < 1


async def test_who_is_waited_for_need_not_wait():
    machine = Machine(passages_per_s=1.0)
    machine.busy = True
    with machine.throttle.waived():
        await machine.embed(passages(20))
        await machine.embed(passages(20))
        assert machine.pieces == [20, 20]
        machine.throttle.pause()
        with pytest.raises(Paused):
            await machine.embed(passages(1))


@pytest.mark.parametrize("rate", [0, -1.0, float("nan")])
async def test_a_rate_of_nothing_is_refused(rate):
    with pytest.raises(InvalidInput, match=r"passages_per_s=.*pause"):
        Throttle(rate, lambda: False)
    throttle = Throttle(5, lambda: False)
    with pytest.raises(InvalidInput, match="passages_per_s"):
        throttle.passages_per_s = rate
    assert throttle.passages_per_s == 5


@pytest.fixture
def house():
    with ram_folder() as folder, House(folder) as house:
        yield house


async def test_a_paused_generation_embeds_nothing_and_does_all_else(house):
    throttle = Throttle(None, lambda: False)
    second = house.catalog.collections.create("second")
    async with house.applier(throttle=throttle, flush_interval_s=0.2) as applier:
        assert applier.throttle is throttle
        house.put(stored("a", "before"))
        await visible(applier, house)
        throttle.pause()
        await until(lambda: house.cursor() == 1)  # what was applied is flushed
        house.put(stored("b", "after"), collection=second.id)
        applier.suspect(house.collection)
        await until(lambda: applier._shelves.get(house.collection).verified)  # and compared
        house.catalog.collections.delete("second")
        with pytest.raises(NotFound):  # and let go of
            await applier.wait_visible(second.id, 99, timeout_s=20)
        house.put(stored("b", "after"))
        assert not await applier.wait_visible(house.collection, 99, timeout_s=0.05)
        assert [each.error for each in await applier.progress()] == [None]
        assert house.encoder.batches == [["before"]]
        throttle.resume()
        await visible(applier, house)
    assert texts(house) == {"before", "after"}


async def test_a_pause_in_the_middle_of_a_batch_loses_nothing(house):
    throttle = Throttle(None, lambda: True)
    real = house.encoder

    async def pausing(texts):
        found = await real(texts)
        if len(real.batches) == 2:
            throttle.pause()
        return found

    house.encoder = pausing
    house.put(*[stored(f"d{number}", f"text {number}") for number in range(50)])
    async with house.applier(throttle=throttle, batch_passages=50) as applier:
        await until(lambda: throttle.paused)
        applier.notify()
        assert not await applier.wait_visible(house.collection, 1, timeout_s=0.05)
        throttle.resume()
        await settled(applier)
    assert max(map(len, real.batches)) == PIECE_PASSAGES
    assert len(texts(house)) == 50


async def test_a_generation_is_drained_to_the_head_at_once(house):
    async with house.applier(flush_interval_s=3600) as applier:
        house.put(*[stored(f"d{number}", f"text {number}") for number in range(9)])
        await visible(applier, house)
        assert house.cursor() == 0
        assert await applier.drain(timeout_s=20)
        assert house.cursor() == 9
        head = house.put(stored("e", "one more"))
        assert await applier.drain(timeout_s=20)
        assert house.cursor() == head
        house.put(stored("f", "the usual pace again"))
        await visible(applier, house)
        assert house.cursor() == head


async def test_draining_ends_the_waiting_for_a_rate(house):
    throttle = Throttle(0.001, lambda: True)
    async with house.applier(throttle=throttle) as applier:
        house.put(*[stored(f"d{number}", f"text {number}") for number in range(9)])
        applier.notify()
        assert not await applier.wait_visible(house.collection, 9, timeout_s=0.2)
        assert await applier.drain(timeout_s=20)
        assert len(texts(house)) == 9


async def test_what_cannot_be_drained_in_time_is_told(house):
    house.encoder.gate.clear()
    async with house.applier() as applier:
        assert await applier.drain(timeout_s=20)  # there is nothing
        house.put(stored("a", "text"))
        assert not await applier.drain(timeout_s=0.1)
        house.encoder.gate.set()
        assert await applier.drain(timeout_s=20)
        applier.throttle.pause()
        house.put(stored("b", "text"))
        assert not await applier.drain(timeout_s=0.1)
        applier.throttle.resume()
        assert await applier.drain(timeout_s=20)


async def test_a_collection_whose_tombstones_are_gone_is_drained(house):
    async with house.applier() as applier:
        house.put(stored("a", "text"))
        await visible(applier, house)
        house.catalog.documents.delete(house.collection, ["a"])
        assert await applier.drain(timeout_s=20)
        await until(lambda: house.catalog.passages.heads()[house.collection] == 0)
        assert await applier.drain(timeout_s=20)


async def test_a_follower_is_drained_by_who_writes(house):
    async with house.applier(owner="a") as writer, house.applier(owner="b") as applier:
        house.put(stored("a", "text"))
        writer.notify()
        assert await applier.drain(timeout_s=20)
        assert (house.cursor(), applier.leads) == (1, False)


async def test_a_locked_catalog_is_no_end_of_a_drain(house):
    async with house.applier() as applier:
        real, calls = house.catalog.generations.cursors, []

        def locked(generation):
            calls.append(generation)
            if len(calls) < 3:
                raise Unavailable("locked")
            return real(generation)

        house.catalog.generations.cursors = locked
        house.put(stored("a", "text"))
        assert await applier.drain(timeout_s=20)
        assert len(calls) == 3


async def test_settling_asks_every_index(house):
    house.catalog.collections.create("second")
    async with house.applier() as applier:
        await applier.settle()
    asked = [name for operation, name in house.backend.calls if operation == "settle"]
    assert asked == ["g1-c1", "g1-c2"]
