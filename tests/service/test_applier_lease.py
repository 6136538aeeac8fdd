"""Several processes over one catalog and one backend: one fills the indexes, the others follow."""

import asyncio
from contextlib import AsyncExitStack
from types import SimpleNamespace

import pytest

from service.applier.lease import LeaseKeeper
from service.errors import Conflict, IndexUnavailable, NotFound, Unavailable
from service.vectors.backend import Query
from tests.applier_house import (
    PATIENCE_S,
    Encoder,
    House,
    die,
    expire,
    settled,
    stored,
    texts,
    until,
    vector,
    visible,
)
from tests.ram_folder import ram_folder

TTL_S = 3.0
GRACE_S = 0.05


class Clock:
    """A process's own clock, which a test may stop or put on."""

    def __init__(self):
        self.now_s = 1_000.0

    def __call__(self):
        return self.now_s


class Cut:
    """The catalog as a process sees it whose requests for the lease get lost while `cut`."""

    def __init__(self, catalog):
        self.cut = False
        for part in ("collections", "documents", "passages", "generations"):
            setattr(self, part, getattr(catalog, part))
        self.leases = SimpleNamespace(take=self.take, release=catalog.leases.release)
        self._take = catalog.leases.take

    def take(self, *args, **kwargs):
        if self.cut:
            raise Unavailable("the line is cut")
        return self._take(*args, **kwargs)


@pytest.fixture
def house():
    with ram_folder() as folder, House(folder) as house:
        yield house


@pytest.fixture
async def enter():
    """Enters appliers, and leaves those that are left in reverse order."""
    async with AsyncExitStack() as stack:
        yield stack.enter_async_context


def pod(house, owner, **options):
    usual = {"owner": owner, "lease_ttl_s": TTL_S, "takeover_grace_s": GRACE_S}
    return house.applier(**(usual | options))


def operations(house, *wanted):
    return [operation for operation, _ in house.backend.calls if operation in wanted]


async def found(applier, house, text):
    index = applier.index(house.collection)
    [[match]] = await index.search([Query(vector(text), limit=1)])
    return house.catalog.passages.hydrate([match.id])[match.id].text


async def test_one_of_two_fills_the_indexes_and_both_answer_from_them(house, enter):
    a, b = await enter(pod(house, "a")), await enter(pod(house, "b"))
    house.put(*[stored(f"d{number}", f"text {number}") for number in range(20)])
    await visible(a, house)
    await visible(b, house)
    assert (a.leads, b.leads) == (True, False)
    assert await found(a, house, "text 7") == await found(b, house, "text 7") == "text 7"
    embedded = [text for batch in house.encoder.batches for text in batch]
    assert sorted(embedded) == sorted(texts(house))  # each of them once
    assert operations(house, "create", "drop") == ["drop", "create"]
    assert [each.state for each in await b.progress()] == ["current"]


async def test_a_follower_answers_only_from_what_was_proven(house, enter):
    house.put(stored("a", "text"))
    house.encoder.gate.clear()
    await enter(pod(house, "a"))
    b = await enter(pod(house, "b"))
    assert [each.state for each in await b.progress()] == ["building"]
    with pytest.raises(IndexUnavailable, match="brought in step with the catalog"):
        b.index(house.collection)
    assert not await b.wait_visible(house.collection, 1, timeout_s=0.1)
    house.encoder.gate.set()
    await visible(b, house)
    assert await found(b, house, "text") == "text"


async def test_a_follower_makes_and_drops_and_mends_nothing(house, enter):
    house.catalog.leases.take("writer-1", "elsewhere", ttl_s=3600)
    house.put(stored("a", "text"))
    b = await enter(pod(house, "b"))
    assert not await b.wait_visible(house.collection, 1, timeout_s=0.3)
    with pytest.raises(IndexUnavailable, match="is being opened: there is no index g1-c1"):
        b.index(house.collection)
    made = house.catalog.collections.create("second")
    await b.attach(made)
    await b.detach(made.id)
    assert operations(house, "create", "drop", "apply", "flush") == []
    assert house.encoder.batches == []


