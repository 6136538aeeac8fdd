from dataclasses import replace

import numpy as np
import pytest

from service.errors import EngineFailure
from service.types import Embedded
from service.verification.samples import examine, truncation, vectors
from tests.service.verification.conftest import Changed, open_engine, stored, word
from tests.tiny_bundle import build_tiny_bundle


@pytest.fixture
async def green(house, green_engine):
    house.fill()
    return await house.side(green_engine)


async def samples_of(house, green, blue=None, **options):
    return await examine(
        green, blue, house.catalog, house.collections(), **({"per_language": 50} | options)
    )


async def judged(house, green):
    return vectors(await samples_of(house, green), min_cosine=0.99)


def passage(house, green, language="de"):
    """The number of some passage in the index."""
    return next(n for n, point in house.points(green).items() if point.language == language)


def turned(vector, cosine):
    """A unit vector that has this cosine with another."""
    other = np.roll(vector, 1)
    other -= vector * (vector @ other)
    other /= np.linalg.norm(other)
    return (cosine * vector + np.sqrt(1 - cosine**2) * other).astype(np.float32)


async def test_vectors_that_the_encoder_makes_are_fine(house, green):
    found = await judged(house, green)
    assert (found.name, found.ok, found.overridable) == ("vectors", True, False)
    assert found.measures["languages"]["de"]["sampled"] == 12
    assert found.measures["languages"]["de"]["min_cosine"] == pytest.approx(1.0)
    assert found.measures["bar"] == 0.999


async def test_titles_are_embedded_with_the_text(house, green):
    house.put(stored("titled", "text", title="A title"))
    await house.follow(green)
    assert (await judged(house, green)).ok
    assert not (await judged(house, replace(green, compose=lambda title, text: text))).ok


async def test_the_vector_of_an_earlier_wording_is_caught(house, green):
    points = house.points(green)
    number = passage(house, green)
    points[number] = replace(points[number], vector=turned(points[number].vector, 0.996))
    found = await judged(house, green)
    assert found.detail.startswith(f"1 of 12 sampled in 'de', such as passage {number} of document")
    assert "has cosine 0.9960" in found.detail
    assert "the least is 0.9990 (ISOGLOSS_GATE_MIN_COSINE)" in found.detail
    assert found.measures["languages"]["de"]["wrong"] == 1


async def test_what_an_encoder_makes_differently_everywhere_is_measured_by_the_median(house, green):
    points = house.points(green)
    number = passage(house, green)
    exact = points[number].vector
    for other, point in points.items():
        points[other] = replace(point, vector=turned(point.vector, 0.9993))
    points[number] = replace(points[number], vector=turned(exact, 0.992))
    found = await judged(house, green)
    assert (found.ok, found.measures["bar"]) == (True, 0.99)
    points[number] = replace(points[number], vector=turned(exact, 0.98))
    assert "the least is 0.9900" in (await judged(house, green)).detail


async def test_vectors_of_another_precision_are_near_and_still_caught(house, green):
    points = house.points(green)
    for number, point in points.items():
        points[number] = replace(point, vector=turned(point.vector, 0.9968))
    found = await judged(house, green)
    assert found.detail == (
        "the median cosine of a stored vector with what the encoder makes of its text is 0.9968,"
        " and 0.9990 is the least for ISOGLOSS_GATE_MIN_COSINE=0.99: another encoder, precision or"
        " prompt made them"
    )
    assert vectors(await samples_of(house, green), min_cosine=0.96).ok  # a store of few bits


async def test_a_passage_whose_vector_is_anothers_is_not_found_by_its_text(house, green):
    points = house.points(green)
    number = passage(house, green)
    points[number] = replace(points[number], vector=-points[number].vector)
    assert "its stored vector has cosine -1.0000" in (await judged(house, green)).detail


async def test_a_passage_that_no_search_finds_is_told(house, green):
    number = passage(house, green)
    lost = house.points(green).pop(number)  # the catalog has it, and the digest would tell first
    found = await judged(house, green)
    assert f"passage {lost.id} of document" in found.detail
    assert "its own text does not find it (the best score is" in found.detail
    house.points(green).clear()
    assert "12 of 12 sampled in 'ru'" in (await judged(house, green)).detail


async def test_a_vector_that_another_passage_hides_is_told(house, green):
    points = house.points(green)
    number = passage(house, green)
    exact = points[number].vector
    for other, point in list(points.items()):
        points[other] = replace(point, vector=turned(point.vector, 0.9993))
    points[number] = replace(points[number], vector=turned(exact, 0.991))
    points[999] = replace(points[number], id=999, vector=exact)
    found = await judged(house, green)
    assert f"passage {number} of document" in found.detail
    assert "its own text finds another passage first, by 0.0090" in found.detail


