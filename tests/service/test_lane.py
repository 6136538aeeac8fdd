import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from service.lane import TINY_TOKENS, Lane, Text
from service.metrics import Metrics
from service.types import Tokens

METRICS = Metrics(CollectorRegistry())
BUDGET = 256

lengths_of_texts = st.lists(st.integers(1, 300), min_size=1, max_size=120)


def filled_lane(lengths):
    lane = Lane("passage", BUDGET, metrics=METRICS)
    for number, length in enumerate(lengths):
        ids = np.full(length, number, np.int64)
        lane.add(Text(Tokens(ids), ids.tobytes(), length, since=float(number)))
    return lane


def offline_batches(lengths):
    """The whole backlog sorted by length and cut from the long end."""
    batches, batch = [], []
    for length in sorted(lengths, reverse=True):
        full = batch and (len(batch) + 1) * batch[0] > BUDGET
        lonely = batch and batch[0] > TINY_TOKENS and batch[0] > 2 * length
        if full or lonely:
            batches.append(batch)
            batch = []
        batch.append(length)
    return [*batches, batch]


@given(lengths_of_texts)
def test_a_still_backlog_is_run_in_the_batches_of_an_offline_sort(lengths):
    lane = filled_lane(lengths)
    batches = []
    while lane.items:
        batches.append([text.length for text in lane.cut()])
    assert sorted(batches) == sorted(offline_batches(lengths))
    assert lane.tokens == 0


@given(lengths_of_texts, st.lists(lengths_of_texts, max_size=6))
def test_no_batch_passes_its_budget_and_the_oldest_text_is_always_in_the_next(lengths, arrivals):
    lane = filled_lane(lengths)
    waiting = set(range(len(lengths)))
    number = len(lengths)
    while lane.items:
        batch = lane.cut()
        taken = {int(text.since) for text in batch}
        longest = batch[0].length
        assert longest == max(text.length for text in batch)
        assert longest * len(batch) <= BUDGET or len(batch) == 1
        assert longest <= TINY_TOKENS or all(2 * text.length >= longest for text in batch)
        assert min(waiting) in taken
        assert len(taken) == len(batch)
        assert taken <= waiting
        waiting -= taken
        for length in arrivals.pop() if arrivals else []:
            ids = np.full(length, number, np.int64)
            lane.add(Text(Tokens(ids), ids.tobytes(), length, since=float(number)))
            waiting.add(number)
            number += 1
    assert not waiting


@given(lengths_of_texts, st.data())
def test_a_discarded_text_is_never_cut_and_counts_no_more(lengths, data):
    lane = filled_lane(lengths)
    texts = [lane.find(np.full(n, i, np.int64).tobytes(), n) for i, n in enumerate(lengths)]
    gone = data.draw(st.sets(st.sampled_from(range(len(lengths)))))
    for number in gone:
        lane.discard(texts[number])
        lane.discard(texts[number])  # twice does no harm
    kept = [text for number, text in enumerate(texts) if number not in gone]
    assert lane.tokens == sum(text.length for text in kept)
    cut = []
    while lane.items:
        cut += lane.cut()
    assert {id(text) for text in cut} == {id(text) for text in kept}


def test_a_text_that_is_already_cut_is_not_discarded_in_place_of_its_twin():
    lane = filled_lane([5])
    (text,) = lane.cut()
    twin = Text(text.tokens, text.key, text.length, since=9.0)
    lane.add(twin)
    lane.discard(text)
    assert lane.cut() == [twin]


def test_the_gauges_of_two_lanes_of_one_role_add_up():
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    lanes = [Lane("query", BUDGET, metrics=metrics) for _ in range(2)]
    for lane in lanes:
        lane.add(Text(Tokens(np.ones(7, np.int64)), b"key", 7, since=1.0))
        lane.show(3.0)
    value = lambda name: registry.get_sample_value(name, {"lane": "query"})  # noqa: E731
    assert value("isogloss_queue_tokens") == 14
    assert value("isogloss_queue_items") == 2
    assert value("isogloss_queue_oldest_age_seconds") == 2.0
    for lane in lanes:
        lane.cut()
        lane.show(4.0)
    assert value("isogloss_queue_tokens") == value("isogloss_queue_oldest_age_seconds") == 0