async def test_a_follower_leaves_an_index_that_was_found_wrong_until_it_is_right(house, enter):
    a, b = await enter(pod(house, "a")), await enter(pod(house, "b"))
    house.put(*[stored(f"d{number}", f"text {number}") for number in range(5)])
    await visible(b, house)
    del house.index().visible[3]
    house.encoder.gate.clear()
    a.suspect(house.collection)
    await until(lambda: house.value("index_rebuilds_total", reason="mismatch") == 1)
    await until(lambda: not b._shelves.get(house.collection).verified)
    with pytest.raises(IndexUnavailable):
        b.index(house.collection)
    house.encoder.gate.set()
    await visible(b, house)
    assert await found(b, house, "text 3") == "text 3"


async def test_a_follower_opens_again_what_failed_in_a_search(house, enter):
    await enter(pod(house, "a"))
    b = await enter(pod(house, "b"))
    await visible(b, house)
    b.suspect(house.collection)
    with pytest.raises(IndexUnavailable, match="being opened"):
        b.index(house.collection)
    await visible(b, house)
    assert b.index(house.collection) is house.index()


async def test_collections_that_another_process_makes_or_deletes_are_found_by_the_loop(
    house, enter
):
    a, b = await enter(pod(house, "a")), await enter(pod(house, "b"))
    made = house.catalog.collections.create("second")
    revision = house.put(stored("x", "elsewhere"), collection=made.id)
    for applier in (a, b):
        await until(lambda here=applier: here._shelves.get(made.id))
        assert await applier.wait_visible(made.id, revision, timeout_s=PATIENCE_S)
    assert texts(house, made.id) == {"elsewhere"}
    waiting = [
        asyncio.create_task(each.wait_visible(made.id, 99, timeout_s=PATIENCE_S)) for each in (a, b)
    ]
    house.catalog.collections.delete("second")
    for each in waiting:
        with pytest.raises(NotFound, match="was deleted"):
            await each
    await until(lambda: list(house.backend.indexes) == ["g1-c1"])
    assert house.backend.calls.count(("drop", "g1-c2")) == 2  # before it was made, and in the end


async def test_what_another_process_writes_is_durable_soon_so_that_it_sees_it(house, enter):
    a = await enter(pod(house, "a", flush_interval_s=3600))
    b = await enter(pod(house, "b"))
    await settled(a)
    head = house.put(stored("a", "from elsewhere"))
    assert await b.wait_visible(house.collection, head, timeout_s=PATIENCE_S)


async def test_who_leaves_hands_over_and_the_next_compares_and_goes_on(house, enter):
    answered = []
    async with pod(house, "a") as a:
        b = await enter(pod(house, "b"))
        house.put(stored("a", "before"))
        await visible(a, house)
        await visible(b, house)
    house.backend.calls.clear()
    while not (b.leads and "scan" in operations(house, "scan")):
        answered.append(await found(b, house, "before"))  # it answers all the while
    house.put(stored("b", "after"))
    await visible(b, house)
    await settled(b)
    assert texts(house) == {"before", "after"}
    assert answered
    assert set(answered) == {"before"}
    assert operations(house, "create", "drop") == []
    assert operations(house, "open")


async def test_what_a_dead_process_left_undone_is_done_by_the_next(house, enter):
    a = await pod(house, "a", flush_interval_s=3600).__aenter__()
    b = await enter(pod(house, "b"))
    head = house.put(*[stored(f"d{number}", f"text {number}") for number in range(9)])
    assert await a.wait_visible(house.collection, head, timeout_s=PATIENCE_S)
    await die(a)
    expire(house, a)
    assert house.cursor() == 0
    await visible(b, house)
    await until(lambda: house.cursor() == head)
    assert b.leads
    assert len(texts(house)) == 9


async def test_an_index_that_is_wrong_at_a_change_of_hands_is_rebuilt(house, enter):
    async with pod(house, "a") as a:
        b = await enter(pod(house, "b"))
        house.put(*[stored(f"d{number}", f"text {number}") for number in range(5)])
        await visible(a, house)
        del house.index().visible[3]
    await until(lambda: house.value("index_rebuilds_total", reason="mismatch") == 1)
    await settled(b)
    assert len(texts(house)) == 5


