import asyncio
import json
from dataclasses import replace

import pytest

from service.errors import ConfigurationError, IndexUnavailable, InvalidInput, Unavailable
from service.filters import Equals
from service.metrics import Metrics
from service.vectors.edge import EdgeBackend
from service.verification import INTEGRITY, QUALITY, Gate, from_json, to_json
from tests.ram_folder import ram_folder
from tests.service.verification.conftest import (
    Changed,
    House,
    golden_lines,
    open_engine,
    stored,
    word,
)
from tests.tiny_bundle import build_tiny_bundle

NONE = {"override": (), "reason": ""}


def gate_of(house, **options):
    return Gate(
        house.catalog, **({"patience_s": 0.0, "rest_s": 0.0, "latency_ratio": 1e9} | options)
    )


def failed(report):
    return [check.name for check in report.checks if not check.ok]


def check_of(report, name):
    (found,) = [check for check in report.checks if check.name == name]
    return found


def golden_file(path, house, per_language=12):
    lines = [
        {
            "query": word(language, n, "query"),
            "language": language,
            "collection": "default",
            "relevant": [f"{language}-{n}"],
        }
        for language in ("en", "de", "ru")
        for n in range(per_language)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


async def test_a_sound_generation_passes_every_check(house, blue_engine, green_engine, tmp_path):
    house.fill()
    blue = await house.side(blue_engine)
    green = await house.side(green_engine, golden=lambda: golden_lines(12))
    gate = gate_of(house, golden=golden_file(tmp_path / "golden.jsonl", house))
    report = await gate.verify(green, blue, **NONE)
    assert [check.name for check in report.checks] == [*INTEGRITY, *QUALITY]
    assert {check.name for check in report.checks if check.overridable} == set(QUALITY)
    assert (report.passed, failed(report), report.overridden) == (True, [], [])
    golden = check_of(report, "golden").measures
    assert golden["bundle"]["pairs"]["ru>ru"]["queries"] == 12
    assert golden["searches"]["pairs"]["ru>all"]["green"]["ndcg@10"] > 0.9
    assert check_of(report, "latency").measures["blue"]["queries"] == 36
    assert from_json(json.loads(json.dumps(to_json(report), allow_nan=False))) == report


async def test_a_sound_generation_in_the_embedded_index_passes(catalog, blue_engine, green_engine):
    with ram_folder() as folder:
        async with EdgeBackend.start(folder / "index", metrics=Metrics()) as backend:
            house = House(catalog, backend)
            house.fill()
            blue = await house.side(blue_engine)
            green = await house.side(green_engine, golden=lambda: golden_lines(12))
            report = await gate_of(house).verify(green, blue, **NONE)
            assert failed(report) == []
            assert check_of(report, "vectors").measures["bar"] == 0.999

            # The same vectors, but of the encoder that is live.
            wrong = replace(green, engine=blue_engine)
            report = await gate_of(house).verify(wrong, blue, **NONE)
            assert "vectors" in failed(report)


async def test_vectors_of_another_bundle_of_equal_dimension_are_caught(
    house, blue_engine, green_engine
):
    house.fill()
    blue = await house.side(blue_engine)
    green = await house.side(green_engine)
    points, others = house.points(green), house.points(blue)
    for number in list(points):
        points[number] = others[number]
    report = await gate_of(house).verify(green, blue, **NONE)
    assert failed(report) == ["vectors"]  # neither counts nor revisions can tell
    assert "12 of 12 sampled in 'ru'" in check_of(report, "vectors").detail
    assert not report.passed


async def test_without_a_live_generation_a_first_one_can_pass(house, green_engine):
    house.fill()
    green = await house.side(green_engine, golden=lambda: golden_lines(12))
    report = await gate_of(house).verify(green, None, **NONE)
    assert report.passed
    assert check_of(report, "golden").detail.endswith("nothing is live to compare with")
    assert check_of(report, "truncation").detail == "nothing is live to compare with"


async def test_an_empty_catalog_passes_and_says_that_nothing_was_measured(
    house, blue_engine, green_engine
):
    blue, green = await house.side(blue_engine), await house.side(green_engine)
    report = await gate_of(house).verify(green, blue, **NONE)
    assert report.passed
    assert check_of(report, "golden").detail.startswith("NOTHING WAS MEASURED")
    assert check_of(report, "latency").detail == "there is nothing to search for"


async def test_a_failed_quality_check_can_be_overridden_with_a_reason(house, blue_engine, tmp_path):
    house.put(*[stored(f"d{n}", word("en", n, "passage")) for n in range(12)])
    short = build_tiny_bundle(tmp_path / "short", seed=3, max_tokens=16)
    async with open_engine(short) as engine:
        blue, green = await house.side(blue_engine), await house.side(engine)
        gate = gate_of(house)
        report = await gate.verify(green, blue, **NONE)
        assert (failed(report), report.passed) == (["truncation"], False)
        report = await gate.verify(
            green, blue, override=["truncation", "latency"], reason="texts will be shorter"
        )
    assert (failed(report), report.passed) == (["truncation"], True)
    assert (report.overridden, report.reason) == (["truncation"], "texts will be shorter")


async def test_an_override_of_integrity_is_refused_before_anything_is_looked_at(house, tmp_path):
    gate = gate_of(house, golden=tmp_path / "missing.jsonl")
    with pytest.raises(InvalidInput, match=r"'digest' proves integrity .* truncation, golden"):
        await gate.preflight(override=["digest"], reason="hurry")
    with pytest.raises(InvalidInput, match="needs a reason"):
        await gate.preflight(override=["golden"], reason=" ")
    with pytest.raises(ConfigurationError, match=r"ISOGLOSS_GATE_GOLDEN: .*missing.jsonl"):
        await gate.preflight(override=[], reason="")
    await gate_of(house).preflight(override=["golden"], reason="a trial")


async def test_the_gate_passes_while_documents_are_written_changed_and_deleted(
    house, blue_engine, green_engine
):
    house.fill()
    blue, green = await house.side(blue_engine), await house.side(green_engine)
    written = asyncio.Event()
    rounds = 0

    async def write():
        nonlocal rounds
        while True:
            rounds += 1
            house.put(stored(f"new-{rounds}", word("en", rounds, "new")))
            house.put(stored(f"ru-{rounds % 12}", word("ru", rounds, "edit"), language="ru"))
            house.catalog.documents.delete(house.collection, [f"de-{rounds % 12}"])
            for side in (blue, green):
                await house.follow(side, flush=rounds % 3 == 0)
            house.catalog.passages.purge(house.collection)
            written.set()
            await asyncio.sleep(0)

    writer = asyncio.create_task(write())
    try:
        await written.wait()
        for _ in range(3):
            report = await gate_of(house, patience_s=60.0).verify(green, blue, **NONE)
            assert failed(report) == []
    finally:
        writer.cancel()
    assert rounds > 10


async def test_a_collection_that_is_deleted_meanwhile_is_left_out(house, blue_engine, green_engine):
    house.fill()
    other = house.catalog.collections.create("other").id
    house.put(stored("a", "text"), collection=other)
    blue, green = await house.side(blue_engine), await house.side(green_engine)

    def index(collection):
        if collection == other and house.catalog.passages.heads().get(other):
            house.catalog.collections.delete("other")
        return green.index(collection)

    report = await gate_of(house).verify(replace(green, index=index), blue, **NONE)
    assert report.passed
    assert list(check_of(report, "counts").measures["collections"]) == ["default"]


async def test_an_index_that_does_not_answer_is_no_verdict(house, blue_engine, green_engine):
    house.fill()
    blue, green = await house.side(blue_engine), await house.side(green_engine)
    house.backend.down = True
    with pytest.raises(IndexUnavailable):
        await gate_of(house).verify(green, blue, **NONE)


async def test_it_can_be_cancelled_while_it_embeds(house, blue_engine, green_engine):
    house.fill()
    blue, green = await house.side(blue_engine), await house.side(green_engine)
    reached = asyncio.Event()

    async def embed(texts, role):
        reached.set()
        await asyncio.Event().wait()

    stuck = replace(green, engine=Changed(green_engine, embed))
    task = asyncio.create_task(gate_of(house).verify(stuck, blue, **NONE))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_green_that_has_indexed_nothing_gets_no_verdict(house, blue_engine, green_engine):
    green = await house.side(green_engine)
    house.fill()
    blue = await house.side(blue_engine)
    with pytest.raises(Unavailable, match="up to revision 0, and 36 was there when the gate"):
        await gate_of(house).verify(green, blue, **NONE)


async def test_a_generation_that_takes_over_the_indexes_of_another_is_verified_by_them(
    house, blue_engine, green_engine
):
    house.fill()
    blue = await house.side(blue_engine)
    green = replace(blue, generation=blue.generation + 7)
    report = await gate_of(house).verify(green, blue, **NONE)
    assert report.passed
    assert await green.index(house.collection).count(Equals("language", "ru")) == 12