async def test_equal_texts_may_tie_however_many_there_are(house, green):
    house.put(*[stored(f"same-{n}", "the very same text", language="fr") for n in range(1100)])
    await house.follow(green)
    found = await judged(house, green)
    assert found.ok
    assert found.measures["languages"]["fr"]["sampled"] == 50


async def test_nearly_equal_vectors_may_come_before_one_another(house, green):
    points = house.points(green)
    number = passage(house, green)
    points[999] = replace(points[number], id=999)
    points[number] = replace(points[number], vector=turned(points[number].vector, 0.9995))
    assert (await judged(house, green)).ok


async def test_a_passage_that_is_edited_meanwhile_is_skipped(house, green):
    house.put(stored("de-3", word("de", 3, "edited"), language="de"))  # and not applied yet
    assert len(await samples_of(house, green)) == 35
    await house.follow(green)

    async def embed(texts, role):
        house.put(stored("de-4", word("de", 4, "edited"), language="de"))
        return await green.engine.embed(texts, role)

    busy = replace(green, engine=Changed(green.engine, embed))
    points = house.points(green)
    number = next(
        one.passage.id for one in await samples_of(house, green) if one.passage.document == "de-4"
    )
    points[number] = replace(points[number], vector=-points[number].vector)
    samples = await samples_of(house, busy)
    assert len(samples) == 35
    assert vectors(samples, min_cosine=0.99).ok


async def test_vectors_of_another_length_and_vectors_that_are_none_are_caught(house, green):
    engine = green.engine

    async def long(texts, role):
        found = await engine.embed(texts, role)
        return Embedded(found.vectors * 1.01, found.tokens, found.truncated)

    found = await judged(house, replace(green, engine=Changed(engine, long)))
    assert "the encoder made a vector of length 1.01, not 1" in found.detail

    victim = word("ru", 3, "passage")

    async def poisoned(texts, role):
        if victim in texts:
            raise EngineFailure("The encoder made a vector that is not finite.")
        return await engine.embed(texts, role)

    found = await judged(house, replace(green, engine=Changed(engine, poisoned)))
    assert found.detail.startswith("1 of 12 sampled in 'ru', such as ")
    assert found.detail.endswith(
        "'ru-3' in 'default': The encoder made a vector that is not finite."
    )


async def test_only_some_languages_are_told_at_length(house, green):
    house.put(*[stored(code, f"a text {code}", language=code) for code in ("fr", "it", "es")])
    await house.follow(green)
    for number, point in house.points(green).items():
        house.points(green)[number] = replace(point, vector=-point.vector)
    found = await judged(house, green)
    assert found.detail.count("such as") == 3
    assert "; and so in 3 more languages; the median cosine" in found.detail


async def test_an_encoder_that_cuts_more_than_the_live_one_is_told(house, blue_engine, tmp_path):
    for language in ("en", "ru"):
        size = 40 if language == "en" else 6
        house.put(
            *[
                stored(f"{language}-{n}", word(language, n, "passage", size), language=language)
                for n in range(20)
            ]
        )
    bundle = build_tiny_bundle(tmp_path, name="short", seed=4, max_tokens=30)
    async with open_engine(bundle) as engine:
        green, blue = await house.side(engine), await house.side(blue_engine)
        found = truncation(await samples_of(house, green, blue))
        assert (found.ok, found.overridable) == (False, True)
        assert found.detail.startswith(
            "20 of 20 sampled passages in 'en' are cut, and 0 by the live encoder;"
        )
        assert found.measures["languages"]["ru"] == {"sampled": 20, "green": 0.0, "blue": 0.0}
        assert truncation(await samples_of(house, blue, green)).ok
        assert truncation(await samples_of(house, green)).ok


async def test_one_long_passage_of_a_small_language_does_not_fail_it(house, blue_engine, tmp_path):
    house.put(stored("long", word("en", 1, "passage", 40)), stored("short", "short"))
    bundle = build_tiny_bundle(tmp_path, name="short", seed=4, max_tokens=30)
    async with open_engine(bundle) as engine:
        green, blue = await house.side(engine), await house.side(blue_engine)
        found = truncation(await samples_of(house, green, blue))
    assert found.ok
    assert found.measures["languages"]["en"] == {"sampled": 2, "green": 0.5, "blue": 0.0}
