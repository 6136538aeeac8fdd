import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import pytest
import sqlalchemy
from sqlalchemy import event

from service.catalog import Catalog, Failure, StoredDocument
from service.catalog.database import CHUNK
from service.errors import (
    ConfigurationError,
    Conflict,
    InvalidInput,
    NotFound,
    StorageFull,
    Unavailable,
    UnknownField,
)
from service.filters import AllOf, Equals, Not, Range
from service.types import Document, Span


@pytest.fixture
def catalog(catalog_url):
    with Catalog(catalog_url, busy_timeout_s=5) as opened:
        yield opened


@pytest.fixture
def collection(catalog):
    return catalog.collections.create("default", {"year": "integer", "topic": "keyword"}).id


def stored(key, *texts, title="", language="en", **metadata):
    """A document whose passages are exactly these texts."""
    spans, start = [], 0
    for text in texts:
        spans.append(Span(start, start + len(text)))
        start += len(text) + 1
    return StoredDocument(Document(key, " ".join(texts), title, None, metadata), language, spans)


def feed(catalog, collection, *, after=0):
    return catalog.passages.changes(collection, after=after, limit=1_000)


def texts(catalog, collection):
    return {change.id: change.text for change in feed(catalog, collection) if not change.dead}


def test_a_collection_is_made_once_and_found_by_name(catalog):
    made = catalog.collections.create("news", {"year": "integer"})
    assert catalog.collections.create("news", {"year": "integer"}) == made
    assert catalog.collections.get("news") == made
    other = catalog.collections.create("art")
    assert [each.name for each in catalog.collections.list()] == ["art", "news"]
    assert (made.id, other.id) == (1, 2)
    assert dict(made.fields) == {"year": "integer"}


def test_a_collection_with_other_fields_is_a_conflict(catalog):
    catalog.collections.create("news", {"year": "integer"})
    with pytest.raises(Conflict, match="'year': 'integer'"):
        catalog.collections.create("news", {"year": "float"})


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("", {}, "name ''"),
        ("a/b", {}, "name 'a/b'"),
        ("x" * 65, {}, "name"),
        ("ok", {"a.b": "keyword"}, r"field name 'a\.b'"),
        ("ok", {"language": "keyword"}, "built in"),
        ("ok", {"year": "number"}, "no type 'number'"),
    ],
)
def test_a_bad_collection_is_refused(catalog, name, fields, message):
    with pytest.raises(InvalidInput, match=message):
        catalog.collections.create(name, fields)


def test_what_was_put_is_read_back(catalog, collection):
    document = stored(
        "a", "Ærøskøbing 🏝", "二つ目", title="Ø", language="da", year=2020, extra=[1.5, "x"]
    )
    written = catalog.documents.put(collection, [document])
    assert (written.documents, written.unchanged) == (1, 0)
    found = catalog.documents.get(collection, "a")
    assert found.document.text == "Ærøskøbing 🏝 二つ目"
    assert found.document.metadata == {"year": 2020, "extra": [1.5, "x"]}
    assert found.document.language == found.language == "da"
    assert found.spans == document.spans
    assert [(change.title, change.text) for change in feed(catalog, collection)] == [
        ("Ø", "Ærøskøbing 🏝"),
        ("Ø", "二つ目"),
    ]


def test_the_feed_gives_every_passage_once_in_the_order_of_revisions(catalog, collection):
    revision = catalog.documents.put(
        collection, [stored("a", "a0", "a1", year=1, other=2), stored("b", "b0", language="de")]
    ).revision
    changes = feed(catalog, collection)
    assert [(each.rev, each.text, each.language) for each in changes] == [
        (1, "a0", "en"),
        (2, "a1", "en"),
        (3, "b0", "de"),
    ]
    assert changes[0].metadata == {"year": 1}
    assert changes[0].document == changes[1].document != changes[2].document
    assert revision == 3
    assert [each.rev for each in catalog.passages.changes(collection, after=1, limit=1)] == [2]
    assert catalog.passages.pending(collection, after=1) == 2
    assert catalog.passages.heads() == {collection: 3}


