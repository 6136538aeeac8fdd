import asyncio
import gc
import threading
import time
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batcher import BatchLimits, MicroBatcher
from service.errors import DeadlineExceeded, EngineFailure, NotReady, Overloaded
from service.metrics import Metrics
from service.types import Tokens

POISON = 666
NAN = 999


def tokens(*ids):
    return Tokens(np.array(ids, np.int64))


def texts(count, length=4, first=1):
    return [tokens(*[number] * length) for number in range(first, first + count)]


class SumEncoder:
    """A vector is (sum of the ids, count of the ids); it can be held, and it remembers batches."""

    def __init__(self):
        self.batches = []
        self.began = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, batch):
        self.batches.append([text.ids.tolist() for text in batch])
        self.began.release()
        self.gate.wait(20)
        sums = [int(text.ids.sum()) for text in batch]
        if any(POISON in text.ids for text in batch):
            raise ValueError("poison")
        rows = [
            [np.nan if NAN in text.ids else total, len(text)]
            for total, text in zip(sums, batch, strict=True)
        ]
        return np.array(rows, np.float32)

    @property
    def ran(self):
        return [ids[0] for batch in self.batches for ids in batch]

    async def begun(self):
        await asyncio.to_thread(self.began.acquire)


def expected(batch):
    return [[float(text.ids.sum()), float(len(text))] for text in batch]


def batcher_of(*infer, metrics=None, **options):
    options = {"max_batch_tokens": 64, "max_passage_batch_tokens": 32} | options
    limits = BatchLimits(**options)
    return MicroBatcher(*infer, dimension=2, limits=limits, metrics=metrics or Metrics())


async def launched(coroutine):
    """A task that has run to its first wait."""
    task = asyncio.ensure_future(coroutine)
    await asyncio.sleep(0)
    return task


async def held(batcher, encoder):
    """A batcher whose one worker is busy, so that what follows queues; frees it by the gate."""
    encoder.gate.clear()
    blocker = await launched(batcher.submit([tokens(7)], lane="query"))
    await encoder.begun()
    return blocker


async def test_each_vector_comes_back_at_the_row_of_its_text():
    encoder = SumEncoder()
    async with batcher_of(encoder) as batcher:
        batch = texts(9, length=3)
        vectors = await batcher.submit(batch, lane="passage")
    assert vectors.tolist() == expected(batch)
    assert vectors.dtype == np.float32


async def test_it_knows_whether_queries_wait_or_came_a_moment_ago(monkeypatch):
    encoder = SumEncoder()
    async with batcher_of(encoder) as batcher:
        assert not batcher.queried
        await batcher.submit(texts(1), lane="passage")
        assert not batcher.queried
        await batcher.submit(texts(1), lane="query")
        assert batcher.queried
        monkeypatch.setattr("service.batcher.QUIET_S", 0.0)
        assert not batcher.queried
        blocker = await held(batcher, encoder)
        waiting = await launched(batcher.submit(texts(1, first=50), lane="query"))
        assert batcher.queried
        encoder.gate.set()
        await asyncio.gather(blocker, waiting)
        assert not batcher.queried


id_lists = st.lists(st.integers(1, 5), min_size=1, max_size=40)
requests = st.lists(
    st.tuples(st.sampled_from(["query", "passage"]), st.lists(id_lists, max_size=12)), max_size=25
)


@settings(max_examples=60, deadline=None)
@given(requests, st.integers(1, 3))
def test_whatever_the_requests_every_row_is_right_and_no_batch_passes_its_budget(asked, workers):
    encoder = SumEncoder()

    async def scenario():
        async with batcher_of(*[encoder] * workers) as batcher:
            batches = [[tokens(*ids) for ids in lists] for _, lists in asked]
            answers = await asyncio.gather(
                *(
                    batcher.submit(batch, lane=lane)
                    for (lane, _), batch in zip(asked, batches, strict=True)
                )
            )
        for batch, vectors in zip(batches, answers, strict=True):
            assert vectors.tolist() == expected(batch)

    asyncio.run(scenario())
    for batch in encoder.batches:
        assert len(batch) == 1 or max(map(len, batch)) * len(batch) <= 64


