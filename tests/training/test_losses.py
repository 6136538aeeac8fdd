import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from training.losses import (
    cosine_distance,
    cosines,
    cz,
    false_negative_mask,
    gather_rows,
    kl_rows,
    masked_mean,
    masked_squares_rows,
    nce,
    squared_distance,
    subtract_margin,
)

EYE = torch.eye(2)
TILTED = torch.tensor([[0.8, 0.6], [0.6, 0.8]])
NEAR = torch.tensor([[0.96, 0.28], [0.28, 0.96]])
SEEDS = st.integers(0, 2**31)


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# InfoNCE


def test_nce_is_the_value_computed_by_hand():
    assert nce(EYE @ EYE.T).tolist() == pytest.approx([math.log(1 + math.exp(-1))] * 2, abs=1e-6)
    assert nce(EYE @ TILTED.flip(0).T).tolist() == pytest.approx([0.798139] * 2, abs=1e-6)


def test_the_positive_may_stand_in_any_column():
    scores = random(1, 4, 7)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    places = torch.argsort(order)[:4]
    assert torch.allclose(nce(scores[:, order], target=places), nce(scores), atol=1e-6)


def test_the_margin_of_labse_is_the_value_computed_by_hand():
    scores = EYE @ NEAR.T
    assert nce(scores).mean().item() == pytest.approx(0.409867, abs=1e-6)
    assert nce(subtract_margin(scores, 0.3)).mean().item() == pytest.approx(0.521090, abs=1e-6)


def test_the_margin_leaves_hard_negatives_alone():
    assert subtract_margin(torch.zeros(2, 4), 0.5).tolist() == [[-0.5, 0, 0, 0], [0, -0.5, 0, 0]]