def test_an_equal_document_is_left_alone_and_its_revision_told(catalog, collection):
    first = catalog.documents.put(collection, [stored("a", "text", year=1)])
    catalog.documents.put(collection, [stored("b", "text")])
    again = catalog.documents.put(collection, [stored("a", "text", year=1)])
    assert (again.revision, again.documents, again.unchanged) == (first.revision, 0, 1)
    assert catalog.passages.heads() == {collection: 2}


@pytest.mark.parametrize(
    "changed",
    [
        stored("a", "other", title="t", year=1),
        stored("a", "text", title="u", year=1),
        stored("a", "text", title="t", year=2),
        stored("a", "text", title="t", year=1, language="de"),
        StoredDocument(Document("a", "text", "t", None, {"year": 1}), "en", [Span(0, 2)]),
    ],
)
def test_any_difference_is_a_new_revision(catalog, collection, changed):
    catalog.documents.put(collection, [stored("a", "text", title="t", year=1)])
    assert catalog.documents.put(collection, [changed]).revision == 2


def test_passages_keep_their_ids_and_surplus_ones_leave_tombstones(catalog, collection):
    catalog.documents.put(collection, [stored("a", "one", "two", "three")])
    before = [each.id for each in feed(catalog, collection)]
    catalog.documents.put(collection, [stored("a", "ONE")])
    after = feed(catalog, collection)
    assert [(each.id, each.dead, each.text) for each in after] == [
        (before[0], False, "ONE"),
        (before[1], True, ""),
        (before[2], True, ""),
    ]
    catalog.documents.put(collection, [stored("a", "ONE", "TWO")])
    assert texts(catalog, collection) == {before[0]: "ONE", before[1]: "TWO"}
    assert [each.id for each in feed(catalog, collection) if each.dead] == [before[2]]


def test_of_two_documents_with_one_id_the_last_counts(catalog, collection):
    written = catalog.documents.put(collection, [stored("a", "first"), stored("a", "last")])
    assert written.documents == 1
    assert list(texts(catalog, collection).values()) == ["last"]


def test_a_document_without_passages_is_kept_and_needs_no_revision(catalog, collection):
    assert catalog.documents.put(collection, [stored("a")]).revision == 0
    assert catalog.documents.get(collection, "a").spans == []


def test_deleted_documents_are_gone_and_their_passages_dead(catalog, collection):
    catalog.documents.put(collection, [stored("a", "a0", "a1"), stored("b", "b0")])
    ids = list(texts(catalog, collection))
    deleted = catalog.documents.delete(collection, ["a", "a", "unknown"])
    assert (deleted.documents, deleted.revision) == (1, 5)
    with pytest.raises(NotFound, match="'a'"):
        catalog.documents.get(collection, "a")
    assert [each.dead for each in feed(catalog, collection)] == [False, True, True]
    assert list(catalog.passages.hydrate(ids)) == [ids[2]]
    assert catalog.documents.delete(collection, ["a"]).documents == 0


def test_a_document_that_comes_back_has_new_passage_ids(catalog, collection):
    catalog.documents.put(collection, [stored("a", "text")])
    [old] = texts(catalog, collection)
    catalog.documents.delete(collection, ["a"])
    catalog.documents.put(collection, [stored("a", "text")])
    [new] = texts(catalog, collection)
    assert new != old


def test_documents_are_deleted_by_filter(catalog, collection):
    many = [
        stored(f"d{i}", f"text {i}", year=i % 10, language="de" if i % 2 else "en")
        for i in range(50)
    ]
    catalog.documents.put(collection, many)
    deleted = catalog.documents.delete_where(
        collection, AllOf([Range("year", lt=4), Not(Equals("language", "en"))])
    )
    assert deleted.documents == 10
    assert deleted.revision == catalog.passages.heads()[collection]
    assert catalog.documents.counts(collection).documents == 40
    assert catalog.documents.delete_where(collection, Equals("year", 1)).documents == 0