async def test_a_lease_that_another_had_is_used_only_after_a_grace(house, enter):
    clock = Clock()
    async with pod(house, "a"):
        pass
    house.backend.calls.clear()
    house.put(stored("a", "text"))
    b = await enter(pod(house, "b", takeover_grace_s=0.3, clock=clock))
    clock.now_s += 0.29
    assert not await b.wait_visible(house.collection, 1, timeout_s=0.2)
    assert not b.leads
    assert operations(house, "apply", "flush", "create", "drop") == []
    clock.now_s += 0.02
    await visible(b, house)
    assert b.leads


async def test_a_process_that_keeps_its_name_needs_no_grace_after_a_restart(house, enter):
    await die(await pod(house, "a").__aenter__())
    a = await enter(pod(house, "a", takeover_grace_s=3600))
    assert a.leads


async def test_a_sleeper_that_wakes_up_moves_no_cursor_and_follows(house, enter):
    """Its clock stood still with it, so that it is the catalog which finds it out."""
    catalog, asleep, other = Cut(house.catalog), Clock(), Encoder()
    a = await enter(pod(house, "a", catalog=catalog, clock=asleep))
    b = await enter(pod(house, "b", encoder=other))
    house.put(stored("a", "before"))
    await visible(b, house)
    catalog.cut = True
    expire(house, a)
    await until(lambda: b.leads)
    await settled(b)
    other.gate.clear()
    cursor = house.cursor()
    head = house.put(stored("b", "meanwhile"))
    a.notify()
    await until(lambda: not a.leads)
    assert ["meanwhile"] in house.encoder.batches  # it believed that it was its turn
    assert house.cursor() == cursor
    assert a.applied(house.collection) == cursor
    other.gate.set()
    assert await a.wait_visible(house.collection, head, timeout_s=PATIENCE_S)
    assert await b.wait_visible(house.collection, head, timeout_s=PATIENCE_S)
    assert (a.leads, b.leads) == (False, True)
    assert texts(house) == {"before", "meanwhile"}


async def test_who_cannot_renew_stops_by_its_own_clock_and_goes_on_with_the_same_lease(
    house, enter
):
    catalog, clock = Cut(house.catalog), Clock()
    a = await enter(pod(house, "a", catalog=catalog, clock=clock, takeover_grace_s=3600))
    house.put(stored("a", "before"))
    await visible(a, house)
    await settled(a)
    catalog.cut = True
    clock.now_s += TTL_S  # nobody has taken the lease, but it could have been taken
    house.backend.calls.clear()
    head = house.put(stored("b", "after"))
    assert not await a.wait_visible(house.collection, head, timeout_s=0.1)
    await until(lambda: not a.leads)
    assert operations(house, "apply", "flush") == []
    assert await found(a, house, "before") == "before"
    catalog.cut = False
    assert await a.wait_visible(house.collection, head, timeout_s=PATIENCE_S)
    assert a.leads


async def test_what_was_read_ahead_is_thrown_away_with_the_lease(house, enter):
    catalog, clock, other = Cut(house.catalog), Clock(), Encoder()
    a = await enter(pod(house, "a", catalog=catalog, clock=clock))
    b = await enter(pod(house, "b", encoder=other))
    await visible(b, house)
    house.encoder.gate.clear()
    head = house.put(stored("a", "text"))
    a.notify()
    await asyncio.sleep(0.05)  # it is being embedded
    catalog.cut = True
    clock.now_s += TTL_S
    await a._keeper.ask()
    expire(house, a)
    await visible(b, house)
    house.encoder.gate.set()
    assert await a.wait_visible(house.collection, head, timeout_s=PATIENCE_S)
    assert house.encoder.batches == []  # the embedding itself was given up
    assert other.batches == [["text"]]


async def test_a_write_under_way_is_cut_off_with_the_lease(house, enter):
    catalog, clock, ended = Cut(house.catalog), Clock(), []
    a = await enter(pod(house, "a", catalog=catalog, clock=clock))
    await settled(a)
    index = house.index()
    real, begun = index.apply, asyncio.Event()

    async def hangs(upserts, deletes):
        begun.set()
        try:
            await asyncio.sleep(3600)  # a server that does not answer, asked again and again
        finally:
            ended.append(a._keeper.ready)

    index.apply = hangs
    house.put(stored("a", "text"))
    a.notify()
    await begun.wait()
    catalog.cut = True
    clock.now_s += TTL_S
    await a._keeper.ask()
    await until(lambda: ended)
    assert ended == [False]
    index.apply = real


