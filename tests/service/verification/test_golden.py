import json
from dataclasses import replace

import pytest
from tokenizers import Regex, normalizers

from service.errors import BundleInvalid
from service.verification.golden import collect, golden
from tests.service.verification.conftest import (
    DIMENSION,
    golden_lines,
    open_engine,
    word,
)
from tests.tiny_bundle import build_tiny_bundle, build_tokenizer


@pytest.fixture(scope="module")
async def deaf_engine(tmp_path_factory):
    """An encoder to which all Cyrillic letters are one."""
    tokenizer = build_tokenizer()
    tokenizer.normalizer = normalizers.Replace(Regex("[а-я]"), "x")
    folder = tmp_path_factory.mktemp("deaf")
    bundle = build_tiny_bundle(
        folder, name="deaf", seed=5, dimension=DIMENSION, tokenizer=tokenizer
    )
    async with open_engine(bundle) as engine:
        yield engine


@pytest.fixture
def searches(tmp_path):
    path = tmp_path / "golden.jsonl"
    lines = [
        {
            "query": word(language, n, "question"),
            "language": language,
            "collection": "default",
            "relevant": [f"{language}-{n}"],
        }
        for language in ("en", "de", "ru")
        for n in range(12)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


async def checked(house, green, blue, path=None):
    queries = await collect(green, blue, house.catalog, path)
    return await golden(green, blue, house.catalog, queries, tolerance=0.02, floor=0.1)


async def test_an_encoder_that_is_worse_in_one_language_is_told_so(
    house, blue_engine, deaf_engine, searches
):
    house.fill()
    blue = await house.side(blue_engine)
    green = await house.side(deaf_engine, golden=lambda: golden_lines(40))
    found = await checked(house, green, blue, searches)
    assert (found.name, found.ok, found.overridable) == ("golden", False, True)
    assert "golden queries of deaf/1: queries in ru: nDCG@10 is 0." in found.detail
    assert "golden queries of ISOGLOSS_GATE_GOLDEN: queries in ru: nDCG@10 is 0." in found.detail
    assert "passages in ru: " in found.detail
    assert "in de: " not in found.detail
    assert "in en: " not in found.detail
    assert found.measures["bundle"]["pairs"]["ru>ru"]["blue"]["accuracy@1"] > 0.8
    assert found.measures["bundle"]["pairs"]["ru>ru"]["green"]["accuracy@1"] < 0.2


async def test_the_live_bundles_queries_serve_where_green_brings_none(
    house, blue_engine, green_engine
):
    house.fill()
    blue = await house.side(blue_engine, golden=lambda: golden_lines(12))
    green = await house.side(green_engine)
    found = await checked(house, green, blue)
    assert found.ok
    assert found.detail == (
        "golden queries of blue/1: 7 means over 9 pairs of languages, none worse than allowed"
    )
    assert list(found.measures) == ["bundle"]


async def test_queries_without_documents_are_told_and_say_nothing(
    house, blue_engine, green_engine, searches
):
    blue, green = await house.side(blue_engine), await house.side(green_engine)
    found = await checked(house, green, blue, searches)
    assert found.ok
    assert found.detail.startswith("NOTHING WAS MEASURED")
    assert "36 of the 36 queries of ISOGLOSS_GATE_GOLDEN were left out" in found.detail
    assert found.measures == {}


async def test_files_that_cannot_be_read_fail_the_check(house, blue_engine, green_engine, tmp_path):
    def broken():
        raise BundleInvalid("golden.jsonl:3: no text")

    blue, green = await house.side(blue_engine), await house.side(green_engine)
    found = await checked(house, replace(green, golden=broken), blue, tmp_path / "missing.jsonl")
    assert not found.ok
    assert "green/1: golden.jsonl:3: no text; ISOGLOSS_GATE_GOLDEN: " in found.detail
    found = await checked(house, green, replace(blue, golden=broken))
    assert found.ok  # the live bundle's own fault is not held against its successor


async def test_a_handful_of_queries_is_shown_and_not_judged(
    house, blue_engine, deaf_engine, searches
):
    house.fill()
    lines = searches.read_text(encoding="utf-8").splitlines()
    searches.write_text("\n".join(lines[-5:]), encoding="utf-8")
    green, blue = await house.side(deaf_engine), await house.side(blue_engine)
    found = await checked(house, green, blue, searches)
    assert found.ok
    assert "shown but NOT JUDGED, for want of 8 queries" in found.detail
    assert found.measures["searches"]["pairs"]["ru>all"]["queries"] == 5