async def test_an_empty_request_has_an_empty_matrix_and_costs_no_batch():
    encoder = SumEncoder()
    async with batcher_of(encoder) as batcher:
        assert (await batcher.submit([], lane="query")).shape == (0, 2)
    assert encoder.batches == []


async def test_a_text_without_tokens_is_the_encoders_to_judge():
    async with batcher_of(SumEncoder()) as batcher:
        assert (await batcher.submit([tokens()], lane="query")).tolist() == [[0, 0]]


async def test_requests_that_wait_together_share_a_batch():
    encoder = SumEncoder()
    async with batcher_of(encoder) as batcher:
        blocker = await held(batcher, encoder)
        tasks = [await launched(batcher.submit([text], lane="query")) for text in texts(16)]
        encoder.gate.set()
        await asyncio.gather(blocker, *tasks)
    assert [len(batch) for batch in encoder.batches] == [1, 16]


async def test_identical_texts_in_flight_run_once_whether_they_wait_or_run():
    encoder, metrics = SumEncoder(), Metrics()
    async with batcher_of(encoder, metrics=metrics) as batcher:
        blocker = await held(batcher, encoder)
        same_as_running = await launched(batcher.submit([tokens(7)], lane="query"))
        twins = await launched(batcher.submit([tokens(1, 2), tokens(1, 2)], lane="query"))
        third = await launched(batcher.submit([tokens(3), tokens(1, 2)], lane="query"))
        encoder.gate.set()
        assert (await same_as_running).tolist() == (await blocker).tolist() == [[7, 1]]
        assert (await twins).tolist() == [[3, 2], [3, 2]]
        assert (await third).tolist() == [[3, 1], [3, 2]]
    assert sorted(encoder.ran) == [1, 3, 7]
    assert metrics.registry.get_sample_value("isogloss_shared_texts_total", {"lane": "query"}) == 3


async def test_queries_run_before_passages_that_came_earlier():
    encoder = SumEncoder()
    async with batcher_of(encoder) as batcher:
        blocker = await held(batcher, encoder)
        bulk = await launched(batcher.submit(texts(24, first=100), lane="passage"))
        query = await launched(batcher.submit([tokens(1)], lane="query"))
        encoder.gate.set()
        await asyncio.gather(blocker, bulk, query)
    assert encoder.ran[:2] == [7, 1]


async def test_passages_fill_their_own_budget_and_a_quarter_of_it_while_queries_come():
    encoder = SumEncoder()
    async with batcher_of(encoder, max_passage_batch_tokens=32) as batcher:
        await batcher.submit(texts(24), lane="passage")
        quiet = [len(batch) for batch in encoder.batches]
        blocker = await held(batcher, encoder)
        bulk = await launched(batcher.submit(texts(24), lane="passage"))
        encoder.gate.set()
        await asyncio.gather(blocker, bulk)
    assert quiet == [8, 8, 8]
    assert [len(batch) for batch in encoder.batches[3:]] == [1] + [2] * 12


async def test_passages_have_a_turn_after_their_share_of_query_batches():
    encoder = SumEncoder()
    async with batcher_of(encoder, query_share=3) as batcher:
        blocker = await held(batcher, encoder)
        bulk = await launched(batcher.submit(texts(2, length=32, first=100), lane="passage"))
        queries = await launched(batcher.submit(texts(8, length=64), lane="query"))
        encoder.gate.set()
        await asyncio.gather(blocker, bulk, queries)
    lanes = "".join("p" if number >= 100 else "q" for number in encoder.ran[1:])
    assert lanes == "qqqpqqqpqq"


