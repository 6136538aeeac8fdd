"""What a change of the live generation rests on: states, route, write gate, leases and heartbeats."""

import itertools
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.catalog import Catalog, StoredDocument
from service.catalog.database import GATE_POLL_S
from service.errors import Conflict, EpochMismatch, NotFound
from service.types import Document, Span
from tests.ram_folder import ram_folder

LAYOUT_1 = """
CREATE TABLE layout (version INTEGER NOT NULL);
CREATE TABLE head (id INTEGER NOT NULL PRIMARY KEY, rev INTEGER NOT NULL, document INTEGER NOT NULL,
  passage INTEGER NOT NULL, collection INTEGER NOT NULL, generation INTEGER NOT NULL);
CREATE TABLE collections (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(64) NOT NULL UNIQUE,
  fields JSON NOT NULL, created VARCHAR(32) NOT NULL);
CREATE TABLE documents (id INTEGER NOT NULL PRIMARY KEY, collection INTEGER NOT NULL,
  "key" TEXT NOT NULL, digest BLOB NOT NULL, language VARCHAR(64) NOT NULL, title TEXT NOT NULL,
  metadata JSON NOT NULL, text TEXT NOT NULL);
CREATE TABLE passages (id INTEGER NOT NULL PRIMARY KEY, collection INTEGER NOT NULL,
  document INTEGER NOT NULL, number INTEGER NOT NULL, start INTEGER NOT NULL, "end" INTEGER NOT NULL,
  language VARCHAR(64) NOT NULL, rev INTEGER NOT NULL, dead BOOLEAN NOT NULL);
CREATE TABLE generations (id INTEGER NOT NULL PRIMARY KEY, bundle VARCHAR(128) NOT NULL,
  version VARCHAR(64) NOT NULL, space VARCHAR(128) NOT NULL, dimension INTEGER NOT NULL,
  state VARCHAR(32) NOT NULL, created VARCHAR(32) NOT NULL);
CREATE TABLE cursors (generation INTEGER NOT NULL, collection INTEGER NOT NULL,
  applied_rev INTEGER NOT NULL, PRIMARY KEY (generation, collection));
CREATE TABLE failures (generation INTEGER NOT NULL, passage INTEGER NOT NULL,
  collection INTEGER NOT NULL, rev INTEGER NOT NULL, reason TEXT NOT NULL,
  PRIMARY KEY (generation, passage));
CREATE TABLE route (id INTEGER NOT NULL PRIMARY KEY, epoch INTEGER NOT NULL, active INTEGER,
  previous INTEGER);
CREATE TABLE events (id INTEGER NOT NULL PRIMARY KEY, at VARCHAR(32) NOT NULL,
  kind VARCHAR(64) NOT NULL, generation INTEGER, detail JSON NOT NULL);
INSERT INTO layout VALUES (1);
INSERT INTO head VALUES (1, 7, 2, 3, 1, 1);
INSERT INTO collections VALUES (1, 'default', '{}', '2026-11-20T10:00:00.000+00:00');
INSERT INTO generations VALUES (1, 'first', '1.0.0', 's', 4, 'active', '2026-11-20T10:00:00.000+00:00');
INSERT INTO cursors VALUES (1, 1, 7);
INSERT INTO route VALUES (1, 1, 1, NULL);
"""


@pytest.fixture
def catalog(catalog_url):
    with Catalog(catalog_url, busy_timeout_s=5) as catalog:
        yield catalog


@pytest.fixture
def collection(catalog):
    return catalog.collections.create("default").id


def register(catalog, version, *, space=None, **options):
    return catalog.generations.register(
        bundle="b",
        version=version,
        precision="fp32",
        space=space or f"s{version}",
        dimension=4,
        **options,
    )


def live(catalog, version="1", **options):
    """A first generation, live at epoch 1."""
    first = register(catalog, version, **options)
    catalog.generations.cut_over(first.id, epoch=0, soak_s=0)
    return catalog.generations.get(first.id)


def advance(catalog, generation, *states):
    before = "registered"
    for state in states:
        catalog.generations.move(generation, state, expect=[before])
        before = state


def ready(catalog, version, **options):
    made = register(catalog, version, **options)
    advance(catalog, made.id, "building", "indexing", "catching_up", "verifying", "ready")
    return made


def stored(key, text):
    return StoredDocument(Document(key, text), "en", [Span(0, len(text))])


def put(catalog, collection, key="a", text="text"):
    return catalog.documents.put(collection, [stored(key, text)]).revision


