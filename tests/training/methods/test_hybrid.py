import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from tests.training.methods.pooled_fixtures import (
    EYE,
    TILTED,
    all_different,
    changed,
    losses,
    random_rows,
)
from training.config.methods import Hybrid, InfoNce
from training.methods.hybrid import HybridMethod
from training.methods.info_nce import InfoNceMethod

NAMES = ["query", "positive", "negative0", "negative1"]
HAND = {"query": EYE, "positive": EYE, "negative0": TILTED}


def method(**changes) -> HybridMethod:
    return HybridMethod(Hybrid(**{"method": "hybrid", **changes}), None, None)


def value(rows, facts=None, **changes) -> float:
    return losses(method(**changes), rows, facts)["nce"].item()


def test_the_printed_formula_is_the_value_computed_by_hand_summed_over_rows():
    assert value(HAND, paper_strict=True) == pytest.approx(1.823803, abs=1e-5)
    assert value(HAND, paper_strict=True) / 2 == pytest.approx(0.911901, abs=1e-5)


def test_with_the_other_positives_it_is_the_value_computed_by_hand_and_a_mean():
    assert value(HAND, temperature=1.0) == pytest.approx(1.049748, abs=1e-5)


def test_the_default_temperature_is_a_twentieth():
    assert value(HAND) == pytest.approx(value(HAND, temperature=0.05))
    assert value(HAND) == pytest.approx(0.018479, abs=1e-5)


def test_the_printed_formula_cannot_fall_below_its_bound():
    perfect = {"query": torch.eye(3), "positive": torch.eye(3), "negative0": -torch.eye(3)}
    by_hand = 3 * math.log(1 + (math.exp(-1) + 2) / math.e)
    assert value(perfect, paper_strict=True) == pytest.approx(by_hand, abs=1e-5)


@examples(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 2))
def test_the_printed_formula_has_all_negatives_and_no_other_positive(seed, negatives):
    rows = random_rows(NAMES[: 2 + negatives], 4, seed=seed)
    unit = {name: F.normalize(x, dim=-1) for name, x in rows.items()}
    hard = torch.cat([unit[f"negative{k}"] for k in range(negatives)])
    positive = (unit["query"] * unit["positive"]).sum(1)
    by_hand = torch.log(1 + ((unit["query"] @ hard.T).exp().sum(1) / positive.exp())).sum()
    assert value(rows, paper_strict=True) == pytest.approx(by_hand.item(), abs=1e-4)


def test_without_negatives_the_printed_formula_is_refused():
    with pytest.raises(ValueError, match="paper_strict has only hard negatives"):
        method(paper_strict=True).needs(frozenset({"query", "positive"}))
    method().needs(frozenset({"query", "positive"}))


def test_a_temperature_that_the_printed_formula_would_ignore_is_refused():
    with pytest.raises(ValidationError, match=r"temperature = 0\.02 would be ignored"):
        method(paper_strict=True, temperature=0.02)
    assert method(paper_strict=True, temperature=1.0).settings.paper_strict


@pytest.mark.parametrize("strict", [False, True])
def test_a_negative_that_is_the_positive_counts_for_nothing(strict):
    facts = changed(
        all_different(["query", "positive", "negative0"], 2),
        keys={"positive": [5, 5], "negative0": [5, 5]},
    )
    assert value(HAND, facts, paper_strict=strict) == 0.0


@examples(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 2))
def test_the_default_is_info_nce_in_one_direction(seed, negatives):
    rows = random_rows(NAMES[: 2 + negatives], 4, seed=seed)
    plain = InfoNceMethod(InfoNce(method="info_nce"), None, None)
    assert value(rows) == pytest.approx(losses(plain, rows)["nce"].item(), abs=1e-5)


@examples(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 100), st.sampled_from(NAMES), st.booleans())
def test_the_length_of_a_vector_does_not_matter(seed, factor, name, strict):
    rows = random_rows(NAMES, 4, seed=seed)
    scaled = {**rows, name: factor * rows[name]}
    assert value(scaled, paper_strict=strict) == pytest.approx(
        value(rows, paper_strict=strict), abs=1e-4
    )


@pytest.mark.parametrize("strict", [False, True])
def test_every_view_gets_a_gradient(strict):
    rows = {name: vectors.requires_grad_() for name, vectors in random_rows(NAMES, 4).items()}
    losses(method(paper_strict=strict), rows)["nce"].backward()
    for name, vectors in rows.items():
        assert vectors.grad.abs().sum(1).min() > 0, name


@pytest.mark.parametrize("strict", [False, True])
def test_bfloat16_vectors_give_nearly_the_loss_of_float32(strict):
    rows = random_rows(NAMES, 16, 64)
    half = value({name: x.bfloat16() for name, x in rows.items()}, paper_strict=strict)
    assert half == pytest.approx(value(rows, paper_strict=strict), rel=0.02)
