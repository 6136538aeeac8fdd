import asyncio
import os
import shutil
import signal
from contextlib import ExitStack
from functools import partial

import numpy as np
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from service.errors import IndexUnavailable, NotFound
from service.filters import Equals, Range
from service.vectors.backend import Query
from service.vectors.edge import EdgeBackend
from tests.applier_house import (
    DIMENSION,
    PATIENCE_S,
    House,
    Mortal,
    die,
    settled,
    stored,
    texts,
    until,
    vector,
    visible,
)
from tests.ram_folder import ram_folder


@pytest.fixture
def house():
    with ram_folder() as folder, House(folder) as house:
        yield house


async def test_what_is_written_becomes_visible(house):
    async with house.applier() as applier:
        revision = house.put(
            stored("a", "some text", title="Title", language="de", year=2020, other="x"),
            stored("b", "plain text"),
        )
        assert await applier.wait_visible(house.collection, revision, timeout_s=PATIENCE_S)
        assert applier.applied(house.collection) == revision
        [[match]] = await applier.index(house.collection).search(
            [Query(vector("Title\nsome text"), limit=1)]
        )
    assert match.score == pytest.approx(1.0)
    point = house.index().visible[match.id]
    assert (point.language, point.metadata, point.rev) == ("de", {"year": 2020}, 1)


async def test_edits_and_deletions_reach_the_index(house):
    async with house.applier() as applier:
        house.put(stored("a", "abcdef", pieces=3), stored("b", "stays"))
        await visible(applier, house)
        house.put(stored("a", "new"))
        house.catalog.documents.delete(house.collection, ["b"])
        await visible(applier, house)
        assert texts(house) == {"new"}
    assert house.value("index_applied_passages_total", operation="delete") == 3


async def test_what_was_written_while_nobody_listened_is_caught_up(house):
    for number in range(20):
        house.put(stored(f"d{number}", f"text {number}"))
    async with house.applier() as applier:
        await visible(applier, house)
    assert texts(house) == {f"text {number}" for number in range(20)}
    assert house.cursor() == 20
    async with house.applier() as applier:
        await settled(applier)
    assert sum(len(batch) for batch in house.encoder.batches) == 20  # nothing was embedded twice


async def test_leaving_flushes_and_saves_the_cursor(house):
    async with house.applier(flush_interval_s=3600) as applier:
        house.put(stored("a", "text"))
        await visible(applier, house)
        assert house.cursor() == 0
    assert house.cursor() == 1
    assert set(house.index().durable) == {1}


async def test_the_cursor_moves_only_after_the_flush(house):
    seen = []
    house.backend.before = lambda operation, _: seen.append((operation, house.cursor()))
    async with house.applier(flush_passages=1, flush_interval_s=3600) as applier:
        house.put(stored("a", "text"))
        await visible(applier, house)
        await until(lambda: house.cursor() == 1)
    assert ("flush", 0) in seen


async def test_tombstones_are_purged_once_they_are_durable(house):
    async with house.applier() as applier:
        house.put(stored("a", "text"))
        await visible(applier, house)
        house.catalog.documents.delete(house.collection, ["a"])
        await visible(applier, house)
        await until(lambda: not house.catalog.passages.revisions([1]))
    assert house.index().durable == {}


async def test_an_outage_delays_and_loses_nothing(house):
    async with house.applier() as applier:
        house.put(stored("a", "before"))
        await visible(applier, house)
        house.backend.down = True
        revision = house.put(*[stored(f"d{number}", f"text {number}") for number in range(9)])
        assert not await applier.wait_visible(house.collection, revision, timeout_s=0.05)
        await until(lambda: house.backend.calls[-1][0] in {"apply", "flush"})
        [progress] = await applier.progress()
        assert progress.state == "following"
        assert (progress.applied, progress.total) == (1, 10)
        house.backend.down = False
        await visible(applier, house)
    assert texts(house) == {"before", *(f"text {number}" for number in range(9))}


