import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.training.methods.pooled_fixtures import (
    EYE,
    NEAR,
    TILTED,
    all_different,
    as_outputs,
    as_views,
    changed,
    losses,
    random_rows,
)
from training.batch import Facts, Outputs
from training.config.methods import InfoNce
from training.methods.info_nce import InfoNceMethod

PAIR = ["query", "positive"]
HARD = [*PAIR, "negative0", "negative1"]


def method(**changes) -> InfoNceMethod:
    settings = {"method": "info_nce", "temperature": 1.0, **changes}
    return InfoNceMethod(InfoNce(**settings), None, None)


def value(rows, facts=None, **changes) -> float:
    return losses(method(**changes), rows, facts)["nce"].item()


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_loss_with_labse_margin_is_the_value_computed_by_hand(symmetric):
    rows = {"query": EYE, "positive": NEAR}
    assert value(rows, margin=0.3, symmetric=symmetric) == pytest.approx(0.521090, abs=1e-5)
    assert value(rows, symmetric=symmetric) == pytest.approx(0.409867, abs=1e-5)


def test_the_loss_with_hard_negatives_is_the_value_computed_by_hand():
    rows = {"query": EYE, "positive": EYE, "negative0": TILTED}
    assert value(rows) == pytest.approx(1.049748, abs=1e-5)
    assert value(rows, temperature=0.05) == pytest.approx(0.018479, abs=1e-5)


def test_temperature_divides_the_cosines():
    rows = {"query": EYE, "positive": EYE}
    assert value(rows, temperature=0.05) == pytest.approx(math.log(1 + math.exp(-20)), abs=1e-7)


def test_the_margin_is_one_of_the_cosine_and_not_of_the_score():
    rows = {"query": EYE, "positive": NEAR}
    by_hand = math.log(1 + math.exp(20 * (0.28 - (0.96 - 0.3))))
    assert value(rows, temperature=0.05, margin=0.3) == pytest.approx(by_hand, abs=1e-6)


def test_symmetric_is_the_mean_of_both_directions_and_only_forward_meets_hard_negatives():
    rows = random_rows(HARD, 5)
    forward = value(rows)
    back = value({"query": rows["positive"], "positive": rows["query"]})
    assert value(rows, symmetric=True) == pytest.approx((forward + back) / 2, abs=1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    "facts",
    [
        {"groups": {"query": [4, 4], "positive": [4, 4]}},
        {"keys": {"query": [4, 4]}},
        {"keys": {"positive": [4, 4]}},
    ],
)
def test_rows_that_share_a_group_or_a_text_are_no_negatives(facts, symmetric):
    known = changed(all_different(PAIR, 2), **facts)
    assert value({"query": EYE, "positive": NEAR}, known, symmetric=symmetric) == 0.0


def test_a_hard_negative_that_is_the_positive_counts_for_nothing():
    rows = {"query": EYE, "positive": EYE, "negative0": TILTED, "negative1": NEAR}
    facts = changed(
        all_different(HARD, 2), keys={"positive": [1, 2], "negative1": [2, 1], "negative0": [3, 4]}
    )
    # Row 0 still meets the second row's text, which is row 1's positive, and the other way round.
    without = value({"query": EYE, "positive": EYE, "negative0": TILTED})
    seen = math.log(math.exp(without) + math.exp(0.96 - 1))
    assert value(rows, facts) == pytest.approx(seen, abs=1e-6)


def test_every_view_gets_a_gradient_and_none_is_left_out():
    rows = {name: vectors.requires_grad_() for name, vectors in random_rows(HARD, 4).items()}
    losses(method(), rows)["nce"].backward()
    for name, vectors in rows.items():
        assert vectors.grad.abs().sum(1).min() > 0, name


@examples(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 100), st.sampled_from(HARD), st.booleans())
def test_the_length_of_a_vector_does_not_matter(seed, factor, name, symmetric):
    rows = random_rows(HARD, 4, seed=seed)
    scaled = {**rows, name: factor * rows[name]}
    assert value(scaled, symmetric=symmetric) == pytest.approx(
        value(rows, symmetric=symmetric), abs=1e-4
    )


@examples(max_examples=20, deadline=None)
@given(st.permutations(range(5)), st.booleans())
def test_the_order_of_rows_does_not_matter(order, symmetric):
    rows = random_rows(HARD, 5)
    facts = changed(all_different(HARD, 5), keys={"positive": [1, 2, 1, 3, 4]})
    order = list(order)
    moved = Facts(
        {name: x[order] for name, x in facts.groups.items()},
        {name: x[order] for name, x in facts.keys.items()},
    )
    shuffled = {name: x[order] for name, x in rows.items()}
    assert value(shuffled, moved, symmetric=symmetric) == pytest.approx(
        value(rows, facts, symmetric=symmetric), abs=1e-5
    )


def test_bfloat16_vectors_give_nearly_the_loss_of_float32_in_float32():
    rows = random_rows(HARD, 16, 64)
    half = losses(method(temperature=0.05), {name: x.bfloat16() for name, x in rows.items()})
    assert half["nce"].dtype == torch.float32
    assert half["nce"].item() == pytest.approx(value(rows, temperature=0.05), rel=0.02)


def test_other_views_of_the_batch_are_not_read():
    views = frozenset({*PAIR, "cross_query", "perturbed_query", "negative0"})
    assert method().needs(views).keys() == {"query", "positive", "negative0"}
    rows = random_rows(sorted(views), 3)
    assert method().rows(as_outputs(rows), as_views(rows)).keys() == {*PAIR, "negative0"}


def test_rows_of_one_side_are_refused():
    with pytest.raises(ValueError, match="info_nce needs the views positive, and the batch has q"):
        method().needs(frozenset({"query"}))


def test_an_encoder_that_was_not_asked_for_vectors_is_noticed():
    rows = random_rows(PAIR, 3)
    outputs = {name: Outputs(torch.ones(3, 1)) for name in PAIR}
    with pytest.raises(ValueError, match="not asked for the pooled vectors of 'query'"):
        method().rows(outputs, as_views(rows))


def test_nothing_but_vectors_is_cut_and_there_is_no_head():
    assert method().vectors == {"query", "positive", "negative*"}
    assert list(method().head.parameters()) == []
