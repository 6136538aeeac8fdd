from dataclasses import replace

import pytest

from service.catalog import Failure
from service.errors import Unavailable
from service.verification.contents import counts, digest
from tests.service.verification.conftest import stored, word


@pytest.fixture
async def green(house, green_engine):
    house.fill()
    return await house.side(green_engine)


async def counted(house, green, *, patience_s=0.0, rest_s=0.0):
    heads = house.catalog.passages.heads()
    return await counts(
        green,
        house.catalog,
        house.collections(),
        heads=heads,
        patience_s=patience_s,
        rest_s=rest_s,
    )


async def digested(house, green):
    return await digest(green, house.catalog, house.collections())


async def test_what_is_equal_is_fine(house, green):
    found = await counted(house, green)
    assert (found.name, found.ok, found.overridable) == ("counts", True, False)
    default = found.measures["collections"]["default"]
    assert (default["catalog"], default["index"], default["moved"]) == (36, 36, 0)
    assert default["languages"]["ru"] == {"catalog": 12, "index": 12}
    found = await digested(house, green)
    assert (found.name, found.ok, found.overridable) == ("digest", True, False)
    assert found.measures == {"collections": {"default": {"revision": 36}}}


async def test_a_missing_point_is_counted_and_named(house, green):
    points = house.points(green)
    gone = next(number for number, point in points.items() if point.language == "de")
    rev = points.pop(gone).rev
    found = await counted(house, green)
    assert found.detail == (
        "collection 'default': 35 passages in all, and the catalog has 36;"
        " collection 'default': 11 passages in 'de', and the catalog has 12"
    )
    assert (
        f"it lacks 1 passages, such as (id, rev) ({gone}, {rev})"
        in (await digested(house, green)).detail
    )


async def test_a_point_too_many_is_counted_and_named(house, green):
    points = house.points(green)
    points[999] = replace(next(iter(points.values())), id=999)
    assert not (await counted(house, green)).ok
    assert "it holds passage 999" in (await digested(house, green)).detail


async def test_a_stale_revision_is_seen_by_the_digest_alone(house, green):
    points = house.points(green)
    before = dict(points)
    house.put(stored("ru-3", word("ru", 3, "edited"), language="ru"))
    await house.follow(green)
    assert (await digested(house, green)).ok
    edited = next(number for number in points if points[number].rev != before[number].rev)
    points[edited] = before[edited]  # the edit was lost, and nobody noticed
    assert (await counted(house, green)).ok
    found = await digested(house, green)
    assert not found.ok
    assert f"such as (id, rev) ({edited}, 37)" in found.detail


async def test_a_wrong_language_is_seen_by_the_counts_alone(house, green):
    points = house.points(green)
    number = next(number for number, point in points.items() if point.language == "de")
    points[number] = replace(points[number], language="en")
    found = await counted(house, green)
    assert "11 passages in 'de', and the catalog has 12" in found.detail
    assert "13 passages in 'en', and the catalog has 12" in found.detail
    assert (await digested(house, green)).ok


async def test_a_language_that_the_catalog_does_not_have_is_seen(house, green):
    points = house.points(green)
    points[999] = replace(next(iter(points.values())), id=999, language="xx")
    assert "37 passages in all" in (await counted(house, green)).detail


async def test_what_could_not_be_embedded_is_rightly_absent(house, green):
    points = house.points(green)
    number, point = next((n, p) for n, p in points.items() if p.language == "ru")
    del points[number]
    failure = Failure(house.collection, number, point.rev, "not finite")
    house.catalog.generations.advance(
        green.indexes, house.collection, applied_rev=36, failures=[failure]
    )
    found = await counted(house, green)
    assert found.ok
    assert found.measures["collections"]["default"]["languages"]["ru"]["catalog"] == 11
    assert (await digested(house, green)).ok


async def test_counts_that_never_rest_agree_within_what_moved(house, green):
    async def written(collection):
        house.put(stored(f"new-{house.catalog.passages.last_revision()}", "another text"))
        await house.follow(green, flush=False)

    class Busy:
        """Somebody writes whenever it is counted."""

        def __init__(self, index):
            self.index = index

        async def count(self, where=None):
            await written(house.collection)
            return await self.index.count(where)

        def scan(self):
            return self.index.scan()

    busy = replace(green, index=lambda collection: Busy(green.index(collection)))
    found = await counted(house, busy, rest_s=0.05)
    assert found.ok
    assert "but for what was written during the count: 'default' (±" in found.detail
    assert (await digested(house, busy)).ok
    await house.follow(green)
    for number in [n for n, point in house.points(green).items() if point.language == "ru"]:
        del house.points(green)[number]
    for number in list(house.points(green))[:-1]:
        house.points(green).pop(number)
    assert not (await counted(house, busy)).ok
    assert not (await digested(house, busy)).ok


async def test_counts_wait_for_what_is_applied_but_not_flushed(house, green):
    house.put(stored("late", "late text"))
    await house.follow(green, flush=False)
    with pytest.raises(Unavailable, match="'default' up to revision 36, and 37 was there"):
        await counted(house, green)
    looked = 0

    def index(collection):
        nonlocal looked
        looked += 1
        if looked == 3:
            house.catalog.generations.advance(green.indexes, house.collection, applied_rev=37)
        return green.index(collection)

    found = await counted(house, replace(green, index=index), patience_s=60.0)
    assert (found.ok, looked) == (True, 3)
    assert found.measures["collections"]["default"]["moved"] == 0


async def test_a_tombstone_that_was_applied_and_purged_in_between_is_no_difference(house, green):
    class Purging:
        def __init__(self, index):
            self.index = index
            self.scans = 0

        async def scan(self):
            self.scans += 1
            async for page in self.index.scan():
                if self.scans == 1:
                    house.catalog.documents.delete(house.collection, ["en-1"])
                    await house.follow(green)
                    house.catalog.passages.purge(house.collection)
                yield page

    purging = Purging(green.index(house.collection))
    found = await digested(house, replace(green, index=lambda collection: purging))
    assert (found.ok, purging.scans) == (True, 2)
    assert found.measures["collections"]["default"]["revision"] == 37


async def test_counts_are_exact_after_the_last_row_was_purged(house, green):
    house.catalog.documents.delete(house.collection, ["en-1"])
    await house.follow(green)
    house.catalog.passages.purge(house.collection)
    found = await counted(house, green)
    assert found.ok
    assert found.measures["collections"]["default"]["moved"] == 0