def test_a_masked_candidate_counts_for_nothing():
    scores = torch.tensor([[1.0, 9.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    groups = torch.tensor([5, 5, 6])
    mask = false_negative_mask(groups, groups)
    masked = nce(scores, mask=mask)
    scores[0, 1] = -7.0  # the masked pair may have any score
    assert torch.equal(masked, nce(scores, mask=mask))
    assert masked[0].item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_a_row_is_never_a_false_negative_of_itself():
    groups = torch.tensor([1, 1, 2])
    assert false_negative_mask(groups, groups).tolist() == [
        [False, True, False],
        [True, False, False],
        [False, False, False],
    ]


def test_a_hard_negative_that_is_a_positive_is_a_false_one_even_of_its_own_row():
    mask = false_negative_mask(torch.tensor([1, 2]), torch.tensor([1, 2, 1, 2]))
    assert mask.tolist() == [[False, False, True, False], [False, False, False, True]]


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(6)))
def test_the_order_of_rows_does_not_change_the_loss(order):
    scores = random(1, 6, 6)
    shuffled = scores[list(order)][:, list(order)]
    assert torch.allclose(nce(shuffled), nce(scores)[list(order)], atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.floats(0.01, 100))
def test_cosines_do_not_see_lengths_and_are_float32(seed, factor):
    left, right = random(seed, 3, 5), random(seed + 1, 4, 5)
    assert torch.allclose(cosines(left * factor, right), cosines(left, right), atol=1e-5)
    assert cosines(left.bfloat16(), right.bfloat16()).dtype == torch.float32


# CZ-NCE


def split(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first column as the positive, the rest as the negatives."""
    return scores[:, 1:], scores[:, 0]


def test_cz_is_the_value_computed_by_hand():
    # An anchor of c(x) = I meets the other row of both languages: c(y_j) and c(x_j).
    negatives = torch.tensor([[0.6, 0.0], [0.6, 0.0]])
    assert cz(negatives, torch.tensor([0.8, 0.8])).tolist() == pytest.approx(
        [0.237488] * 2, abs=1e-6
    )
    assert cz(negatives / 0.07, torch.tensor([0.8, 0.8]) / 0.07).tolist() == pytest.approx(
        [-2.856953] * 2, abs=1e-5
    )
    backwards = torch.tensor([[0.6, 0.96]])
    assert cz(backwards, torch.tensor([0.8])).item() == pytest.approx(0.689260, abs=1e-6)
    assert cz(backwards / 0.07, torch.tensor([0.8 / 0.07])).item() == pytest.approx(
        2.291538, abs=1e-5
    )


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_info_nce_is_the_softplus_of_cz(seed):
    scores = 5 * random(seed, 4, 6)
    info = nce(scores, target=torch.zeros(4, dtype=torch.int64))
    assert torch.allclose(F.softplus(cz(*split(scores))), info, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_its_gradient_is_that_of_info_nce_without_the_factor_that_vanishes(seed):
    scores = (2 * random(seed, 4, 6)).requires_grad_()
    value = cz(*split(scores))
    (direct,) = torch.autograd.grad(value.sum(), scores)
    (info,) = torch.autograd.grad(
        nce(scores, target=torch.zeros(4, dtype=torch.int64)).sum(), scores
    )
    assert torch.allclose(info, torch.sigmoid(value.detach()).unsqueeze(1) * direct, atol=1e-6)


def test_cz_still_learns_where_info_nce_is_a_floating_point_zero():
    scores = torch.tensor([[17.0, 0.0]], requires_grad=True)  # one negative, a margin of 17
    info = nce(scores, target=torch.tensor([0]))
    (stopped,) = torch.autograd.grad(info.sum(), scores)
    assert info.item() == 0.0
    assert stopped[0, 0].item() == 0.0
    assert stopped[0, 1].item() == pytest.approx(4e-8, rel=0.1)
    (going,) = torch.autograd.grad(cz(*split(scores)).sum(), scores)
    assert going.tolist() == [[-1.0, 1.0]]


def test_cz_at_a_small_temperature_does_not_overflow():
    assert cz(torch.tensor([[100.0, 99.0]]), torch.tensor([-100.0])).item() == pytest.approx(
        200.313, abs=1e-3
    )


def test_a_masked_negative_does_not_count_in_cz():
    negatives, positive = torch.tensor([[1.0, 50.0]]), torch.tensor([0.5])
    assert cz(negatives, positive, torch.tensor([[False, True]])).item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("negatives", "mask", "count"),
    [(torch.zeros(2, 0), None, 2), (torch.zeros(2, 1), torch.tensor([[True], [False]]), 1)],
)
def test_a_row_without_negatives_is_refused(negatives, mask, count):
    with pytest.raises(ValueError, match=f"{count} of 2 rows have no negative left"):
        cz(negatives, torch.zeros(2), mask)


# Distances and means


def test_kl_is_the_value_computed_by_hand_and_has_a_direction():
    forward = torch.log_softmax(EYE @ EYE.T, dim=-1)
    reverse = torch.log_softmax(EYE @ TILTED.flip(0).T, dim=-1)
    assert kl_rows(reverse, forward).tolist() == pytest.approx([0.174924] * 2, abs=1e-6)
    assert kl_rows(forward, reverse).tolist() == pytest.approx([0.162147] * 2, abs=1e-6)
    assert kl_rows(forward, forward).tolist() == [0.0, 0.0]


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_kl_is_never_negative_and_agrees_with_torch(seed):
    p, q = (torch.log_softmax(random(seed + i, 3, 5), dim=-1) for i in range(2))
    expected = F.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    assert torch.allclose(kl_rows(p, q), expected, atol=1e-6)
    assert (kl_rows(p, q) > -1e-6).all()


def test_masked_columns_leave_value_and_gradient_of_kl_finite():
    scores = random(1, 3, 5).requires_grad_()
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[0, 1] = mask[2, 4] = True
    p = torch.log_softmax(scores.masked_fill(mask, float("-inf")), dim=-1)
    q = torch.log_softmax((scores * 0.3).masked_fill(mask, float("-inf")), dim=-1)
    value = kl_rows(p, q)
    value.sum().backward()
    kept = scores.detach()[0, ~mask[0]]
    by_hand = kl_rows(torch.log_softmax(kept, -1), torch.log_softmax(0.3 * kept, -1))
    assert value[0].item() == pytest.approx(by_hand.item(), abs=1e-6)
    assert scores.grad.isfinite().all()
    assert scores.grad[mask].tolist() == [0.0, 0.0]


def test_distances_are_nothing_for_equal_vectors_and_known_for_right_angles():
    assert cosine_distance(NEAR, 3 * NEAR).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert cosine_distance(EYE, EYE.flip(0)).tolist() == pytest.approx([1, 1])
    assert squared_distance(EYE, EYE.flip(0)).tolist() == pytest.approx([2, 2])


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(1, 9))
def test_padding_does_not_move_a_mean(seed, padding):
    states = random(seed, 3, 5, 4)
    mask = torch.ones(3, 5)
    longer = torch.cat([states, random(seed + 1, 3, padding, 4)], dim=1)
    padded = torch.cat([mask, torch.zeros(3, padding)], dim=1)
    assert torch.allclose(masked_mean(states, mask), masked_mean(longer, padded), atol=1e-6)


def test_a_fully_masked_row_is_zero_and_not_nan():
    mean = masked_mean(
        torch.randn(2, 3, 4, dtype=torch.bfloat16), torch.tensor([[1, 1, 0], [0, 0, 0]])
    )
    assert mean.dtype == torch.float32
    assert mean[1].tolist() == [0.0] * 4


def test_masked_squares_are_summed_and_counted_row_by_row():
    left = torch.tensor([[0.5, 0.5], [0.2, 0.8]])
    right = torch.tensor([[0.6, 0.4], [0.2, float("nan")]])
    total, count = masked_squares_rows(left, right, torch.tensor([[1, 1], [1, 0]]))
    assert total.tolist() == pytest.approx([0.02, 0.0])
    assert count.tolist() == [2, 1]


def test_the_attention_gap_and_the_embedding_gap_are_the_values_computed_by_hand():
    left = torch.tensor([[0.5, 0.5], [0.2, 0.8]])
    right = torch.tensor([[0.6, 0.4], [0.2, 0.8]])
    assert mean_square(left, right) == pytest.approx(0.005)
    assert mean_square(torch.tensor([[2.0, 3.0]]), torch.tensor([[5.0, 5.0]])) == pytest.approx(6.5)


def mean_square(left, right):
    total, count = masked_squares_rows(left, right, torch.ones(1, 1))
    return (total.sum() / count.sum()).item()


def test_masked_squares_of_nothing_are_zero_with_a_finite_gradient():
    left = torch.randn(2, 3, requires_grad=True)
    total, count = masked_squares_rows(left, torch.zeros(2, 3), torch.zeros(2, 3))
    total.sum().backward()
    assert total.tolist() == count.tolist() == [0.0, 0.0]
    assert left.grad.abs().sum() == 0


# Words


def test_rows_are_gathered_in_the_exchanged_order_without_touching_the_states():
    states = torch.arange(1.0, 14.0).view(1, 13, 1)
    partner = torch.arange(13).view(1, 13).clone()
    for one, other in ((4, 9), (5, 8)):  # counted from 1
        partner[0, one - 1], partner[0, other - 1] = other - 1, one - 1
    before = states.clone()
    exchanged = gather_rows(states, partner)
    assert exchanged.flatten().tolist() == [1, 2, 3, 9, 8, 6, 7, 5, 4, 10, 11, 12, 13]
    assert torch.equal(states, before)


def test_the_gradient_reaches_the_partner_and_not_the_own_row():
    states = torch.randn(1, 3, 2, requires_grad=True)
    gather_rows(states, torch.tensor([[2, 1, 2]]))[0, 0].sum().backward()
    assert states.grad.abs().sum(-1).tolist() == [[0.0, 0.0, 2.0]]