async def test_a_full_lane_refuses_the_whole_request_and_names_the_limit():
    encoder, metrics = SumEncoder(), Metrics()
    async with batcher_of(encoder, metrics=metrics, max_queue_tokens=100) as batcher:
        blocker = await held(batcher, encoder)
        waiting = await launched(batcher.submit(texts(20), lane="query"))
        with pytest.raises(Overloaded, match=r"80 .* 24.* 100 \(ISOGLOSS_MAX_QUEUE_TOKENS\)") as no:
            await batcher.submit(texts(6, first=50), lane="query")
        assert no.value.retry_after_s >= 1
        with pytest.raises(Overloaded):
            batcher.ensure_room(21, lane="query")
        batcher.ensure_room(20, lane="query")
        assert await launched(batcher.submit(texts(25, first=200), lane="passage"))
        encoder.gate.set()
        await asyncio.gather(blocker, waiting)
        await batcher.submit(texts(6, first=50), lane="query")
    refused = metrics.registry.get_sample_value(
        "isogloss_rejected_requests_total", {"reason": "queue_full"}
    )
    assert refused == 2
    assert sum(number in range(50, 56) for number in encoder.ran) == 6


async def test_an_empty_lane_takes_a_request_larger_than_the_limit():
    async with batcher_of(SumEncoder(), max_queue_tokens=10) as batcher:
        assert len(await batcher.submit(texts(50), lane="passage")) == 50


async def test_the_time_to_retry_follows_the_measured_rate():
    encoder = SumEncoder()

    def slow(batch):
        time.sleep(0.1)
        return encoder(batch)

    async with batcher_of(slow, max_queue_tokens=20, drain_s=0) as batcher:
        await batcher.submit([tokens(1)], lane="query")  # about 10 tokens a second
        encoder.gate.clear()
        waiting = await launched(batcher.submit(texts(100), lane="query"))
        with pytest.raises(Overloaded) as no:
            await batcher.submit(texts(100, first=500), lane="query")
        assert 5 <= no.value.retry_after_s <= 60
        encoder.gate.set()
    with pytest.raises(NotReady):
        await waiting


async def test_work_whose_deadline_passes_in_the_queue_never_runs():
    encoder, metrics = SumEncoder(), Metrics()
    async with batcher_of(encoder, metrics=metrics) as batcher:
        blocker = await held(batcher, encoder)
        soon = asyncio.get_running_loop().time() + 0.01
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(texts(3), lane="query", deadline=soon)
        neighbour = await launched(batcher.submit([tokens(50)], lane="query", deadline=soon + 60))
        encoder.gate.set()
        await asyncio.gather(blocker, neighbour)
    assert encoder.ran == [7, 50]
    value = metrics.registry.get_sample_value
    assert value("isogloss_rejected_requests_total", {"reason": "deadline"}) == 1
    assert value("isogloss_skipped_texts_total", {"reason": "deadline"}) == 3


async def test_a_deadline_that_is_past_already_costs_no_batch():
    encoder = SumEncoder()
    async with batcher_of(encoder) as batcher:
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(texts(2), lane="query", deadline=0.0)
    assert encoder.batches == []


async def test_work_that_has_begun_is_answered_after_its_deadline():
    encoder = SumEncoder()
    async with batcher_of(encoder) as batcher:
        encoder.gate.clear()
        soon = asyncio.get_running_loop().time() + 0.05
        task = await launched(batcher.submit([tokens(3)], lane="query", deadline=soon))
        await encoder.begun()
        await asyncio.sleep(0.1)
        encoder.gate.set()
        assert (await task).tolist() == [[3, 1]]


async def test_work_of_a_caller_that_left_is_skipped_and_its_room_is_free_at_once():
    encoder, metrics = SumEncoder(), Metrics()
    async with batcher_of(encoder, metrics=metrics, max_queue_tokens=40) as batcher:
        blocker = await held(batcher, encoder)
        gone = await launched(batcher.submit(texts(10), lane="query"))
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        stays = await launched(batcher.submit(texts(10, first=50), lane="query"))
        encoder.gate.set()
        await asyncio.gather(blocker, stays)
    assert encoder.ran == [7, *range(50, 60)]
    value = metrics.registry.get_sample_value
    assert value("isogloss_skipped_texts_total", {"reason": "cancelled"}) == 10
    assert value("isogloss_queue_tokens", {"lane": "query"}) == 0
    assert value("isogloss_queue_items", {"lane": "query"}) == 0


