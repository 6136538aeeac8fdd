"""Several processes over one catalog, each an open catalog of its own here: nothing comes between."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest
import sqlalchemy
from sqlalchemy import event

from service.catalog import Catalog
from service.errors import Behind, Conflict, Unavailable
from tests import postgres
from tests.e2e.process import free_port
from tests.service.test_catalog_swap import LAYOUT_1, live, put, ready, register, stored

BRIEFLY_S = 0.2
"""So long something is watched that must not happen."""


@contextmanager
def opened(url, count=2, busy_timeout_s=20):
    with ExitStack() as stack:
        yield [
            stack.enter_context(Catalog(url, busy_timeout_s=busy_timeout_s)) for _ in range(count)
        ]


@pytest.fixture
def catalogs(catalog_url):
    with opened(catalog_url) as both:
        yield both


@pytest.fixture
def postgres_url(postgres_server):
    with postgres.schema(postgres_server) as url:
        yield url


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as pool:
        yield pool


@contextmanager
def held_before(catalog, statement):
    """Hold a catalog just before a statement; yields (arrived, go)."""
    arrived, go = threading.Event(), threading.Event()

    def hold(_connection, _cursor, text, *_rest):
        if text.startswith(statement):
            arrived.set()
            assert go.wait(20)

    engine = catalog._database.engine
    event.listen(engine, "before_cursor_execute", hold)
    try:
        yield arrived, go
    finally:
        go.set()
        event.remove(engine, "before_cursor_execute", hold)


def waits(future):
    """Whether something goes on waiting."""
    time.sleep(BRIEFLY_S)
    return not future.done()


def test_processes_that_start_at_once_make_one_catalog_with_one_default_collection(
    catalog_url, pool
):
    start = threading.Barrier(4)

    def begin():
        start.wait()
        with Catalog(catalog_url) as catalog:
            return catalog.collections.create("default")

    made = [each.result() for each in [pool.submit(begin) for _ in range(4)]]
    assert {each.id for each in made} == {1}


def test_two_that_make_a_collection_of_one_name_at_once_make_one(catalogs, pool):
    here, there = catalogs
    with held_before(here, "INSERT INTO collections") as (arrived, go):
        first = pool.submit(here.collections.create, "news")
        assert arrived.wait(20)
        second = pool.submit(there.collections.create, "news")
        assert waits(second)
        go.set()
        assert first.result(20) == second.result(20)


def test_a_cut_over_waits_for_a_write_that_has_its_revision_and_then_sees_it(catalogs, pool):
    here, there = catalogs
    collection = here.collections.create("default").id
    live(here)
    green = ready(here, "2")
    with held_before(there, "INSERT INTO passages") as (arrived, go):
        write = pool.submit(put, there, collection)
        assert arrived.wait(20)
        cut_over = pool.submit(here.generations.cut_over, green.id, epoch=1, soak_s=1)
        assert waits(cut_over)
        go.set()
        assert write.result(20) == 1
        with pytest.raises(Behind):
            cut_over.result(20)
    assert here.generations.route().epoch == 1


def test_a_write_waits_for_a_cut_over_that_has_looked_at_the_heads(catalogs, pool):
    here, there = catalogs
    collection = here.collections.create("default").id
    live(here)
    green = ready(here, "2")
    with held_before(here, "UPDATE route") as (arrived, go):
        cut_over = pool.submit(here.generations.cut_over, green.id, epoch=1, soak_s=1)
        assert arrived.wait(20)
        write = pool.submit(put, there, collection)
        assert waits(write)
        go.set()
        assert cut_over.result(20).active == green.id
        assert write.result(20) == 1


def test_no_revision_falls_between_the_heads_and_the_route_whatever_is_written(catalogs, pool):
    here, there = catalogs
    collection = here.collections.create("default").id
    live(here)
    other = ready(here, "2").id
    missed = []

    def look(connection, _cursor, text, *_rest):
        if text.startswith("UPDATE route") and "active" in text:
            head = connection.exec_driver_sql("SELECT max(rev) FROM passages").scalar() or 0
            missed.append(head - here.generations.cursors(other).get(collection, 0))

    event.listen(here._database.engine, "before_cursor_execute", look)
    done = threading.Event()

    def write():
        number = 0
        while not done.is_set():
            number += 1
            put(there, collection, f"d{number % 5}", f"text {number}")

    writing = pool.submit(write)
    epoch, refused = 1, 0
    try:
        for attempt in range(12):
            if attempt % 2:  # every other time writers are held, as in the service
                here.generations.close_gate(for_s=5)
            head = here.passages.heads()[collection]
            here.generations.advance(other, collection, applied_rev=head)
            try:
                route = here.generations.cut_over(other, epoch=epoch, soak_s=9)
            except Behind:
                refused += 1
            else:
                epoch, other = route.epoch, route.previous
    finally:
        done.set()
    writing.result(20)
    assert epoch >= 7
    assert epoch - 1 + refused == 12
    assert missed == [0] * (epoch - 1)


def test_of_two_that_cut_over_one_wins(catalogs, pool):
    here, there = catalogs
    live(here)
    green = ready(here, "2").id
    tries = [
        pool.submit(each.generations.cut_over, green, epoch=1, soak_s=1)
        for each in (here, there) * 2
    ]
    failures = [each.exception(20) for each in tries]
    assert sum(each is None for each in failures) == 1
    assert all(isinstance(each, Conflict) for each in failures if each is not None)
    assert here.generations.route().epoch == 2


def test_of_many_that_ask_for_a_lease_one_gets_it(catalog_url, pool):
    with opened(catalog_url, 4) as catalogs:
        for turn in range(5):
            asked = [
                pool.submit(each.leases.take, f"lease {turn}", f"pod {number}", ttl_s=30)
                for number, each in enumerate(catalogs)
            ]
            assert sum(each.result(20) is not None for each in asked) == 1


def test_a_lease_does_not_pass_on_in_the_middle_of_what_its_owner_records(catalogs, pool):
    here, there = catalogs
    collection = here.collections.create("default").id
    made = register(here, "1").id
    mine = here.leases.take("writer", "me", ttl_s=-1)  # expired: anybody may take it
    with held_before(here, "UPDATE cursors") as (arrived, go):
        advance = pool.submit(here.generations.advance, made, collection, applied_rev=5, lease=mine)
        assert arrived.wait(20)
        take = pool.submit(there.leases.take, "writer", "you", ttl_s=30)
        assert waits(take)
        go.set()
        advance.result(20)
        assert take.result(20).fence == 2
    with pytest.raises(Conflict, match="passed from me"):
        here.generations.advance(made, collection, applied_rev=9, lease=mine)
    assert there.generations.cursors(made) == {collection: 5}


def test_what_is_read_together_is_of_one_moment(catalogs, pool):
    here, there = catalogs
    live(here)
    green = ready(here, "2").id
    with held_before(here, "SELECT route") as (arrived, go):
        look = pool.submit(here.generations.snapshot)
        assert arrived.wait(20)
        there.generations.cut_over(green, epoch=1, soak_s=1)
        go.set()
        route, rows = look.result(20)
    assert route.active == next(row.id for row in rows if row.state == "active")


def test_writers_of_several_processes_leave_no_gap_and_a_reader_misses_nothing(catalogs, pool):
    collection = catalogs[0].collections.create("default").id
    done = threading.Event()

    def write(number):
        for step in range(15):
            put(catalogs[number % 2], collection, f"{number}-{step % 5}", f"text {step}")

    def follow():
        seen, after = {}, 0
        while True:
            last_look = done.is_set()
            changes = catalogs[1].passages.changes(collection, after=after, limit=7)
            seen.update({each.id: each.rev for each in changes})
            if changes:
                after = changes[-1].rev
            elif last_look:
                return seen

    reader = pool.submit(follow)
    for each in [pool.submit(write, number) for number in range(3)]:
        each.result(60)
    done.set()
    live_now = catalogs[0].passages.live(collection, through_rev=10**9, after=0, limit=1000)
    assert reader.result(20) == dict(live_now)
    assert catalogs[0].passages.last_revision() == 45


def test_a_gate_that_one_process_closes_holds_the_writes_of_another(catalogs, pool):
    here, there = catalogs
    collection = here.collections.create("default").id
    here.generations.close_gate(for_s=30)
    write = pool.submit(put, there, collection)
    assert waits(write)
    here.generations.open_gate()
    assert write.result(20) == 1


def test_a_process_that_is_stopped_in_the_middle_of_a_write_holds_up_nobody(postgres_url, pool):
    with opened(postgres_url, busy_timeout_s=4) as (stopped, other):
        collection = other.collections.create("default").id
        with held_before(stopped, "INSERT INTO passages") as (arrived, go):
            write = pool.submit(put, stopped, collection, "late")
            assert arrived.wait(20)
            assert put(other, collection, "early") == 1
            go.set()
            with pytest.raises(Unavailable, match="does not answer"):
                write.result(20)
        assert other.documents.counts(collection).documents == 1
        assert put(stopped, collection, "late") == 2  # it goes on with another connection


def test_a_writer_that_waits_too_long_for_another_process_is_refused(postgres_url, pool):
    with opened(postgres_url, 1, busy_timeout_s=60) as [busy]:
        collection = busy.collections.create("default").id
        with (
            opened(postgres_url, 1, busy_timeout_s=2) as [other],
            held_before(busy, "INSERT INTO passages") as (arrived, go),
        ):
            write = pool.submit(put, busy, collection)
            assert arrived.wait(20)
            with pytest.raises(Unavailable, match="lock timeout"):
                put(other, collection)
            go.set()
            assert write.result(20) == 1


def test_a_server_that_is_not_there_is_unavailable(postgres_server):
    nowhere = Catalog(f"postgresql://isogloss@127.0.0.1:{free_port()}/postgres")
    with pytest.raises(Unavailable, match="does not answer"), nowhere:
        pass


def test_a_connection_that_the_server_ends_is_replaced(postgres_url):
    with opened(postgres_url, 1) as [catalog]:
        collection = catalog.collections.create("default").id
        engine = sqlalchemy.create_engine(
            sqlalchemy.make_url(postgres_url).set(drivername="postgresql+psycopg")
        )

        def be_ended():
            with catalog._database.write() as writing, engine.connect() as other:
                pid = writing.exec_driver_sql("SELECT pg_backend_pid()").scalar()
                other.exec_driver_sql(f"SELECT pg_terminate_backend({pid})")
                writing.exec_driver_sql("SELECT 1")

        with pytest.raises(Unavailable):
            be_ended()
        engine.dispose()
        assert catalog.documents.put(collection, [stored("a", "text")]).revision == 1


def test_a_postgresql_catalog_of_the_first_layout_is_brought_up_to_date(postgres_url, pool):
    url = sqlalchemy.make_url(postgres_url).set(drivername="postgresql+psycopg")
    old = LAYOUT_1.replace("BLOB", "BYTEA").replace(
        "events (id INTEGER NOT NULL", "events (id BIGSERIAL NOT NULL"
    )
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        for statement in filter(str.strip, old.split(";")):
            connection.exec_driver_sql(statement)
    engine.dispose()

    def upgrade():
        with Catalog(postgres_url) as catalog:
            return catalog.generations.get(1), catalog.generations.positions(1)

    for each in [pool.submit(upgrade) for _ in range(3)]:  # whoever comes first does it
        first, positions = each.result(20)
        assert (first.indexes, first.changed, first.options) == (1, first.created, {})
        assert positions[1].applied_rev == 7
    with Catalog(postgres_url) as catalog:
        assert register(catalog, "2", request="key").id == 2
        assert register(catalog, "2", request="key").id == 2
        assert catalog.generations.route().soak_until is None
        assert put(catalog, 1) == 8
