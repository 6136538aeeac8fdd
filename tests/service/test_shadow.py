"""Shadow mode: what is compared, what is not, and that no answer and no generation suffers from it."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from service.catalog import StoredDocument
from service.errors import IndexUnavailable
from service.requests import SearchRequest
from service.shadow import Shadow, common, rank_biased_overlap
from service.types import Document, Span
from tests.service.test_app import put, running, search
from tests.swap_house import House, until
from tests.tiny_bundle import PROBE_TEXTS, build_tiny_bundle

rankings = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 2)), unique=True)
TEXTS = [f"{what} {where}" for what in ("river", "bread", "music", "winter") for where in "abcde"]


@pytest.fixture
def house(tmp_path):
    with House(tmp_path) as house:
        build_tiny_bundle(house.models / "tiny" / "same", version="same", seed=0, max_tokens=120)
        yield house


@asynccontextmanager
async def beside(house, version="2", **options):
    """A fleet in which a candidate is ready, and a shadow that compares everything at once."""
    async with house.fleet() as fleet:
        green = house.register(version).id
        house.move(green, "building")
        await until(lambda: green in fleet.open)
        for generation in fleet.open.values():
            await searchable(generation, house)
        house.move(green, "indexing", "catching_up", "verifying", "ready")
        await fleet.follow()
        chosen = {"share": 1, "metrics": house.metrics, "patience_s": 0, "timeout_s": 60, **options}
        async with Shadow(fleet.retriever, **chosen) as shadow:
            yield fleet, shadow


async def searchable(generation, house):
    head = house.catalog.passages.heads()[house.collection]
    assert await generation.applier.wait_visible(house.collection, head, timeout_s=20)
    assert await generation.applier.drain(timeout_s=20)


async def ask(fleet, *queries, **request):
    """The hits of the first query, by document."""
    answers = await fleet.retriever.search(
        SearchRequest(list(queries) or ["river"], "default", **request)
    )
    return [hit.document for hit in answers[0].hits]


async def compared(shadow, queries, outcome="queries"):
    await until(lambda: (shadow.of(2) or {}).get(outcome) == queries)
    return shadow.of(2)


def value(house, name, **labels):
    return house.metrics.registry.get_sample_value(f"isogloss_{name}", labels)


def held(house, index="g2-c1"):
    """Have the searches of an index wait: an event for the first one, and one that lets them go."""
    came, go = asyncio.Event(), asyncio.Event()
    search = house.backend.indexes[index].search

    async def wait(queries):
        came.set()
        await go.wait()
        return await search(queries)

    house.backend.indexes[index].search = wait
    return came, go


def busy(generation, *, for_ever):
    """Make the encoder one that has just been asked, or one that was not for long."""
    generation.engine._batcher._queried_s = float("inf" if for_ever else "-inf")


def broken(house, error, index="g2-c1"):
    async def fail(queries):
        raise error

    house.backend.indexes[index].search = fail


@given(rankings, rankings)
def test_agreement_lies_between_0_and_1_whichever_way_it_is_asked(one, other):
    found = rank_biased_overlap(one, other)
    assert 0 <= found <= 1 + 1e-12
    assert found == pytest.approx(rank_biased_overlap(other, one))
    if not set(one) & set(other):
        assert found == 0
    if one:
        assert rank_biased_overlap(one, one) == pytest.approx(1)
        assert common(one, one) == 1


def test_the_first_ranks_count_most():
    ranking = [(letter, 0) for letter in "abcdefghij"]
    top, end = ranking.copy(), ranking.copy()
    top[0], top[1] = top[1], top[0]
    end[8], end[9] = end[9], end[8]
    assert rank_biased_overlap(ranking, top) < rank_biased_overlap(ranking, end) < 1
    assert common(ranking, top) == 1
    assert common(ranking, ranking[:5]) == 0.5


def test_the_overlap_of_rankings_of_unequal_length_is_that_of_the_paper():
    # By hand from equation 32 of Webber, Moffat and Zobel: l = 2, s = 1, X = (1, 1), p = 0.9.
    one, other = [("a", 0)], [("a", 0), ("b", 0)]
    expected = 0.1 / 0.9 * (0.9 + 0.5 * 0.81 + 0.5 * 0.81) + (0 / 2 + 1 / 1) * 0.81
    assert rank_biased_overlap(one, other) == pytest.approx(expected)


async def test_two_encoders_that_make_the_same_vectors_agree(house):
    house.put(*TEXTS)
    async with beside(house, "same") as (fleet, shadow):
        assert fleet.open[2].applier is not fleet.open[1].applier
        for number, query in enumerate(["river", "bread c", "winter"], 1):
            await ask(fleet, query)
            seen = await compared(shadow, number)
        assert (seen["live"], seen["shadow"]) == (1, 2)
        assert (seen["overlap_at_10"], seen["rank_correlation"]) == (1, 1)
        assert [seen[each] for each in ("empty", "late", "failed", "dropped")] == [0] * 4
        for quantile in ("p50", "p95"):
            assert all(each > 0 for each in seen["milliseconds"][quantile].values())
        assert value(house, "shadow_queries_total", outcome="compared") == 3
        assert value(house, "shadow_rank_correlation_sum") == 3
        assert shadow.of(1) == seen  # it takes part as well
        assert shadow.of(3) is None


async def test_two_unrelated_encoders_do_not(house):
    house.put(*(f"{text} {number}" for number, text in enumerate(TEXTS * 4)))
    async with beside(house) as (fleet, shadow):
        for number, query in enumerate(TEXTS[:8], 1):
            await ask(fleet, query)
            seen = await compared(shadow, number)
        assert seen["overlap_at_10"] < 0.7
        assert seen["rank_correlation"] < 0.7


async def test_hits_are_counted_by_language_on_both_sides_and_languages_that_nobody_knows_as_other(
    house,
):
    texts = [(language, text) for language, text in PROBE_TEXTS.items() if language in {"de", "ru"}]
    stored = [
        StoredDocument(Document(text, text), language, [Span(0, len(text))])
        for language, text in [*texts, ("tlh", "tlhIngan Hol")]
    ]
    house.catalog.documents.put(house.collection, stored)
    async with beside(house) as (fleet, shadow):
        await ask(fleet, PROBE_TEXTS["ru"])
        seen = await compared(shadow, 1)
        third = {"live": 0.3333, "shadow": 0.3333}
        assert seen["share_of_hits"] == {"ru": {"de": third, "other": third, "ru": third}}
        assert seen["by_query_language"]["ru"]["queries"] == 1
        assert seen["by_query_language"]["ru"]["overlap_at_10"] == 1
        await ask(fleet, PROBE_TEXTS["ru"], languages=["de"])
        seen = await compared(shadow, 2)
        assert seen["share_of_hits"]["ru"]["de"] == {"live": 0.5, "shadow": 0.5}
        for side in ("live", "shadow"):
            labels = {"side": side, "result_language": "other"}
            assert value(house, "shadow_results_total", **labels) == 1
        await ask(fleet, PROBE_TEXTS["th"], languages=["de"])
        seen = await compared(shadow, 3)
        assert seen["by_query_language"].keys() == {"ru", "th"}
        assert value(house, "shadow_overlap_count", query_language="th") == 1


async def test_what_is_shadowed_is_in_no_metric_of_what_was_asked(house):
    house.put(*TEXTS)
    async with beside(house) as (fleet, shadow):
        await ask(fleet)
        await compared(shadow, 1)
        assert value(house, "stage_duration_seconds_count", stage="search") == 1
        found = [
            sample.value
            for family in house.metrics.registry.collect()
            for sample in family.samples
            if sample.name == "isogloss_search_results_total"
        ]
        assert sum(found) == 10


async def test_nothing_is_compared_while_no_generation_is_beside(house):
    house.put(*TEXTS)
    async with (
        house.fleet() as fleet,
        Shadow(fleet.retriever, share=1, metrics=house.metrics, patience_s=0) as shadow,
    ):
        await searchable(fleet.open[1], house)
        assert len(await ask(fleet)) == 10
        assert shadow.of(1) is None
        assert not shadow._tasks


async def test_a_share_of_0_does_nothing(house):
    house.put(*TEXTS)
    async with beside(house, share=0) as (fleet, shadow):
        assert fleet.retriever.observer is None
        await ask(fleet)
        assert shadow.of(2) is None


async def test_the_share_is_what_the_coin_says(house):
    house.put(*TEXTS)
    tossed = iter([0.3, 0.1, 0.0, 0.25])
    async with beside(house, share=0.25, toss=lambda: next(tossed)) as (fleet, shadow):
        await ask(fleet)  # 0.3
        assert shadow.of(2) is None
        await ask(fleet)  # 0.1, and 0.0 for the first of its queries
        await compared(shadow, 1)
        await ask(fleet)  # 0.25
        assert not shadow._tasks
        assert next(tossed, None) is None


async def test_of_a_request_with_many_queries_one_is_compared_and_its_time_is_not(house):
    house.put(*TEXTS)
    queries = ["the river", PROBE_TEXTS["ru"], PROBE_TEXTS["th"]]
    tossed = iter([0.0, 0.5])
    async with beside(house, toss=lambda: next(tossed)) as (fleet, shadow):
        await ask(fleet, *queries)
        seen = await compared(shadow, 1)
        assert list(seen["by_query_language"]) == ["ru"]
        assert seen["milliseconds"] == {}


async def test_later_pages_are_not_compared_and_an_answer_without_hits_is_only_counted(house):
    house.put(*TEXTS)
    async with beside(house) as (fleet, shadow):
        await ask(fleet, offset=5)
        assert shadow.of(2) is None
        await ask(fleet, score_threshold=1.5)
        seen = await compared(shadow, 1, "empty")
        assert (seen["queries"], seen["overlap_at_10"]) == (0, None)


async def test_only_the_first_ten_hits_are_compared_and_fewer_if_fewer_were_asked_for(house):
    house.put(*TEXTS)
    async with beside(house) as (fleet, shadow):
        assert len(await ask(fleet, limit=20)) == 20
        assert (await compared(shadow, 1))["overlap_at_10"] < 1
        await ask(fleet, limit=3, group_by="document")
        await compared(shadow, 2)
        counted = [
            value(house, "shadow_results_total", side=side, result_language="en")
            for side in ("live", "shadow")
        ]
        assert counted == [13, 13]


async def test_an_error_beside_does_not_touch_the_answer_and_is_logged_once_in_a_while(house):
    house.put(*TEXTS)
    async with beside(house) as (fleet, shadow):
        expected = await ask(fleet, "music")
        await compared(shadow, 1)
        with capture_logs() as logs:
            broken(house, IndexUnavailable("no index today"))
            assert await ask(fleet, "music") == expected
            await compared(shadow, 1, "failed")
            broken(house, ValueError("a bug"))
            assert await ask(fleet, "music") == expected
            seen = await compared(shadow, 2, "failed")
        assert seen["queries"] == 1
        assert [line["error"] for line in logs] == ["no index today"]
        assert value(house, "shadow_queries_total", outcome="failed") == 2


async def test_a_generation_that_takes_too_long_is_let_go(house):
    house.put(*TEXTS)
    async with beside(house, timeout_s=0.05) as (fleet, shadow):
        _came, go = held(house)
        assert len(await ask(fleet)) == 10
        seen = await compared(shadow, 1, "late")
        assert (seen["queries"], seen["failed"]) == (0, 0)
        await asyncio.wait_for(fleet.open[2].unpinned(), 1)
        go.set()


async def test_no_more_than_a_few_are_in_flight_and_the_rest_is_dropped_and_counted(house):
    house.put(*TEXTS)
    async with beside(house, in_flight=2) as (fleet, shadow):
        _came, go = held(house)
        for _ in range(5):
            assert len(await ask(fleet)) == 10
        assert shadow.of(2)["dropped"] == 3
        assert value(house, "shadow_queries_total", outcome="dropped") == 3
        go.set()
        await compared(shadow, 2)


async def test_a_query_waits_until_the_live_encoder_is_idle(house):
    house.put(*TEXTS)
    async with beside(house, patience_s=60) as (fleet, shadow):
        assert len(await ask(fleet)) == 10
        busy(fleet.open[1], for_ever=True)
        await asyncio.sleep(0.2)
        assert len(shadow._tasks) == 1
        busy(fleet.open[1], for_ever=False)
        await compared(shadow, 1)


async def test_a_query_does_not_wait_for_ever_until_the_live_encoder_is_idle(house):
    house.put(*TEXTS)
    async with beside(house, patience_s=0.2) as (fleet, shadow):
        await ask(fleet)
        busy(fleet.open[1], for_ever=True)
        await compared(shadow, 1)
        assert fleet.open[1].engine.queried


async def test_a_generation_that_is_retired_waits_for_the_shadow_query_that_runs(house):
    house.put(*TEXTS)
    async with beside(house) as (fleet, shadow):
        came, go = held(house)
        green = fleet.open[2]
        await ask(fleet)
        await came.wait()
        house.move(2, "aborted")
        await fleet.follow()
        assert fleet.retriever.beside is None
        assert 2 in fleet.open
        assert green.engine.healthy
        go.set()
        await compared(shadow, 1)
        await until(lambda: 2 not in fleet.open)
        assert not green.engine.healthy


async def test_a_query_whose_generation_is_retired_while_it_waits_is_not_asked(house):
    house.put(*TEXTS)
    async with beside(house, patience_s=60) as (fleet, shadow):
        await ask(fleet)
        busy(fleet.open[1], for_ever=True)
        [task] = shadow._tasks
        house.move(2, "aborted")
        await fleet.follow()
        await until(lambda: 2 not in fleet.open)
        assert not task.done()
        busy(fleet.open[1], for_ever=False)
        await task
        seen = shadow.of(2)
        assert not any(seen[each] for each in ("queries", "empty", "late", "failed", "dropped"))


async def test_after_a_cut_over_the_other_direction_is_counted_anew(house):
    house.put(*TEXTS)
    async with beside(house) as (fleet, shadow):
        await ask(fleet)
        await compared(shadow, 1)
        house.catalog.generations.cut_over(2, epoch=1, soak_s=60)
        await fleet.follow()
        with capture_logs() as logs:
            await ask(fleet)
            await until(lambda: shadow.of(1)["live"] == 2)
            seen = await compared(shadow, 1)
        assert (seen["live"], seen["shadow"]) == (2, 1)
        [line] = [each for each in logs if each["event"] == "another pair is compared"]
        assert (line["live"], line["shadow"], line["queries"]) == (1, 2, 1)


async def test_what_an_answer_of_the_live_generation_before_shows_is_not_compared(house):
    house.put(*TEXTS)
    async with beside(house) as (fleet, shadow):
        came, go = held(house, "g1-c1")
        asking = asyncio.create_task(ask(fleet))
        await came.wait()
        house.catalog.generations.cut_over(2, epoch=1, soak_s=60)
        await fleet.follow()
        go.set()
        assert len(await asking) == 10
        assert shadow.of(2) is None


async def test_what_runs_at_the_end_is_given_up(house):
    house.put(*TEXTS)
    async with beside(house) as (fleet, shadow):
        came, _go = held(house)
        await ask(fleet)
        await came.wait()
        await shadow.__aexit__(None, None, None)
        await asyncio.wait_for(fleet.open[2].unpinned(), 1)
        assert len(await ask(fleet)) == 10
        assert fleet.retriever.observer is None


async def test_a_migration_shows_what_was_compared(tmp_path):
    for version, seed in (("1", 0), ("2", 7)):
        build_tiny_bundle(tmp_path / "models" / "tiny" / version, version=version, seed=seed)
    options = {"gate_samples_per_language": 4, "shadow_share": 1}
    async with running(tmp_path, bundle="tiny/1", **options) as client:
        await put(client, *({"id": text, "text": text, "language": "en"} for text in TEXTS))
        begun = await client.post("/models/tiny/2/activate", json={"hold": True})
        there = f"/migrations/{begun.json()['generation']}"
        seen = {}
        async with asyncio.timeout(30):
            while seen.get("state") != "ready":
                seen = (await client.get(there)).json()
                await asyncio.sleep(0.05)
            assert seen["shadow"] is None
            while not (seen["shadow"] or {}).get("queries"):
                if seen["shadow"] is None:  # the fleet may not have seen yet that it is ready
                    await search(client, "river", limit=5)
                await asyncio.sleep(0.05)
                seen = (await client.get(there)).json()
        assert (seen["shadow"]["live"], seen["shadow"]["shadow"]) == (1, seen["generation"])
        assert 0 <= seen["shadow"]["overlap_at_10"] <= 1
        assert "isogloss_shadow_overlap_bucket" in (await client.get("/metrics")).text
