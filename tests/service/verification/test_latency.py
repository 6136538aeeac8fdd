import asyncio
from dataclasses import replace

import pytest

from service.errors import EngineFailure, NotFound, Overloaded
from service.verification.latency import Asked, Percentiles, latency, slower
from tests.service.verification.conftest import Changed


@pytest.fixture
async def sides(house, blue_engine, green_engine):
    house.fill()
    return await house.side(green_engine), await house.side(blue_engine)


def queries(house, count=20):
    return [Asked(f"query {number}", house.collection) for number in range(count)]


def slow(side, times):
    async def embed(texts, role):
        for _ in range(times):
            await asyncio.sleep(0.02)
        return await side.engine.embed(texts, role)

    return replace(side, engine=Changed(side.engine, embed))


async def test_what_is_much_slower_fails_and_can_be_overridden(house, sides):
    green, blue = sides
    found = await latency(slow(green, 5), blue, queries(house, 6), ratio=1.5)
    assert (found.name, found.ok, found.overridable) == ("latency", False, True)
    assert "at most 1.5 times that is allowed (ISOGLOSS_GATE_LATENCY_RATIO)" in found.detail
    assert found.measures["green"]["median_s"] >= 0.1
    assert found.measures["green"]["queries"] == found.measures["blue"]["queries"] == 6


async def test_what_is_as_slow_as_before_or_faster_is_fine(house, sides):
    green, blue = sides
    assert (await latency(slow(green, 1), slow(blue, 1), queries(house, 6), ratio=5.0)).ok
    assert (await latency(green, slow(blue, 5), queries(house, 6), ratio=1.5)).ok


def test_a_few_milliseconds_are_no_matter_whatever_the_ratio():
    quick, hurried, slow = (Percentiles(50, 0.001, p95) for p95 in (0.001, 0.0055, 0.0065))
    assert slower(hurried, quick, ratio=2.0) == []
    assert "6.5 ms or more, and 1.0 ms in the live" in slower(slow, quick, ratio=2.0)[0]
    assert slower(slow, hurried, ratio=1.0) == []
    assert slower(slow, quick, ratio=7.0) == []


async def test_one_hiccup_is_measured_again(house, sides):
    green, blue = sides
    asked = 0

    async def embed(texts, role):
        nonlocal asked
        asked += 1
        if asked in {5, 6}:
            await asyncio.sleep(1.0)
        return await green.engine.embed(texts, role)

    hiccup = replace(green, engine=Changed(green.engine, embed))
    found = await latency(hiccup, slow(blue, 1), queries(house, 10), ratio=3.0)
    assert (found.ok, asked) == (True, 26)


async def test_both_are_asked_in_turn(house, sides):
    green, blue = sides
    order = []

    def heard(side, name):
        async def embed(texts, role):
            order.append((name, role, len(texts)))
            return await side.engine.embed(texts, role)

        return replace(side, engine=Changed(side.engine, embed))

    await latency(heard(green, "green"), heard(blue, "blue"), queries(house, 4), ratio=1e9)
    assert order[:4] == [
        ("green", "query", 1),
        ("blue", "query", 1),
        ("blue", "query", 1),
        ("green", "query", 1),
    ]


async def test_a_query_that_one_of_them_cannot_embed_is_left_out(house, sides):
    green, blue = sides

    async def embed(texts, role):
        if texts == ["query 1"]:
            raise EngineFailure("not finite")
        return await green.engine.embed(texts, role)

    found = await latency(
        replace(green, engine=Changed(green.engine, embed)), blue, queries(house, 4), ratio=1e9
    )
    assert found.measures["green"]["queries"] == found.measures["blue"]["queries"] == 3


async def test_a_full_queue_is_waited_for_and_a_collection_that_is_gone_is_not(house, sides):
    green, blue = sides
    refused = 0

    async def embed(texts, role):
        nonlocal refused
        if not refused:
            refused += 1
            raise Overloaded("full", retry_after_s=0)
        return await green.engine.embed(texts, role)

    def index(collection):
        if collection == 77:
            raise NotFound("gone")
        return green.index(collection)

    patient = replace(green, engine=Changed(green.engine, embed), index=index)
    found = await latency(patient, blue, [*queries(house, 5), Asked("query", 77)], ratio=1e9)
    assert (refused, found.measures["green"]["queries"]) == (1, 5)


async def test_alone_it_is_measured_and_not_judged(house, sides):
    green, _ = sides
    found = await latency(slow(green, 1), None, queries(house, 5), ratio=1e-9)
    assert (found.ok, found.detail) == (True, "nothing is live to compare with")
    assert found.measures["blue"] is None
    found = await latency(green, None, [], ratio=2.0)
    assert (found.ok, found.detail) == (True, "there is nothing to search for")
