from functools import partial

import numpy as np
import pytest

from service.errors import EngineFailure, NotFound, Overloaded
from service.verification.side import each, encode, encode_distinct, patiently, run
from tests.service.verification.conftest import Changed


async def test_queries_come_in_small_pieces_and_passages_in_larger_ones(green_engine):
    pieces = []

    async def embed(texts, role):
        pieces.append((role, len(texts)))
        return await green_engine.embed(texts, role)

    texts = [f"text {number}" for number in range(20)]
    for role in ("query", "passage"):
        found = await encode(Changed(green_engine, embed), texts, role)
        assert len(found) == 20
    assert pieces == [("query", 8), ("query", 8), ("query", 4), ("passage", 20)]


async def test_a_text_that_cannot_be_embedded_harms_no_other(green_engine):
    async def embed(texts, role):
        if "poison" in texts:
            raise EngineFailure("not finite")
        return await green_engine.embed(texts, role)

    engine = Changed(green_engine, embed)
    found = await encode(engine, ["a", "poison", "nul \0", "x" * 200], "passage")
    assert [one.error for one in found] == ["", "not finite", "the text holds a NUL character", ""]
    assert [one.vector is None for one in found] == [False, True, True, False]
    assert [one.truncated for one in found] == [False, False, False, True]
    by_text = await encode_distinct(engine, ["a", "poison", "a"], role="query")
    assert list(by_text) == ["a", "poison"]
    assert np.isnan(by_text["poison"]).all()
    assert np.linalg.norm(by_text["a"]) == pytest.approx(1.0)


async def test_a_full_queue_is_waited_for_but_not_for_ever():
    refusals = 0

    async def full(retry_after_s, times):
        nonlocal refusals
        refusals += 1
        if refusals <= times:
            raise Overloaded("full", retry_after_s=retry_after_s)
        return "done"

    assert await patiently(partial(full, 0, 3)) == "done"
    with pytest.raises(Overloaded):
        await patiently(partial(full, 61, 99))
    assert refusals == 5


async def test_a_collection_that_is_there_must_have_its_index(house):
    async def missing(collection):
        raise NotFound("no index")

    with pytest.raises(NotFound, match="no index"):
        await each(house.catalog, house.collections(), missing)

    async def deleted(collection):
        await run(house.catalog.collections.delete, collection.name)
        raise NotFound("no index")

    assert await each(house.catalog, house.collections(), deleted) == {}


async def test_other_errors_of_an_encoder_are_passed_on(green_engine):
    async def embed(texts, role):
        raise Overloaded("full", retry_after_s=100)

    with pytest.raises(Overloaded):
        await encode(Changed(green_engine, embed), ["a"], "query")