async def test_an_outage_is_told_and_forgotten_when_it_is_over(house):
    async with house.applier() as applier:
        house.backend.down = True
        house.put(stored("a", "text"))
        applier.notify()
        await until(lambda: applier._shelves.get(house.collection).error)
        [progress] = await applier.progress()
        assert progress.error == "the index does not answer"
        house.backend.down = False
        await visible(applier, house)
        await until(lambda: applier._shelves.get(house.collection).error is None)


async def test_a_start_without_the_index_succeeds_and_catches_up_later(house):
    house.put(stored("a", "text"))
    house.backend.down = True
    async with house.applier() as applier:
        with pytest.raises(IndexUnavailable, match="'default' is being opened: the index does not"):
            applier.index(house.collection)
        assert (await applier.progress())[0].state == "opening"
        house.backend.down = False
        await visible(applier, house)
        assert texts(house) == {"text"}


async def test_an_overloaded_encoder_gets_smaller_batches_until_they_fit(house):
    house.encoder.limit = 1
    house.put(*[stored(f"d{number}", f"text {number}") for number in range(6)])
    async with house.applier() as applier:
        await visible(applier, house)
    assert texts(house) == {f"text {number}" for number in range(6)}


async def test_a_poisoned_passage_is_recorded_and_blocks_no_other(house):
    async with house.applier() as applier:
        house.put(stored("a", "harmless"), stored("b", "will turn bad"), stored("c", "fine"))
        await visible(applier, house)
        house.put(stored("b", "poison"), stored("c", "still fine"))
        await visible(applier, house)
        assert texts(house) == {"harmless", "still fine"}  # and no stale vector
        assert (await applier.progress())[0].failed == 1
        applier.suspect(house.collection)
        await settled(applier)  # its absence is no difference
    [failure] = house.catalog.generations.failures(house.generation.id)
    assert (failure.passage, failure.reason) == (2, "not finite")
    assert house.value("index_applied_passages_total", operation="fail") == 1


async def test_a_failed_passage_is_met_again_when_it_is_retried(house):
    async with house.applier() as applier:
        house.put(stored("a", "poison"))
        await visible(applier, house)
        await until(lambda: house.catalog.generations.failures(house.generation.id))
        assert house.catalog.generations.retry(house.generation.id) == 1
        await visible(applier, house)
        await until(lambda: house.catalog.generations.failures(house.generation.id))
        house.put(stored("a", "cured"))
        await visible(applier, house)
        assert texts(house) == {"cured"}
    assert house.catalog.generations.failures(house.generation.id) == []


async def test_a_broken_encoder_makes_no_passage_guilty(house):
    async with house.applier() as applier:
        house.encoder.broken = True
        house.put(stored("a", "text"), stored("b", "more"))
        applier.notify()
        await until(lambda: len(house.encoder.batches) > 4)
        assert applier.applied(house.collection) == 0
        house.encoder.broken = False
        await visible(applier, house)
        assert texts(house) == {"text", "more"}
    assert house.catalog.generations.failures(house.generation.id) == []


async def test_a_bug_in_the_encoder_holds_up_and_kills_nothing(house):
    real, calls = house.encoder, []

    async def buggy(texts):
        calls.append(texts)
        if len(calls) < 3:
            raise ZeroDivisionError
        return await real(texts)

    house.encoder = buggy
    async with house.applier() as applier:
        house.put(stored("a", "text"))
        await visible(applier, house)
    assert len(calls) == 3


async def test_a_bug_in_the_index_holds_up_and_kills_nothing(house):
    failures = [ValueError("a bug")]

    def fail_once(operation, _):
        if operation == "apply" and failures:
            raise failures.pop()

    async with house.applier() as applier:
        house.backend.before = fail_once
        house.put(stored("a", "text"))
        await visible(applier, house)
    assert texts(house) == {"text"}


async def test_a_huge_load_in_one_collection_starves_no_other(house):
    other = house.catalog.collections.create("other").id
    house.encoder.gate.clear()
    async with house.applier() as applier:
        house.put(*[stored(f"d{number}", f"text {number}") for number in range(200)])
        applier.notify()
        small = house.put(stored("a", "small"), collection=other)
        house.encoder.gate.set()
        assert await applier.wait_visible(other, small, timeout_s=PATIENCE_S)
        assert applier.applied(house.collection) < 200
        await visible(applier, house)