async def test_a_text_shared_with_a_caller_that_left_still_runs_for_the_other():
    encoder = SumEncoder()
    async with batcher_of(encoder) as batcher:
        blocker = await held(batcher, encoder)
        gone = await launched(batcher.submit([tokens(1), tokens(2)], lane="query"))
        stays = await launched(batcher.submit([tokens(2)], lane="query"))
        gone.cancel()
        await asyncio.wait([gone])
        encoder.gate.set()
        assert (await stays).tolist() == [[2, 1]]
        await blocker
    assert encoder.ran == [7, 2]


async def test_a_caller_that_is_thrown_away_is_skipped_like_one_that_left():
    encoder = SumEncoder()
    async with batcher_of(encoder) as batcher:
        blocker = await held(batcher, encoder)
        coroutine = batcher.submit([tokens(1)], lane="query")
        coroutine.send(None)
        coroutine.close()
        encoder.gate.set()
        await blocker
    assert encoder.ran == [7]


async def test_a_caller_that_leaves_while_its_batch_runs_does_not_disturb_its_neighbours():
    encoder = SumEncoder()
    async with batcher_of(encoder) as batcher:
        blocker = await held(batcher, encoder)
        gone = await launched(batcher.submit([tokens(1)], lane="query"))
        stays = await launched(batcher.submit([tokens(2)], lane="query"))
        encoder.gate.set()
        await blocker
        encoder.gate.clear()
        await encoder.begun()
        gone.cancel()
        encoder.gate.set()
        assert (await stays).tolist() == [[2, 1]]


async def test_a_poisoned_text_fails_its_own_request_only_and_the_next_batch_runs():
    encoder = SumEncoder()
    async with batcher_of(encoder) as batcher:
        blocker = await held(batcher, encoder)
        good = await launched(batcher.submit(texts(3), lane="query"))
        bad = await launched(batcher.submit([tokens(40), tokens(POISON)], lane="query"))
        encoder.gate.set()
        await blocker
        assert (await good).tolist() == expected(texts(3))
        with pytest.raises(EngineFailure, match="poison"):
            await bad
        assert (await batcher.submit([tokens(5)], lane="query")).tolist() == [[5, 1]]
        assert batcher.healthy


async def test_what_still_waits_of_a_failed_request_is_skipped():
    encoder, metrics = SumEncoder(), Metrics()
    async with batcher_of(encoder, metrics=metrics) as batcher:
        request = [tokens(*[POISON] * 60), *texts(2, length=20)]
        with pytest.raises(EngineFailure):
            await batcher.submit([*request, *texts(200, length=9, first=300)], lane="passage")
    value = metrics.registry.get_sample_value
    assert value("isogloss_queue_tokens", {"lane": "passage"}) == 0


async def test_a_vector_that_is_not_finite_fails_its_own_request_only():
    encoder, metrics = SumEncoder(), Metrics()
    async with batcher_of(encoder, metrics=metrics) as batcher:
        blocker = await held(batcher, encoder)
        good = await launched(batcher.submit([tokens(1)], lane="query"))
        bad = await launched(batcher.submit([tokens(NAN)], lane="query"))
        encoder.gate.set()
        await asyncio.gather(blocker, good)
        with pytest.raises(EngineFailure, match="not finite"):
            await bad
    assert metrics.registry.get_sample_value("isogloss_nonfinite_vectors_total") == 1


async def test_an_encoder_that_gives_the_wrong_number_of_rows_is_a_failure_not_a_mix_up():
    async with batcher_of(lambda batch: np.zeros((len(batch) + 1, 2), np.float32)) as batcher:
        with pytest.raises(EngineFailure, match=r"\(2, 2\), not \(1, 2\)"):
            await batcher.submit(texts(3), lane="query")


