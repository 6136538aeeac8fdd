"""The compatible check: what it takes for one encoder's queries to be asked of another one's passages."""

import pytest

from service.verification.crossing import crossing
from tests.service.verification.conftest import DIMENSION, golden_lines, open_engine
from tests.tiny_bundle import build_tiny_bundle


@pytest.fixture(scope="module")
async def near_engine(tmp_path_factory):
    """The live encoder, moved a little."""
    folder = tmp_path_factory.mktemp("near")
    bundle = build_tiny_bundle(folder, name="near", seed=1, dimension=DIMENSION, drift=0.05)
    async with open_engine(bundle) as engine:
        yield engine


@pytest.fixture(scope="module")
async def live_engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    bundle = build_tiny_bundle(folder, name="live", seed=1, dimension=DIMENSION)
    async with open_engine(bundle) as engine:
        yield engine


async def asked(house, green, blue, path=None, **options):
    limits = {"per_language": 20, "tolerance": 0.02, "floor": 0.1} | options
    return await crossing(green, blue, house.catalog, house.collections(), path=path, **limits)


async def test_an_encoder_that_hardly_moved_may_ask(house, live_engine, near_engine):
    house.fill()
    blue, green = await house.side(live_engine), await house.side(near_engine)
    found = await asked(house, green, blue)
    assert found.ok, found.detail
    assert (found.name, found.overridable) == ("compatible", False)
    assert "36 sentences" in found.detail
    means = found.measures["sentences"]["means"]
    assert means["queries in ru"]["lines"] == 12
    assert means["all languages"]["green"] > 0.9


async def test_an_encoder_of_an_unrelated_space_may_not(house, live_engine, tmp_path):
    house.fill()
    bundle = build_tiny_bundle(tmp_path, name="far", seed=9, dimension=DIMENSION)
    async with open_engine(bundle) as engine:
        blue, green = await house.side(live_engine), await house.side(engine)
        found = await asked(house, green, blue)
    assert not found.ok
    assert "all languages: nDCG@10 is 0." in found.detail
    assert found.measures["sentences"]["means"]["all languages"]["blue"] > 0.9


async def test_golden_queries_are_asked_across_the_two(house, live_engine, near_engine):
    house.fill()
    blue = await house.side(live_engine)
    green = await house.side(near_engine, golden=lambda: golden_lines(40))
    found = await asked(house, green, blue)
    assert found.ok, found.detail
    assert {"bundle", "sentences"} == found.measures.keys()
    assert found.measures["bundle"]["pairs"]["en>ru"]["queries"] == 40


async def test_a_mean_that_is_lower_by_accident_is_no_proof(house, live_engine, near_engine):
    house.fill()
    blue, green = await house.side(live_engine), await house.side(near_engine)
    found = await asked(house, green, blue, tolerance=-1.0)
    assert not found.ok
    assert "more than -1 lower (ISOGLOSS_GATE_TOLERANCE)" in found.detail


async def test_where_there_is_nothing_to_ask_nothing_is_proven(house, live_engine, near_engine):
    blue, green = await house.side(live_engine), await house.side(near_engine)
    found = await asked(house, green, blue)
    assert (found.ok, found.measures) == (False, {})
    assert "nothing was measured" in found.detail


async def test_vectors_of_another_length_cannot_meet(house, live_engine, tmp_path):
    bundle = build_tiny_bundle(tmp_path, name="short", seed=1, dimension=8)
    async with open_engine(bundle) as engine:
        blue, green = await house.side(live_engine), await house.side(engine)
        found = await asked(house, green, blue)
    assert not found.ok
    assert f"vectors of 8 dimensions, and the live ones have {DIMENSION}" in found.detail