def test_deleting_by_filter_goes_through_a_collection_of_many_transactions(catalog, collection):
    catalog.documents.put(
        collection, [stored(f"d{i}", "text", year=i) for i in range(2 * CHUNK + 5)]
    )
    kept = catalog.documents.delete_where(collection, Range("year", gte=3)).documents
    assert kept == 2 * CHUNK + 2
    assert catalog.documents.counts(collection).documents == 3


def test_deleting_by_an_undeclared_field_is_refused(catalog, collection):
    with pytest.raises(UnknownField, match="colour"):
        catalog.documents.delete_where(collection, Equals("colour", "red"))


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        (stored("a", "x\0y"), "/documents/1/text"),
        (stored("a\0", "x"), "/documents/1/id"),
        (stored("a", "x", title="\0"), "/documents/1/title"),
        (stored("a", "x", year="2020"), "/documents/1/metadata/year"),
        (stored("a", "\ud800"), "/documents/1"),
        (stored("a", "x", extra=2**70), "/documents/1"),
    ],
)
def test_a_bad_document_is_refused_with_its_pointer_and_nothing_is_stored(
    catalog, collection, document, pointer
):
    with pytest.raises(InvalidInput) as error:
        catalog.documents.put(collection, [stored("good", "x"), document])
    assert error.value.pointer == pointer
    assert catalog.documents.counts(collection).documents == 0
    assert catalog.documents.put(collection, [stored("good", "x")]).documents == 1


def test_a_lone_surrogate_in_an_id_is_refused(catalog, collection):
    with pytest.raises(InvalidInput, match="not valid Unicode"):
        catalog.documents.put(collection, [stored("\ud800", "x")])


def test_documents_are_listed_page_by_page_in_a_stable_order(catalog, collection):
    catalog.documents.put(
        collection, [stored(f"d{i}", "some text", "more", year=i) for i in range(5)]
    )
    catalog.documents.put(collection, [stored("d1", "changed", title="new")])
    first = catalog.documents.list(collection, limit=2)
    second = catalog.documents.list(collection, limit=2, after=first.cursor)
    third = catalog.documents.list(collection, limit=2, after=second.cursor)
    pages = [[each.id for each in page.documents] for page in (first, second, third)]
    assert pages == [["d0", "d1"], ["d2", "d3"], ["d4"]]
    assert third.cursor is None
    changed = first.documents[1]
    assert (changed.title, changed.characters, changed.passages) == ("new", 7, 1)
    assert first.documents[0].metadata == {"year": 0}


@pytest.mark.parametrize("cursor", ["?", "zz", "é", "eHg"])
def test_a_cursor_of_another_make_is_refused(catalog, collection, cursor):
    with pytest.raises(InvalidInput, match="no cursor"):
        catalog.documents.list(collection, limit=2, after=cursor)


def test_counts_are_exact_and_per_language(catalog, collection):
    catalog.documents.put(collection, [stored("a", "1", "2"), stored("b", "3", language="sw")])
    catalog.documents.put(collection, [stored("a", "1")])
    counts = catalog.documents.counts(collection)
    assert (counts.documents, counts.passages, dict(counts.languages)) == (2, 2, {"en": 1, "sw": 1})


def test_hydration_gives_what_a_hit_shows(catalog, collection):
    catalog.documents.put(collection, [stored("a", "one", "two", title="T", year=1, x="y")])
    [_, second] = texts(catalog, collection)
    found = catalog.passages.hydrate([second, 999])
    assert list(found) == [second]
    passage = found[second]
    assert (passage.document, passage.number, passage.span) == ("a", 1, Span(4, 7))
    assert (passage.text, passage.title, passage.language) == ("two", "T", "en")
    assert passage.metadata == {"year": 1, "x": "y"}
    assert passage.rev == 2
    assert catalog.passages.hydrate([]) == {}