async def test_the_next_batch_is_embedded_while_the_current_one_is_applied(house):
    during = []
    house.put(*[stored(f"d{number}", f"text {number}") for number in range(12)])
    applying, embedding = asyncio.Event(), house.encoder

    async def watched(texts):
        during.append(applying.is_set())
        return await embedding(texts)

    house.encoder = watched
    async with house.applier() as applier:
        index = house.index()
        real = index.apply

        async def slow(upserts, deletes):
            applying.set()
            await asyncio.sleep(0.05)
            await real(upserts, deletes)
            applying.clear()

        index.apply = slow
        await visible(applier, house)
    assert during == [False, True, True]


async def test_a_batch_read_ahead_of_a_failed_one_is_not_applied_before_it(house):
    house.put(*[stored(f"d{number}", f"text {number}") for number in range(12)])
    order = []
    async with house.applier() as applier:
        index = house.index()
        real = index.apply

        async def fail_second(upserts, deletes):
            order.append(upserts[0].rev)
            if len(order) == 2:
                await until(lambda: len(house.encoder.batches) == 3)
                await asyncio.sleep(0.02)  # now the third batch is ready
                raise IndexUnavailable("a timeout")
            await real(upserts, deletes)

        index.apply = fail_second
        await visible(applier, house)
    assert order == [1, 5, 5, 9]


async def test_a_lost_index_is_rebuilt(house):
    async with house.applier() as applier:
        house.put(stored("a", "text"))
        await visible(applier, house)
    house.backend.indexes.clear()
    async with house.applier() as applier:
        await settled(applier)
        assert texts(house) == {"text"}
    assert house.value("index_rebuilds_total", reason="missing") == 1


async def test_an_index_is_not_searched_before_it_is_equal_to_the_catalog(house):
    house.put(stored("a", "text"))
    house.encoder.gate.clear()
    async with house.applier() as applier:
        with pytest.raises(IndexUnavailable, match="brought in step with the catalog"):
            applier.index(house.collection)
        [progress] = await applier.progress()
        assert progress.state == "building"
        assert not await applier.wait_visible(house.collection, 1, timeout_s=0.02)
        house.encoder.gate.set()
        await visible(applier, house)
        assert applier.index(house.collection) is house.index()


async def test_a_new_collection_is_no_rebuild(house):
    async with house.applier() as applier:
        await settled(applier)
    assert house.value("index_rebuilds_total", reason="missing") is None


async def test_an_index_that_vanishes_or_breaks_while_serving_is_rebuilt(house):
    async with house.applier() as applier:
        house.put(stored("a", "text"))
        await visible(applier, house)
        house.backend.corrupt.add("g1-c1")
        house.put(stored("b", "more"))
        applier.notify()
        await until(lambda: house.value("index_rebuilds_total", reason="corrupt") == 1)
        await visible(applier, house)
        await settled(applier)
        assert texts(house) == {"text", "more"}


async def test_an_index_of_another_space_is_rebuilt(house):
    async with house.applier() as applier:
        house.put(stored("a", "text"))
        await visible(applier, house)
    house.fields = {}
    index = house.index()
    index.spec = type(index.spec)(index.spec.name, "another space", DIMENSION, index.spec.fields)
    async with house.applier() as applier:
        await visible(applier, house)
        assert applier.index(house.collection).spec.space == "s"
    assert texts(house) == {"text"}


async def test_an_index_ahead_of_a_restored_catalog_is_rebuilt(house):
    async with house.applier() as applier:
        house.put(stored("a", "text"))
        await visible(applier, house)
    house.catalog.generations.advance(house.generation.id, house.collection, applied_rev=99)
    async with house.applier() as applier:
        await visible(applier, house)
        await settled(applier)
    assert house.value("index_rebuilds_total", reason="ahead") == 1
    assert house.cursor() == 1


