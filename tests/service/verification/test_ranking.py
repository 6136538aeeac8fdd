import math

import numpy as np
import pytest

from service.errors import EngineFailure
from service.golden import GoldenQuery
from service.types import Embedded
from service.verification.ranking import ALL, chosen, discount, rank, search, wanted
from service.verification.searches import GoldenSearch
from service.verification.side import Side
from tests.service.verification.conftest import (
    Changed,
    compose,
    golden_lines,
    stored,
    word,
)


class Table:
    """An encoder whose vectors are written down; it knows the role."""

    dimension = 2

    def __init__(self, vectors):
        self.vectors = vectors

    async def embed(self, texts, role):
        rows = np.array([self.vectors[role, text] for text in texts], dtype=np.float32)
        return Embedded(rows, [1] * len(texts), [False] * len(texts))


def side_of(engine):
    return Side(1, 1, engine, lambda collection: None, compose)


def at(degrees):
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


def one_language(queries, passages, texts=None):
    """Golden lines in `en` with vectors at these angles."""
    texts = texts or [f"p{n}" for n in range(len(passages))]
    lines = [GoldenQuery({"en": f"q{n}"}, {"en": texts[n]}) for n in range(len(queries))]
    table = {("query", f"q{n}"): at(angle) for n, angle in enumerate(queries)}
    table |= {("passage", texts[n]): at(angle) for n, angle in enumerate(passages)}
    return lines, side_of(Table(table))


async def test_ndcg_and_accuracy_are_those_of_the_ranks():
    passages = [0, 10, 20, 30, 40, 50, 60, 70]
    queries = [0, 10, 20, 30, 40, 50, 60, 1]  # the last finds its passage at the last place
    lines, side = one_language(queries, passages)
    measured = await rank(side, lines)
    scores = measured["en", "en"]
    assert scores.ndcg == pytest.approx([1.0] * 7 + [1 / math.log2(9)])
    assert scores.first == [True] * 7 + [False]
    assert scores.chance == pytest.approx(sum(1 / math.log2(1 + r) for r in range(1, 9)) / 8)
    assert discount(1) == 1.0
    assert discount(11) == 0.0


async def test_an_encoder_that_makes_one_vector_of_everything_finds_nothing():
    lines, side = one_language([0] * 12, [0] * 12)
    assert (await rank(side, lines))["en", "en"].ndcg == [0.0] * 12


async def test_of_two_equal_passages_either_is_right():
    lines, side = one_language([0] * 8, [0] * 8, texts=["same"] * 8)
    assert (await rank(side, lines))["en", "en"].first == [True] * 8


async def test_a_query_that_is_its_own_passage_says_nothing_about_its_language():
    lines = [
        GoldenQuery({"en": f"{n}"}, {"en": f"{n}", "de": f"d{n}"} if n else {"en": "0"})
        for n in range(9)
    ]
    table = {(role, f"{n}"): at(10 * n) for n in range(9) for role in ("query", "passage")}
    table |= {("passage", f"d{n}"): at(10 * n) for n in range(9)}
    measured = await rank(side_of(Table(table)), lines)
    assert list(measured) == [("en", "de")]
    assert measured["en", "de"].lines == list(range(1, 9))


async def test_a_pair_with_fewer_than_eight_queries_is_left_out(green_engine):
    lines = [*golden_lines(7), *golden_lines(8, languages=["en"])]
    measured = await rank(side_of(green_engine), lines)
    assert list(measured) == [("en", "en")]
    assert len(measured["en", "en"].lines) == 15


async def test_a_real_encoder_finds_what_is_alike_and_no_translation(green_engine):
    measured = await rank(side_of(green_engine), golden_lines(30))
    assert len(measured) == 9
    assert np.mean(measured["de", "de"].ndcg) > 0.95
    assert np.mean(measured["ru", "ru"].ndcg) > 0.9
    assert np.mean(measured["en", "ru"].ndcg) < 0.35
    assert measured["en", "ru"].chance == pytest.approx(4.5436 / 30, abs=1e-4)


async def test_what_cannot_be_embedded_is_not_found(green_engine):
    victim = golden_lines(12)[3].passage["en"]

    async def embed(texts, role):
        if victim in texts:
            raise EngineFailure("not finite")
        return await green_engine.embed(texts, role)

    measured = await rank(side_of(Changed(green_engine, embed)), golden_lines(12))
    assert measured["en", "en"].ndcg[3] == 0.0
    assert np.mean(measured["en", "en"].ndcg) > 0.8


def test_every_language_keeps_its_lines_and_common_ones_are_bounded():
    lines = [GoldenQuery({"en": f"{n}"}, {"de": f"{n}"}) for n in range(5000)]
    lines += [GoldenQuery({"sw": f"{n}"}, {"en": f"{n}"}) for n in range(20)]
    kept = chosen(lines, seed=1)
    assert sum("sw" in line.query for line in kept) == 20
    assert 256 <= len(kept) <= 276
    assert kept == chosen(lines, seed=1) != chosen(lines, seed=2)
    assert chosen(lines[:9], seed=1) == lines[:9]


@pytest.fixture
async def green(house, green_engine):
    house.fill()
    house.put(stored("long", word("en", 3, "more", 60), pieces=3))
    return await house.side(green_engine)


def asked(meaning, language, *relevant, collection="default"):
    return GoldenSearch(
        word(language, meaning, "question"), language, collection, frozenset(relevant)
    )


async def test_searches_are_made_in_all_passages_and_in_each_language_of_an_answer(house, green):
    searches = [asked(1, "en", "en-1", "ru-1"), asked(2, "ru", "ru-2")]
    found = await search(green, house.catalog, await wanted(house.catalog, searches))
    assert set(found) == {("en", ALL), ("en", "en"), ("en", "ru"), ("ru", ALL), ("ru", "ru")}
    assert found["en", "en"].ndcg == [1.0]
    assert found["ru", ALL].first == [True]
    assert found["en", ALL].ndcg[0] < 1.0  # the translation is nowhere near
    assert found["ru", ALL].lines == [1]
    assert found["en", ALL].chance == 0.0


async def test_the_passages_of_a_document_count_once(house, green):
    searches = [asked(3, "en", "long", "en-3")]
    found = await search(green, house.catalog, await wanted(house.catalog, searches))
    assert found["en", "en"].ndcg == [1.0]


async def test_searches_whose_documents_are_not_there_are_left_out(house, green):
    searches = [
        asked(1, "en", "en-1", "gone"),
        asked(2, "en", "gone"),
        asked(3, "en", "en-3", collection="missing"),
    ]
    kept = await wanted(house.catalog, searches)
    assert [one.line for one in kept] == [0]
    assert kept[0].relevant == {"en": frozenset({"en-1"})}
    house.catalog.documents.delete(house.collection, ["en-1"])  # and still in the index
    found = await search(green, house.catalog, kept)
    assert found["en", ALL].ndcg == [0.0]