def test_a_catalog_of_the_first_layout_is_brought_up_to_date_with_what_it_holds(tmp_path):
    path = tmp_path / "catalog.db"
    with closing(sqlite3.connect(path)) as old:
        old.executescript(LAYOUT_1)
    for _ in range(2):
        with Catalog(f"sqlite:///{path}") as catalog:
            route = catalog.generations.route()
            assert (route.epoch, route.active, route.previous, route.soak_until) == (
                1,
                1,
                None,
                None,
            )
            first = catalog.generations.get(1)
            assert (first.indexes, first.changed, first.paused) == (1, first.created, False)
            assert (first.precision, first.options) == ("", {})
            assert catalog.generations.report(1) is None
            assert catalog.generations.positions(1)[1].applied_rev == 7
            assert catalog.leases.take("migration", "pod", ttl_s=1) is not None
            assert catalog.pods.list(fresh_s=10) == []
    with Catalog(f"sqlite:///{path}") as catalog:
        assert register(catalog, "2").id == 2


def test_the_first_generation_goes_live_without_soak(catalog):
    assert catalog.generations.route().active is None
    first = live(catalog)
    assert first.state == "active"
    route = catalog.generations.route()
    assert (route.epoch, route.active, route.previous, route.soak_until) == (
        1,
        first.id,
        None,
        None,
    )


def test_a_cut_over_is_a_compare_and_set_on_the_epoch(catalog):
    blue, green = live(catalog), ready(catalog, "2")
    with pytest.raises(EpochMismatch, match="at epoch 1, not 0"):
        catalog.generations.cut_over(green.id, epoch=0, soak_s=60)
    assert catalog.generations.get(green.id).state == "ready"
    route = catalog.generations.cut_over(green.id, epoch=1, soak_s=60)
    assert (route.epoch, route.active, route.previous) == (2, green.id, blue.id)
    assert route.soak_until == pytest.approx(catalog.generations.clock() + 60, abs=5)
    states = [each.state for each in catalog.generations.list()]
    assert states == ["soaking", "active"]


def test_a_rollback_is_the_same_cut_over_reversed(catalog):
    blue, green = live(catalog), ready(catalog, "2")
    catalog.generations.cut_over(green.id, epoch=1, soak_s=60)
    route = catalog.generations.cut_over(blue.id, epoch=2, soak_s=60, reason="rollback")
    assert (route.epoch, route.active, route.previous) == (3, blue.id, green.id)
    assert [each.state for each in catalog.generations.list()] == ["active", "soaking"]
    assert catalog.generations.events(limit=1)[0].detail["reason"] == "epoch 3: rollback"


def test_a_generation_that_lacks_a_revision_does_not_go_live(catalog, collection):
    live(catalog)
    green = ready(catalog, "2")
    revision = put(catalog, collection)
    with pytest.raises(Conflict, match=r"generation 2 lacks revisions of 'default'"):
        catalog.generations.cut_over(green.id, epoch=1, soak_s=60)
    catalog.generations.advance(green.id, collection, applied_rev=revision)
    assert catalog.generations.cut_over(green.id, epoch=1, soak_s=60).active == green.id


def test_a_generation_goes_live_from_ready_alone(catalog):
    live(catalog)
    green = register(catalog, "2")
    with pytest.raises(Conflict, match=r"generation 2 \(b/2\) is registered, not ready or soaking"):
        catalog.generations.cut_over(green.id, epoch=1, soak_s=60)
    with pytest.raises(NotFound, match="generation 7"):
        catalog.generations.cut_over(7, epoch=1, soak_s=60)
    assert catalog.generations.route().epoch == 1


def test_a_state_changes_only_from_one_that_was_expected(catalog):
    made = register(catalog, "1")
    with pytest.raises(Conflict, match="is registered, not building"):
        catalog.generations.move(made.id, "indexing", expect=["building"])
    assert catalog.generations.get(made.id).state == "registered"


def test_one_candidate_at_a_time_and_none_while_another_soaks(catalog):
    live(catalog)
    green = ready(catalog, "2")
    with pytest.raises(Conflict, match=r"generation 2 \(b/2\) is ready: wait for it or abort it"):
        register(catalog, "3")
    catalog.generations.cut_over(green.id, epoch=1, soak_s=60)
    with pytest.raises(Conflict, match=r"generation 1 \(b/1\) soaks"):
        register(catalog, "3")
    route = catalog.generations.retire(1)
    assert (route.previous, route.soak_until) == (None, None)
    assert catalog.generations.get(1).state == "retiring"
    assert register(catalog, "3").state == "registered"