@pytest.mark.parametrize("damage", ["missing", "surplus", "stale", "empty"])
async def test_an_index_that_differs_from_the_catalog_is_rebuilt(house, damage):
    house.put(*[stored(f"d{number}", f"text {number}") for number in range(5)])
    async with house.applier() as applier:
        await settled(applier)
        points = house.index().visible
        point = points[3]
        if damage == "missing":
            del points[3]
        elif damage == "surplus":
            points[77] = type(point)(77, point.vector, 77, 77, "en", {})
        elif damage == "stale":
            points[3] = type(point)(3, point.vector, 1, point.document, "en", {})
        else:
            points.clear()
        if damage == "surplus":
            house.put(stored("after", "text after"))  # writing goes on meanwhile
        applier.suspect(house.collection)
        await until(lambda: house.value("index_rebuilds_total", reason="mismatch") == 1)
        await settled(applier)
        assert {number: each.rev for number, each in house.index().visible.items()} == dict(
            house.catalog.passages.live(house.collection, through_rev=99, after=0, limit=99)
        )


async def test_verification_tolerates_what_is_written_meanwhile(house):
    house.put(*[stored(f"d{number}", f"text {number}") for number in range(5)])
    done = []

    def write(operation, _):
        if operation == "scan" and not done:
            done.append(True)
            house.put(stored("d1", "edited"), stored("new", "new"))
            house.catalog.documents.delete(house.collection, ["d2"])

    house.backend.before = write
    async with house.applier() as applier:
        await settled(applier)
        await visible(applier, house)
    assert done
    assert house.value("index_rebuilds_total", reason="mismatch") is None


async def test_a_collection_can_be_attached_and_detached_while_it_serves(house):
    async with house.applier() as applier:
        made = house.catalog.collections.create("second")
        await applier.attach(made)
        await applier.attach(made)
        house.put(stored("a", "text"), collection=made.id)
        await visible(applier, house, made.id)
        waiting = asyncio.create_task(applier.wait_visible(made.id, 99, timeout_s=PATIENCE_S))
        await asyncio.sleep(0)
        house.catalog.collections.delete("second")
        await applier.detach(made.id)
        await applier.detach(made.id)
        with pytest.raises(NotFound):
            await waiting
        with pytest.raises(NotFound):
            applier.index(made.id)
    assert list(house.backend.indexes) == ["g1-c1"]


async def test_a_batch_under_way_for_a_detached_collection_is_dropped(house):
    made = house.catalog.collections.create("second")
    house.encoder.gate.clear()
    async with house.applier() as applier:
        house.put(stored("a", "text"), collection=made.id)
        applier.notify()
        await asyncio.sleep(0.05)
        house.catalog.collections.delete("second")
        await applier.detach(made.id)
        house.encoder.gate.set()
        house.put(stored("a", "text"))
        await visible(applier, house)
    assert list(house.backend.indexes) == ["g1-c1"]


async def test_an_index_that_could_not_be_dropped_is_dropped_later(house):
    house.catalog.collections.create("second")
    async with house.applier() as applier:
        house.catalog.collections.delete("second")
        house.backend.down = True
        await applier.detach(2)
        house.backend.down = False
        assert sorted(house.backend.indexes) == ["g1-c1", "g1-c2"]
    assert sorted(house.backend.indexes) == ["g1-c1"]


async def test_a_bug_in_dropping_an_index_holds_up_nothing_else(house):
    house.catalog.collections.create("second")

    def buggy(operation, _):
        if operation == "drop":
            raise ZeroDivisionError

    async with house.applier() as applier:
        house.backend.before = buggy
        house.catalog.collections.delete("second")
        applier.notify()
        await until(lambda: ("drop", "g1-c2") in house.backend.calls[4:])
        house.put(stored("a", "text"))
        await visible(applier, house)
        house.backend.before = lambda operation, name: None
    assert sorted(house.backend.indexes) == ["g1-c1"]


async def test_an_index_that_a_dead_process_did_not_drop_is_dropped_at_a_start(house):
    house.catalog.collections.create("second")
    applier = await house.applier().__aenter__()
    house.catalog.collections.delete("second")
    house.backend.down = True
    await applier.detach(2)
    await die(applier)
    house.backend.down = False
    house.backend.before = unlistable
    async with house.applier():
        assert sorted(house.backend.indexes) == ["g1-c1", "g1-c2"]
    house.backend.before = lambda operation, name: None
    async with house.applier():
        assert sorted(house.backend.indexes) == ["g1-c1"]


