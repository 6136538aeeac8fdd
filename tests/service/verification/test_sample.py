from collections import Counter

import pytest

from service.verification.sample import Sampler
from tests.service.verification.conftest import stored, word


@pytest.fixture
async def green(house, green_engine):
    house.put(*[stored(f"en-{n}", word("en", n, "passage")) for n in range(300)])
    house.put(stored("ru-1", word("ru", 1, "passage"), language="ru"))
    return await house.side(green_engine)


def sampler(house, green, *, through=10**9, absent=(), seed=1, **options):
    index = green.index(house.collection)
    return Sampler(
        house.catalog,
        index,
        house.collection,
        through=through,
        absent=set(absent),
        seed=seed,
        **options,
    )


def ids(passages):
    return {passage.id for passage in passages}


async def test_every_language_gives_as_many_as_are_asked_for_or_all(house, green):
    found = await sampler(house, green).draw(50)
    assert Counter(one.language for one in found) == {"en": 50, "ru": 1}


async def test_the_seed_decides(house, green):
    first = ids(await sampler(house, green).draw(50))
    assert ids(await sampler(house, green).draw(50)) == first
    assert len(ids(await sampler(house, green, seed=2).draw(50)) & first) < 25


async def test_what_is_added_changes_little(house, green):
    first = ids(await sampler(house, green).draw(50))
    house.put(*[stored(f"more-{n}", word("en", n, "more")) for n in range(30)])
    await house.follow(green)
    assert len(ids(await sampler(house, green).draw(50)) & first) >= 35


async def test_the_draw_is_even(house, green):
    drawn = Counter()
    for seed in range(60):
        drawn.update(ids(await sampler(house, green, seed=seed).draw(30)))
    counts = [drawn[number] for number in range(1, 301)]
    assert counts.count(0) <= 5  # 6 times is expected, with a deviation of 2.3
    assert max(counts) <= 16


async def test_a_rare_language_is_found_through_the_index(house, green):
    found = await sampler(house, green, draws=60).draw(50)
    assert Counter(one.language for one in found) == {"en": 50, "ru": 1}


async def test_what_is_not_applied_or_could_not_be_embedded_is_not_drawn(house, green):
    found = await sampler(house, green, through=100, absent={(7, 7)}).draw(1000)
    assert ids(found) == set(range(1, 101)) - {7}
    house.put(stored("en-0", "edited"))
    found = await sampler(house, green, through=100).draw(1000)
    assert ids(found) == set(range(2, 101))