def test_a_request_made_twice_makes_one_generation(catalog):
    live(catalog)
    first = register(catalog, "2", request="key", options={"hold": True})
    assert register(catalog, "2", request="key", options={"hold": True}) == first
    catalog.generations.choose(first.id, hold=False, memory_bytes=9)  # it goes on meanwhile
    again = register(catalog, "2", request="key", options={"hold": True})
    assert (again.id, again.options) == (first.id, {"hold": False, "memory_bytes": 9})
    with pytest.raises(Conflict, match=r"'key' was used for b/2 before, or with other options"):
        register(catalog, "2", request="key", options={"hold": False})
    with pytest.raises(Conflict, match=r"'key' was used for b/2"):
        register(catalog, "3", request="key")
    assert len(catalog.generations.list()) == 2


def test_a_registration_at_another_epoch_is_refused(catalog):
    live(catalog)
    with pytest.raises(EpochMismatch):
        register(catalog, "2", epoch=5)
    assert register(catalog, "2", epoch=1).id == 2  # a refused one has taken no number


def test_a_generation_of_the_live_space_takes_over_its_indexes(catalog, collection):
    blue = live(catalog)
    revision = put(catalog, collection)
    catalog.generations.advance(blue.indexes, collection, applied_rev=revision)
    twin = ready(catalog, "2", space=blue.space)
    assert twin.indexes == blue.indexes
    assert catalog.generations.cut_over(twin.id, epoch=1, soak_s=60).active == twin.id
    catalog.generations.retire(blue.id)
    catalog.generations.move(blue.id, "retired", expect=["retiring"])
    catalog.documents.delete(collection, ["a"])
    assert catalog.passages.purge(collection) == 0  # the twin reads the cursor of its indexes


def test_pausing_choosing_and_judging_are_kept_with_the_generation(catalog):
    live(catalog)
    made = register(catalog, "2", options={"hold": True})
    assert catalog.generations.pause(made.id, paused=True, actor="me").paused
    assert catalog.generations.events(limit=1)[0].detail == {"actor": "me"}
    catalog.generations.choose(made.id, hold=False)
    assert catalog.generations.get(made.id).options == {"hold": False}
    assert catalog.generations.report(made.id) is None
    catalog.generations.judge(made.id, {"passed": True, "checks": []})
    assert catalog.generations.report(made.id) == {"passed": True, "checks": []}
    catalog.generations.move(made.id, "failed", expect=["registered"], error="no good")
    failed = catalog.generations.get(made.id)
    assert (failed.state, failed.error, failed.paused) == ("failed", "no good", False)
    with pytest.raises(Conflict, match="is failed"):
        catalog.generations.pause(made.id, paused=True)


def test_a_generation_that_was_paused_meanwhile_is_not_moved_on(catalog):
    live(catalog)
    made = register(catalog, "2")
    lease = catalog.leases.take("migration", "me", ttl_s=30)
    catalog.generations.pause(made.id, paused=True)
    with pytest.raises(Conflict, match=r"generation 2 \(b/2\) is paused"):
        catalog.generations.move(made.id, "building", expect=["registered"], lease=lease)
    assert catalog.generations.get(made.id).paused
    catalog.generations.pause(made.id, paused=False)
    advance(catalog, made.id, "building", "indexing", "catching_up", "verifying", "ready")
    catalog.generations.pause(made.id, paused=True)
    with pytest.raises(Conflict, match="is paused"):
        catalog.generations.cut_over(made.id, epoch=1, soak_s=1)
    catalog.generations.move(made.id, "failed", expect=["ready"], error="no", lease=lease)


def test_a_closed_gate_holds_writes_until_it_is_opened(catalog, collection):
    put(catalog, collection, "z")
    catalog.generations.close_gate(for_s=30)
    with ThreadPoolExecutor(3) as pool:
        writes = [
            pool.submit(put, catalog, collection, "a"),
            pool.submit(catalog.documents.delete, collection, ["z"]),
        ]
        assert catalog.documents.counts(collection).documents == 1  # reading goes on
        catalog.collections.create("other")  # and what deals no revision
        threading.Event().wait(20 * GATE_POLL_S)
        assert not any(write.done() for write in writes)
        assert catalog.passages.last_revision() == 1
        catalog.generations.open_gate()
        assert sorted(
            write.result(5) if isinstance(write.result(5), int) else 0 for write in writes
        )
    assert catalog.passages.last_revision() == 3