def unlistable(operation, _):
    if operation == "list":
        raise IndexUnavailable("it does not answer")


async def test_the_lag_is_measured(house):
    house.put(*[stored(f"d{number}", f"text {number}") for number in range(6)])
    house.encoder.gate.clear()
    async with house.applier() as applier:
        await until(lambda: house.value("index_lag_passages") == 6)
        house.encoder.gate.set()
        await settled(applier)
        await until(lambda: house.value("index_lag_passages") == 0)


async def test_a_locked_catalog_delays_and_kills_nothing(house):
    async with house.applier() as applier:
        real = house.catalog.passages.heads
        calls = []

        def locked():
            calls.append(True)
            raise [IndexUnavailable("locked"), ZeroDivisionError()][len(calls) % 2]

        house.catalog.passages.heads = locked
        for seen in (1, 2):
            applier.notify()
            await until(lambda wanted=seen: len(calls) >= wanted)
        house.catalog.passages.heads = real
        house.put(stored("a", "text"))
        await visible(applier, house)


async def test_the_embedded_index_follows_through_the_death_of_its_host_and_restarts(
    house, tmp_path
):
    async with EdgeBackend.start(tmp_path / "index", metrics=house.metrics) as backend:
        house.backend = backend
        async with house.applier() as applier:
            house.put(
                *[stored(f"d{number}", f"text {number}", year=number) for number in range(30)]
            )
            applier.notify()
            await until(lambda: applier.applied(house.collection) > 0)
            os.kill(backend.pid, signal.SIGKILL)
            house.put(stored("d1", "edited"))
            house.catalog.documents.delete(house.collection, ["d2"])
            await visible(applier, house)
            await settled(applier)
            index = applier.index(house.collection)
            assert await index.count(Range("year", gte=28)) == 2
            [[match]] = await index.search([Query(vector("edited"), limit=1)])
            assert house.catalog.passages.hydrate([match.id])[match.id].text == "edited"
        before = len(house.encoder.batches)
        async with house.applier() as applier:
            await settled(applier)
            assert await applier.index(house.collection).count() == 29
        assert len(house.encoder.batches) == before
        assert house.value("index_rebuilds_total", reason="mismatch") is None


async def test_a_deleted_folder_of_the_embedded_index_is_rebuilt(house, tmp_path):
    house.put(*[stored(f"d{number}", f"text {number}") for number in range(5)])
    for _ in range(2):
        async with EdgeBackend.start(tmp_path / "index", metrics=house.metrics) as backend:
            house.backend = backend
            async with house.applier() as applier:
                await visible(applier, house)
                await settled(applier)
                assert await applier.index(house.collection).count() == 5
        shutil.rmtree(tmp_path / "index")
    assert house.value("index_rebuilds_total", reason="missing") == 1


KEYS = st.sampled_from(["a", "b", "c", "d"])
TEXTS = st.text("xyz", min_size=1, max_size=6) | st.just("poison")