def test_live_passages_are_read_in_the_order_of_ids(catalog, collection):
    catalog.documents.put(collection, [stored(f"d{i}", "text") for i in range(4)])
    catalog.documents.put(collection, [stored("d0", "changed")])
    catalog.documents.delete(collection, ["d1"])
    live = partial(catalog.passages.live, collection)
    assert live(through_rev=100, after=0, limit=10) == [(1, 5), (3, 3), (4, 4)]
    assert live(through_rev=4, after=0, limit=10) == [(3, 3), (4, 4)]
    assert live(through_rev=4, after=3, limit=10) == [(4, 4)]
    assert live(through_rev=4, after=0, until=3, limit=10) == [(3, 3)]
    assert live(through_rev=4, after=0, limit=1) == [(3, 3)]
    assert catalog.passages.revisions([1, 2, 9]) == {1: 5, 2: 6}


def test_a_deleted_collection_takes_everything_with_it(catalog, collection):
    generation = catalog.generations.register(
        bundle="b", version="1", precision="fp32", space="s", dimension=4
    ).id
    other = catalog.collections.create("other").id
    catalog.documents.put(collection, [stored(f"d{i}", "text") for i in range(CHUNK + 1)])
    catalog.documents.put(other, [stored("a", "kept")])
    catalog.generations.advance(generation, collection, applied_rev=3)
    assert catalog.collections.delete("default").id == collection
    with pytest.raises(NotFound):
        catalog.collections.delete("default")
    with pytest.raises(NotFound):
        feed(catalog, collection)
    with pytest.raises(NotFound):
        catalog.documents.put(collection, [stored("a", "text")])
    assert catalog.passages.hydrate(range(1, CHUNK + 2)) == {}
    assert catalog.generations.cursors(generation) == {}
    assert list(texts(catalog, other).values()) == ["kept"]
    assert catalog.collections.create("default").id > other  # its number is not used again


def test_what_an_interrupted_deletion_left_is_swept_on_opening(catalog_url):
    with Catalog(catalog_url) as catalog:
        kept = catalog.collections.create("kept").id
        gone = catalog.collections.create("gone").id
        for each in (kept, gone):
            catalog.documents.put(each, [stored("a", "text")])
        with catalog._database.write() as connection:
            connection.execute(sqlalchemy.text("DELETE FROM collections WHERE name = 'gone'"))
    with Catalog(catalog_url) as catalog:
        assert list(catalog.passages.revisions([1, 2])) == [1]
        assert catalog.documents.get(kept, "a").document.text == "text"


def test_tombstones_wait_for_every_generation_in_use(catalog, collection):
    one, two, three = (
        catalog.generations.register(
            bundle="b", version=v, precision="fp32", space="s", dimension=4
        ).id
        for v in "123"
    )
    catalog.documents.put(collection, [stored("a", "text"), stored("b", "text")])
    catalog.documents.delete(collection, ["a"])  # revision 3
    catalog.generations.advance(one, collection, applied_rev=3)
    catalog.generations.move(three, "failed", expect=["registered"], reason="test")
    assert catalog.passages.purge(collection) == 0
    catalog.generations.advance(two, collection, applied_rev=2)
    assert catalog.passages.purge(collection) == 0
    catalog.generations.advance(two, collection, applied_rev=3)
    assert catalog.passages.purge(collection) == 1
    assert [each.id for each in feed(catalog, collection)] == [2]


def test_without_a_generation_nobody_needs_a_tombstone(catalog, collection):
    catalog.documents.put(collection, [stored("a", "text")])
    catalog.documents.delete(collection, ["a"])
    assert catalog.passages.purge(collection) == 1


def test_a_cursor_only_goes_forward_until_it_is_rewound(catalog, collection):
    generation = catalog.generations.register(
        bundle="b", version="1", precision="fp32", space="s", dimension=4
    ).id
    assert catalog.generations.cursors(generation) == {}
    for rev in (5, 3):
        catalog.generations.advance(generation, collection, applied_rev=rev)
    assert catalog.generations.cursors(generation) == {collection: 5}
    catalog.generations.rewind(generation, collection, reason="missing")
    assert catalog.generations.cursors(generation) == {collection: 0}
    assert catalog.generations.events(limit=1)[0].kind == "rebuild"