def test_a_gate_that_nobody_opens_opens_itself(catalog, collection):
    catalog.generations.close_gate(for_s=0.05)
    assert put(catalog, collection) == 1


def test_a_cut_over_opens_the_gate(catalog, collection):
    live(catalog)
    green = ready(catalog, "2")
    catalog.generations.close_gate(for_s=30)
    catalog.generations.cut_over(green.id, epoch=1, soak_s=1)
    assert put(catalog, collection) == 1


def test_a_generation_under_way_asks_until_it_is_live_itself(catalog):
    live(catalog)
    green = register(catalog, "2")
    advance(catalog, green.id, "building")
    route = catalog.generations.ask(green.id, epoch=1)
    assert (route.epoch, route.active, route.asking) == (2, 1, green.id)
    assert catalog.generations.events(limit=1)[0].kind == "asking"
    states = ("building", "indexing", "catching_up", "verifying", "ready")
    for before, after in itertools.pairwise(states):
        catalog.generations.move(green.id, after, expect=[before])
    assert catalog.generations.route() == route
    route = catalog.generations.cut_over(green.id, epoch=2, soak_s=60)
    assert (route.epoch, route.active, route.asking) == (3, green.id, None)


@pytest.mark.parametrize("end", ["failed", "aborted"])
def test_a_generation_that_ends_asks_no_longer_and_the_epoch_says_so(catalog, end):
    live(catalog)
    green = register(catalog, "2")
    advance(catalog, green.id, "building")
    catalog.generations.ask(green.id, epoch=1)
    catalog.generations.move(green.id, end, expect=["building"])
    route = catalog.generations.route()
    assert (route.epoch, route.active, route.asking) == (3, 1, None)


def test_nobody_asks_at_a_stale_epoch_while_held_or_when_the_way_is_over(catalog):
    live(catalog)
    green = register(catalog, "2")
    with pytest.raises(EpochMismatch):
        catalog.generations.ask(green.id, epoch=0)
    catalog.generations.pause(green.id, paused=True)
    with pytest.raises(Conflict, match="is paused"):
        catalog.generations.ask(green.id, epoch=1)
    catalog.generations.move(green.id, "aborted", expect=["registered"])
    with pytest.raises(Conflict, match="is aborted"):
        catalog.generations.ask(green.id, epoch=1)
    assert catalog.generations.route().asking is None


def test_a_lease_has_one_owner_until_it_expires(catalog):
    take = catalog.leases.take
    mine = take("migration", "me", ttl_s=30)
    assert (mine.owner, mine.fence) == ("me", 1)
    assert take("migration", "you", ttl_s=30) is None
    assert take("migration", "me", ttl_s=30).fence == 1  # renewed
    catalog.leases.release(mine)
    assert not catalog.leases.holds(mine)
    yours = take("migration", "you", ttl_s=30)
    assert (yours.owner, yours.fence) == ("you", 2)
    catalog.leases.release(mine)  # late, and without effect
    assert catalog.leases.holds(yours)
    assert take("migration", "me", ttl_s=-1) is None


def test_an_owner_that_was_overtaken_changes_nothing(catalog, collection):
    blue = live(catalog)
    green = register(catalog, "2")
    old = catalog.leases.take("migration", "me", ttl_s=-1)  # expired at once
    catalog.leases.take("migration", "you", ttl_s=30)
    generations = catalog.generations
    for change in (
        lambda: generations.move(green.id, "building", expect=["registered"], lease=old),
        lambda: generations.judge(green.id, {"passed": True}, lease=old),
        lambda: generations.cut_over(green.id, epoch=1, soak_s=1, lease=old),
        lambda: generations.retire(blue.id, lease=old),
        lambda: generations.advance(green.id, collection, applied_rev=9, lease=old),
        lambda: generations.rewind(green.id, collection, reason="wrong", lease=old),
        lambda: generations.prove(green.id, collection, verified=True, lease=old),
    ):
        with pytest.raises(Conflict, match="'migration' has passed from me"):
            change()
    assert generations.get(green.id) == green
    assert generations.positions(green.id) == {}


def test_a_proof_belongs_to_the_cursor_and_ends_with_it(catalog, collection):
    made = register(catalog, "1")
    catalog.generations.advance(made.id, collection, applied_rev=5)
    assert catalog.generations.positions(made.id)[collection].verified is False
    catalog.generations.prove(made.id, collection, verified=True)
    assert catalog.generations.positions(made.id)[collection].verified is True
    catalog.generations.rewind(made.id, collection, reason="missing")
    cursor = catalog.generations.positions(made.id)[collection]
    assert (cursor.applied_rev, cursor.verified) == (0, False)