async def test_two_generations_of_one_space_share_index_cursor_and_writer(house, enter):
    second = house.candidate(space="s")
    assert second.indexes == house.generation.id
    twin = Encoder()
    async with pod(house, "a") as first:
        other = await enter(pod(house, "b", generation=second, encoder=twin))
        head = house.put(stored("a", "text"))
        for each in (first, other):
            assert await each.wait_visible(house.collection, head, timeout_s=PATIENCE_S)
        assert (first.leads, other.leads) == (True, False)
    head = house.put(stored("b", "more"))
    assert await other.wait_visible(house.collection, head, timeout_s=PATIENCE_S)
    assert other.leads
    assert (house.encoder.batches, twin.batches) == ([["text"]], [["more"]])
    assert list(house.backend.indexes) == ["g1-c1"]
    await until(lambda: house.cursor() == head)
    assert house.catalog.generations.cursors(second.id) == {}


async def test_a_start_without_the_lease_succeeds_and_leads_later(house, enter):
    catalog = Cut(house.catalog)
    catalog.cut = True
    a = await enter(pod(house, "a", catalog=catalog))
    assert not a.leads
    catalog.cut = False
    await visible(a, house)
    assert a.leads


async def test_a_takeover_waits_for_a_catalog_that_does_not_answer(house, enter):
    b = await enter(pod(house, "b", catalog=(catalog := Cut(house.catalog))))
    real, calls = catalog.generations.positions, []
    catalog.cut = True

    def broken(generation):
        calls.append(generation)
        raise ZeroDivisionError if len(calls) == 1 else Unavailable("locked")

    expire(house, b)
    house.catalog.leases.take("writer-1", "elsewhere", ttl_s=0.1)
    b._keeper.lose()
    await until(lambda: not b.leads)
    catalog.generations.positions = broken
    catalog.cut = False
    await until(lambda: b._keeper.ready and len(calls) > 4)
    assert not b.leads
    catalog.generations.positions = real
    await until(lambda: b.leads)


async def test_a_keeper_survives_a_bug_in_the_catalog(house):
    def take(*_args, **_kwargs):
        raise ZeroDivisionError

    broken = SimpleNamespace(leases=SimpleNamespace(take=take))
    keeper = LeaseKeeper(broken, "writer-1", "a", ttl_s=1, grace_s=0)
    await keeper.ask()
    assert not keeper.ready
    with pytest.raises(Conflict, match="'writer-1' is not held by a"):
        keeper.require()


async def test_a_lease_that_was_anothers_meanwhile_begins_anew(house):
    leases = house.catalog.leases
    keeper = LeaseKeeper(house.catalog, "writer-1", "a", ttl_s=60, grace_s=0)
    await keeper.ask()
    keeper.begin()
    first = keeper.require()
    await keeper.ask()
    assert keeper.require().fence == first.fence
    leases.release(first)
    leases.release(leases.take("writer-1", "b", ttl_s=60))
    lost = asyncio.create_task(keeper.lost())
    await keeper.ask()
    await lost  # it holds the lease, but the indexes may have changed
    assert keeper.ready
    with pytest.raises(Conflict):
        keeper.require()
    keeper.begin()
    assert keeper.require().fence == first.fence + 2


async def test_a_lease_that_is_anothers_is_lost(house):
    leases = house.catalog.leases
    keeper = LeaseKeeper(house.catalog, "writer-1", "a", ttl_s=60, grace_s=0)
    await keeper.ask()
    keeper.begin()
    leases.release(keeper.require())
    leases.take("writer-1", "b", ttl_s=60)
    lost = asyncio.create_task(keeper.lost())
    await keeper.ask()
    await lost
    assert not keeper.ready
    await keeper.release()  # there is nothing to release
    assert leases.take("writer-1", "c", ttl_s=60) is None