def test_a_cursor_of_a_deleted_collection_does_not_come_back(catalog, collection):
    generation = catalog.generations.register(
        bundle="b", version="1", precision="fp32", space="s", dimension=4
    ).id
    catalog.collections.delete("default")
    catalog.generations.advance(generation, collection, applied_rev=5)
    assert catalog.generations.cursors(generation) == {}


def test_every_change_of_a_generation_leaves_an_event(catalog):
    generation = catalog.generations.register(
        bundle="b", version="1", precision="fp32", space="s", dimension=4
    ).id
    catalog.generations.move(generation, "building", expect=["registered"], reason="first start")
    moved, registered = catalog.generations.events(limit=5)
    assert (registered.kind, registered.generation) == ("registered", generation)
    assert moved.detail == {"before": "registered", "after": "building", "reason": "first start"}
    assert moved.at >= registered.at


def test_failures_are_listed_until_the_passage_changes_or_is_retried(catalog, collection):
    generation = catalog.generations.register(
        bundle="b", version="1", precision="fp32", space="s", dimension=4
    ).id
    catalog.documents.put(collection, [stored(key, "text") for key in "abc"])
    failures = [Failure(collection, rev, rev, "NaN") for rev in (1, 2, 3)]
    catalog.generations.advance(generation, collection, applied_rev=3, failures=failures[:2])
    catalog.generations.advance(generation, collection, applied_rev=3, failures=failures[1:])
    assert catalog.generations.failures(generation) == failures
    catalog.documents.put(collection, [stored("a", "better")])
    catalog.documents.delete(collection, ["b"])
    assert catalog.generations.failures(generation) == failures[2:]
    assert catalog.generations.retry(generation) == 1
    assert catalog.generations.failures(generation) == []
    assert [(each.id, each.rev) for each in feed(catalog, collection, after=5)] == [(3, 6)]
    assert catalog.generations.retry(generation) == 0


def test_writers_of_many_threads_leave_revisions_without_gaps(catalog, collection):
    def write(worker):
        for step in range(10):
            catalog.documents.put(collection, [stored(f"{worker}-{step}", "a", "b")])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert [each.rev for each in feed(catalog, collection)] == list(range(1, 161))


def test_a_reader_of_the_feed_misses_nothing_while_others_write(catalog, collection):
    done = threading.Event()
    seen = {}

    def follow():
        after = 0
        while True:
            last_look = done.is_set()
            changes = catalog.passages.changes(collection, after=after, limit=7)
            seen.update({each.id: each.rev for each in changes})
            if changes:
                after = changes[-1].rev
            elif last_look:
                return

    def write(worker):
        for step in range(20):
            catalog.documents.put(collection, [stored(f"{worker}-{step % 5}", f"text {step}", "b")])

    reader = threading.Thread(target=follow)
    reader.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    done.set()
    reader.join()
    assert seen == dict(catalog.passages.live(collection, through_rev=10**9, after=0, limit=1_000))