async def test_two_workers_run_two_batches_at_once():
    meeting = threading.Barrier(2)

    def infer(batch):
        meeting.wait(10)
        return SumEncoder()(batch)

    async with batcher_of(infer, infer, max_batch_tokens=4) as batcher:
        vectors = await batcher.submit(texts(2), lane="query")
    assert vectors.tolist() == expected(texts(2))


async def test_closing_finishes_what_was_admitted_and_admits_no_more():
    encoder = SumEncoder()
    batcher = batcher_of(encoder)
    with pytest.raises(NotReady, match="not been started"):
        await batcher.submit([tokens(1)], lane="query")
    async with batcher:
        blocker = await held(batcher, encoder)
        queued = await launched(batcher.submit(texts(30), lane="passage"))
        closing = await launched(batcher.__aexit__(None, None, None))
        with pytest.raises(NotReady):
            await batcher.submit([tokens(1)], lane="query")
        assert not batcher.healthy
        encoder.gate.set()
        await asyncio.gather(blocker, closing)
        assert (await queued).tolist() == expected(texts(30))


async def test_closing_fails_what_is_not_done_in_time():
    encoder = SumEncoder()
    batcher = batcher_of(encoder, drain_s=0.02)
    async with batcher:
        running = await held(batcher, encoder)
        queued = await launched(batcher.submit(texts(30), lane="passage"))
    for task in (running, queued):
        with pytest.raises(NotReady, match=r"0.02 s"):
            await task
    encoder.gate.set()
    await asyncio.wait(batcher._exits)
    assert encoder.ran == [7]


def test_a_batch_that_hangs_past_the_end_of_the_event_loop_harms_nobody():
    encoder = SumEncoder()
    threads = set(threading.enumerate())

    async def scenario():
        async with batcher_of(encoder, drain_s=0.01) as batcher:
            task = await held(batcher, encoder)
        with pytest.raises(NotReady):
            await task

    asyncio.run(scenario())
    encoder.gate.set()
    for thread in set(threading.enumerate()) - threads:
        thread.join(10)
        assert not thread.is_alive()


async def test_a_broken_worker_fails_everybody_at_once_and_says_so():
    class Bug(BaseException):
        """Nothing that an encoder raises."""

    encoder = SumEncoder()

    def broken(batch):
        encoder(batch)
        raise Bug

    async with batcher_of(broken) as batcher:
        running = await held(batcher, encoder)
        queued = await launched(batcher.submit(texts(30), lane="passage"))
        encoder.gate.set()
        for task in (running, queued):
            with pytest.raises(EngineFailure, match="bug"):
                await task
        with pytest.raises(EngineFailure, match="bug"):
            await batcher.submit([tokens(1)], lane="query")
        assert not batcher.healthy


async def test_a_closed_batcher_lets_go_of_its_encoder():
    encoder = SumEncoder()
    async with batcher_of(encoder) as batcher:
        await batcher.submit(texts(3), lane="query")
    gone = weakref.ref(encoder)
    del encoder
    gc.collect()
    assert gone() is None
    assert not batcher.healthy


async def test_an_answered_request_leaves_no_cycle_that_holds_its_vectors():
    async with batcher_of(SumEncoder()) as batcher:
        gc.collect()
        gc.disable()
        try:
            vectors = await batcher.submit(texts(3), lane="query")
            gone = weakref.ref(vectors)
            del vectors
            await asyncio.sleep(0.01)
            assert gone() is None
        finally:
            gc.enable()


async def test_batches_are_measured():
    metrics = Metrics()
    async with batcher_of(SumEncoder(), metrics=metrics) as batcher:
        await batcher.submit([tokens(1, 2, 3, 4), tokens(1, 2)], lane="query")
    value = metrics.registry.get_sample_value
    lane = {"lane": "query"}
    assert value("isogloss_batch_items_sum", lane) == 2
    assert value("isogloss_batch_tokens_sum", lane) == 8
    assert value("isogloss_batch_padding_ratio_sum", lane) == 0.25
    for stage in ("queue", "infer"):
        assert value("isogloss_stage_duration_seconds_count", {"stage": stage}) == 1