def test_heartbeats_are_listed_while_they_are_fresh(catalog):
    catalog.pods.report("b", epoch=1, loaded=[2, 1], refused={})
    catalog.pods.report("a", epoch=1, loaded=[1], refused={2: "no memory"})
    catalog.pods.report("b", epoch=2, loaded=[2], refused={})
    a, b = catalog.pods.list(fresh_s=60)
    assert replace(a, seen_s=0) == type(a)("a", 0, 1, [1], {"2": "no memory"})
    assert (b.epoch, b.loaded) == (2, [2])
    assert 0 <= a.seen_s < 10
    assert catalog.pods.list(fresh_s=-60) == []
    catalog.pods.forget("a", silent_s=60)
    assert [pod.id for pod in catalog.pods.list(fresh_s=60)] == ["b"]
    catalog.pods.forget("c", silent_s=-60)
    assert catalog.pods.list(fresh_s=60) == []


class Swaps(RuleBasedStateMachine):
    """Candidates, cut-overs, writes and zombies in any order: one is live, and never behind."""

    def __init__(self):
        super().__init__()
        self.folder = ram_folder()
        url = f"sqlite:///{self.folder.__enter__() / 'catalog.db'}"
        self.catalog = Catalog(url).__enter__()
        self.collection = self.catalog.collections.create("default").id
        self.candidate = None
        self.number = 1
        self.epoch = 1
        live(self.catalog)

    def teardown(self):
        self.catalog.__exit__(None, None, None)
        self.folder.__exit__(None, None, None)

    @rule(key=st.sampled_from("abc"), text=st.sampled_from(["x", "y"]))
    def write(self, key, text):
        put(self.catalog, self.collection, key, text)

    @rule(space=st.sampled_from(["same", "new"]))
    def begin(self, space):
        route = self.catalog.generations.route()
        self.number += 1
        busy = self.candidate is not None or route.previous is not None
        chosen = self.catalog.generations.get(route.active).space if space == "same" else None
        try:
            made = ready(self.catalog, str(self.number), space=chosen)
        except Conflict:
            assert busy
        else:
            assert not busy
            self.candidate = made

    @precondition(lambda self: self.candidate is not None)
    @rule(applied=st.booleans(), stale=st.booleans())
    def cut_over(self, applied, stale):
        generations = self.catalog.generations
        head = self.catalog.passages.heads()[self.collection]
        if applied:
            generations.advance(self.candidate.indexes, self.collection, applied_rev=head)
        cursor = generations.cursors(self.candidate.indexes).get(self.collection, 0)
        try:
            generations.cut_over(self.candidate.id, epoch=self.epoch - stale, soak_s=9)
        except EpochMismatch:
            assert stale
        except Conflict:
            assert cursor < head
        else:
            assert not stale
            assert cursor >= head
            self.epoch += 1
            self.candidate = None

    @rule()
    def roll_back(self):
        generations = self.catalog.generations
        previous = generations.route().previous
        if previous is not None:
            indexes = generations.get(previous).indexes
            head = self.catalog.passages.heads()[self.collection]
            generations.advance(indexes, self.collection, applied_rev=head)
            generations.cut_over(previous, epoch=self.epoch, soak_s=9)
            self.epoch += 1

    @rule()
    def finish(self):
        previous = self.catalog.generations.route().previous
        if previous is not None:
            self.catalog.generations.retire(previous)
            self.catalog.generations.move(previous, "retired", expect=["retiring"])

    @precondition(lambda self: self.candidate is not None)
    @rule()
    def abort(self):
        self.catalog.generations.move(self.candidate.id, "aborted", expect=["ready"])
        self.candidate = None

    @invariant()
    def one_is_live_and_the_route_names_it(self):
        route, rows = self.catalog.generations.snapshot()
        by_state = {
            state: [row.id for row in rows if row.state == state]
            for state in ("active", "soaking", "ready")
        }
        assert by_state["active"] == [route.active]
        assert by_state["soaking"] == ([] if route.previous is None else [route.previous])
        assert by_state["ready"] == ([] if self.candidate is None else [self.candidate.id])
        assert route.epoch == self.epoch


TestSwaps = Swaps.TestCase
TestSwaps.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