def test_what_was_acknowledged_survives_the_death_of_the_process(tmp_path):
    url = f"sqlite:///{tmp_path / 'catalog.db'}"
    script = f"""
import itertools
from service.catalog import Catalog, StoredDocument
from service.types import Document, Span
with Catalog({url!r}) as catalog:
    collection = catalog.collections.create("default").id
    for number in itertools.count():
        document = Document(str(number), "text")
        catalog.documents.put(collection, [StoredDocument(document, "en", [Span(0, 4)])])
        print(number, flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as child:
        acknowledged = [next(child.stdout) for _ in range(20)]
        child.kill()
        acknowledged += child.stdout
    with Catalog(url) as catalog:
        assert catalog.documents.counts(1).documents >= int(acknowledged[-1]) + 1
        catalog.documents.put(1, [stored("after", "text")])


def test_a_full_disk_refuses_the_write_and_the_next_one_works(tmp_path):
    with Catalog(f"sqlite:///{tmp_path / 'catalog.db'}") as catalog:
        collection = catalog.collections.create("default").id
        pages = {"limit": 60}

        @event.listens_for(catalog._database.engine, "begin")
        def limit_pages(connection):
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages['limit']}")

        large = [stored(f"d{i}", "x" * 1_000) for i in range(500)]
        with pytest.raises(StorageFull, match="ISOGLOSS_DATA_DIR"):
            catalog.documents.put(collection, large)
        assert catalog.documents.counts(collection).documents == 0
        assert catalog.documents.put(collection, [stored("small", "x")]).revision == 1
        pages["limit"] = 10_000
        assert catalog.documents.put(collection, large).documents == 500


def test_a_catalog_locked_by_another_is_unavailable_until_it_is_free(tmp_path):
    path = tmp_path / "catalog.db"
    with Catalog(f"sqlite:///{path}", busy_timeout_s=0.05) as catalog:
        collection = catalog.collections.create("default").id
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable, match="locked"):
                catalog.documents.put(collection, [stored("a", "text")])
            assert catalog.documents.counts(collection).documents == 0  # reading goes on
            other.execute("ROLLBACK")
        assert catalog.documents.put(collection, [stored("a", "text")]).documents == 1


def test_a_writer_that_waits_too_long_for_its_turn_is_refused(tmp_path):
    with Catalog(f"sqlite:///{tmp_path / 'catalog.db'}", busy_timeout_s=0.05) as catalog:
        with catalog._database.write(), ThreadPoolExecutor(1) as pool:
            refused = pool.submit(catalog.collections.create, "news").exception()
        assert isinstance(refused, Unavailable)
        assert catalog.collections.create("news").id == 1


def test_a_reader_without_a_connection_is_refused(tmp_path):
    with Catalog(f"sqlite:///{tmp_path / 'catalog.db'}", busy_timeout_s=0.05) as catalog:
        held = [catalog._database.engine.connect() for _ in range(8)]
        with pytest.raises(Unavailable, match="connections"):
            catalog.ping()
        for connection in held:
            connection.close()
        catalog.ping()


def test_a_newer_layout_is_refused(catalog_url):
    with Catalog(catalog_url) as catalog, catalog._database.write() as connection:
        connection.execute(sqlalchemy.text("UPDATE layout SET version = 99"))
    with pytest.raises(ConfigurationError, match=r"layout 99.*layout 3"), Catalog(catalog_url):
        pass


def test_a_file_that_is_no_catalog_is_refused(tmp_path):
    path = tmp_path / "catalog.db"
    path.write_bytes(b"not a database at all, " * 100)
    with pytest.raises(ConfigurationError, match="no catalog"), Catalog(f"sqlite:///{path}"):
        pass


def test_a_folder_that_is_missing_is_unavailable(tmp_path):
    with (
        pytest.raises(Unavailable, match="unable to open"),
        Catalog(f"sqlite:///{tmp_path / 'missing' / 'catalog.db'}"),
    ):
        pass


def test_a_missing_driver_is_named_with_the_extra_that_brings_it():
    with pytest.raises(ConfigurationError, match=r"'pg8000': install isogloss\[postgres\]"):
        Catalog("postgresql+pg8000://host/name")


def test_other_databases_are_refused():
    with pytest.raises(ConfigurationError, match="neither sqlite nor postgresql"):
        Catalog("mysql://host/name")


def test_a_bug_of_ours_is_not_dressed_up_as_an_outage(catalog):
    with pytest.raises(Exception, match="nowhere") as error, catalog._database.read() as connection:
        connection.execute(sqlalchemy.text("SELECT * FROM nowhere"))
    assert not isinstance(error.value, Unavailable)
