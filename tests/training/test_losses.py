import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.losses import (
    cosine_distance,
    false_negative_mask,
    kl_rows,
    masked_mean,
    nce,
    squared_distance,
    subtract_margin,
)

EYE = torch.eye(2)
NEAR = torch.tensor([[0.96, 0.28], [0.28, 0.96]])


def test_nce_is_the_value_computed_by_hand():
    assert nce(EYE @ EYE.T).item() == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-6)
    assert nce(EYE @ torch.tensor([[0.6, 0.8], [0.8, 0.6]]).T).item() == pytest.approx(
        0.798139, abs=1e-6
    )


def test_the_margin_of_labse_is_the_value_computed_by_hand():
    scores = EYE @ NEAR.T
    assert nce(scores).item() == pytest.approx(0.409867, abs=1e-6)
    assert nce(subtract_margin(scores, 0.3)).item() == pytest.approx(0.521090, abs=1e-6)


def test_a_masked_candidate_counts_for_nothing():
    scores = torch.tensor([[1.0, 9.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    groups = torch.tensor([5, 5, 6])
    masked = nce(scores, false_negative_mask(groups, groups))
    scores[0, 1] = -7.0  # the masked pair may have any score
    assert masked.item() == pytest.approx(nce(scores, false_negative_mask(groups, groups)).item())
    assert masked.item() < nce(scores).item() + 1e-6


def test_a_row_is_never_a_false_negative_of_itself():
    groups = torch.tensor([1, 1, 2])
    assert false_negative_mask(groups, groups).tolist() == [
        [False, True, False],
        [True, False, False],
        [False, False, False],
    ]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9))
def test_padding_does_not_move_a_mean(seed, padding):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(3, 5, 4, generator=generator)
    mask = torch.ones(3, 5)
    longer = torch.cat([states, torch.randn(3, padding, 4, generator=generator)], dim=1)
    padded = torch.cat([mask, torch.zeros(3, padding)], dim=1)
    assert torch.allclose(masked_mean(states, mask), masked_mean(longer, padded), atol=1e-6)


def test_a_fully_masked_row_is_zero_and_not_nan():
    mean = masked_mean(
        torch.randn(2, 3, 4, dtype=torch.bfloat16), torch.tensor([[1, 1, 0], [0, 0, 0]])
    )
    assert mean.dtype == torch.float32
    assert mean[1].tolist() == [0.0] * 4


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(6)))
def test_the_order_of_rows_does_not_change_the_loss(order):
    scores = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    shuffled = scores[list(order)][:, list(order)]
    assert nce(shuffled).item() == pytest.approx(nce(scores).item(), abs=1e-5)


def test_distances_are_nothing_for_equal_vectors_and_known_for_right_angles():
    assert cosine_distance(NEAR, 3 * NEAR).item() == pytest.approx(0, abs=1e-6)
    assert cosine_distance(EYE, EYE.flip(0)).item() == pytest.approx(1)
    assert squared_distance(EYE, EYE.flip(0)).item() == pytest.approx(2)


def test_kl_is_the_value_computed_by_hand_and_has_a_direction():
    forward = torch.log_softmax(EYE @ EYE.T, dim=-1)
    reverse = torch.log_softmax(EYE @ torch.tensor([[0.6, 0.8], [0.8, 0.6]]).T, dim=-1)
    assert kl_rows(reverse, forward).item() == pytest.approx(0.174924, abs=1e-6)
    assert kl_rows(forward, reverse).item() == pytest.approx(0.162147, abs=1e-6)
    assert kl_rows(forward, forward).item() == pytest.approx(0, abs=1e-7)