class FollowingMachine(RuleBasedStateMachine):
    """Writes, restarts and crashes in any order; the index must end up as the dictionary says.

    Checked after every step, in what would survive a power loss at that moment (I4): each passage
    with a revision up to the cursor is in the index exactly as the catalog has it, or absent if it
    is dead or recorded as failed. Checked when the loop has caught up (I7): the same for all of it.
    """

    def __init__(self):
        super().__init__()
        self.model = {}
        self.entered = None

    @initialize()
    def start(self):
        self.closing = ExitStack()
        folder = self.closing.enter_context(ram_folder())
        self.house = self.closing.enter_context(House(folder))
        self.portal = self.closing.enter_context(start_blocking_portal())
        self.enter()

    def enter(self):
        self.catalog = Mortal(self.house.catalog)
        applier = self.house.applier(catalog=self.catalog, batch_passages=3, flush_interval_s=0.004)
        self.entered = self.portal.call(applier.__aenter__)

    @rule(
        drafts=st.lists(st.tuples(KEYS, TEXTS, st.integers(1, 3), st.integers(0, 2)), max_size=4),
        watched=st.booleans(),
    )
    def put(self, drafts, watched):
        documents = [stored(key, text, pieces=n, year=year) for key, text, n, year in drafts]
        revision = self.house.put(*documents)
        self.model |= {document.document.id: document for document in documents}
        self.after_writing(revision, watched)

    @rule(keys=st.lists(KEYS, max_size=3), watched=st.booleans())
    def delete(self, keys, watched):
        written = self.house.catalog.documents.delete(self.house.collection, keys)
        assert written.documents == len(set(keys) & set(self.model))
        for key in keys:
            self.model.pop(key, None)
        self.after_writing(written.revision, watched)

    @rule(year=st.integers(0, 2), watched=st.booleans())
    def delete_where(self, year, watched):
        where = Equals("year", year)
        written = self.house.catalog.documents.delete_where(self.house.collection, where)
        gone = [key for key, each in self.model.items() if each.document.metadata["year"] == year]
        assert written.documents == len(gone)
        for key in gone:
            del self.model[key]
        self.after_writing(written.revision, watched)

    @rule()
    def retry_failures(self):
        self.house.catalog.generations.retry(self.house.generation.id)

    @rule()
    def restart(self):
        self.portal.call(self.entered.__aexit__, None, None, None)
        assert self.house.cursor() >= self.house.catalog.passages.heads()[1] or self.lagging()
        self.enter()

    @rule()
    def crash(self):
        """The process dies, and so does the index: both know only what was flushed."""
        self.portal.call(self.kill)
        self.house.backend.crash()
        self.enter()

    @rule()
    def lose_the_index(self):
        self.portal.call(self.kill)
        self.house.backend.indexes.clear()
        self.enter()

    @rule()
    def catch_up(self):
        self.portal.call(settled, self.entered)
        self.portal.call(visible, self.entered, self.house)
        assert self.held(self.house.index().visible) == self.expected()

    @invariant()
    def what_is_durable_is_what_the_cursor_says(self):
        if self.entered is not None:
            self.portal.call(self.check_durable)

    def teardown(self):
        if self.entered is not None:
            self.catch_up()
            self.portal.call(self.entered.__aexit__, None, None, None)
            assert self.held(self.house.index().durable) == self.expected()
            self.closing.close()

    def after_writing(self, revision, watched):
        self.portal.call(self.entered.notify)
        if watched:
            wait = partial(self.entered.wait_visible, 1, revision, timeout_s=PATIENCE_S)
            assert self.portal.call(wait)
            if revision == self.house.catalog.passages.heads()[1]:  # else it changed nothing
                assert self.held(self.house.index().visible) == self.expected()

    async def kill(self):
        """End the loops as a SIGKILL would: nothing is flushed, no cursor saved."""
        await die(self.entered)
        self.catalog.kill()

    async def check_durable(self):
        cursor = self.house.cursor()  # first: it never runs ahead of the index
        index = self.house.backend.indexes.get("g1-c1")
        durable = {} if index is None else {n: each.rev for n, each in index.durable.items()}
        live = self.house.catalog.passages.live(1, through_rev=cursor, after=0, limit=1_000)
        failures = self.house.catalog.generations.failures(self.house.generation.id)
        failed = {(each.passage, each.rev) for each in failures}
        for number, rev in set(live) - failed:
            assert durable[number] == rev
        rows = self.house.catalog.passages.revisions(list(durable))
        for number, rev in durable.items():
            assert (number, rev) in live or rows.get(number, 0) > cursor

    def lagging(self):
        return any(
            number > self.house.cursor() for number in self.house.catalog.passages.heads().values()
        )

    def held(self, points):
        found = self.house.catalog.passages.hydrate(list(points))
        assert all(np.array_equal(each.vector, vector(found[n].text)) for n, each in points.items())
        return {(found[n].document, found[n].number, found[n].text) for n in points}

    def expected(self):
        return {
            (key, number, piece)
            for key, each in self.model.items()
            for number, span in enumerate(each.spans)
            if "poison" not in (piece := each.document.text[span.start : span.end])
        }


@pytest.mark.slow
def test_the_index_follows_the_catalog_through_writes_restarts_and_crashes():
    run_state_machine_as_test(
        FollowingMachine, settings=settings(max_examples=25, stateful_step_count=25, deadline=None)
    )
