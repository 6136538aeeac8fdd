import math

import pytest
import torch

from training.config import InfoNce
from training.methods.info_nce import loss
from training.samplers import Batch, View

EYE = torch.eye(2)
NEAR = torch.tensor([[0.96, 0.28], [0.28, 0.96]])


def view(groups) -> View:
    nothing = torch.zeros(len(groups), 1, dtype=torch.int64)
    return View(nothing, nothing, torch.tensor(groups), None)


def settings(**changes) -> InfoNce:
    return InfoNce(method="info_nce", **{"temperature": 1.0, **changes})


def test_the_loss_with_labse_margin_is_the_value_computed_by_hand():
    batch = Batch("bitext", view([1, 2]), view([3, 4]))
    assert loss(settings(margin=0.3), batch, EYE, NEAR)["nce"].item() == pytest.approx(
        0.521090, abs=1e-6
    )
    assert loss(settings(), batch, EYE, NEAR)["nce"].item() == pytest.approx(0.409867, abs=1e-6)


def test_symmetric_is_the_mean_of_both_directions():
    left, right = torch.randn(5, 3), torch.randn(5, 3)
    batch = Batch("bitext", view(range(5)), view(range(5, 10)))
    one = loss(settings(symmetric=False), batch, left, right)["nce"]
    other = loss(settings(symmetric=False), batch, right, left)["nce"]
    both = loss(settings(), batch, left, right)["nce"]
    assert both.item() == pytest.approx((one + other).item() / 2, abs=1e-6)


@pytest.mark.parametrize(("left", "right"), [([1, 1], [2, 3]), ([1, 2], [3, 3])])
def test_rows_that_share_a_group_on_either_side_are_no_negatives(left, right):
    batch = Batch("bitext", view(left), view(right))
    assert loss(settings(), batch, EYE, NEAR)["nce"].item() == pytest.approx(0, abs=1e-6)


def test_temperature_divides_the_cosines():
    batch = Batch("bitext", view([1, 2]), view([3, 4]))
    value = loss(settings(temperature=0.05), batch, EYE, EYE)["nce"].item()
    assert value == pytest.approx(math.log(1 + math.exp(-20)), abs=1e-7)


def test_both_sides_get_gradients():
    left, right = EYE.clone().requires_grad_(), NEAR.clone().requires_grad_()
    loss(settings(), Batch("bitext", view([1, 2]), view([3, 4])), left, right)["nce"].backward()
    assert left.grad.abs().sum() > 0
    assert right.grad.abs().sum() > 0


def test_rows_of_one_side_are_refused():
    with pytest.raises(ValueError, match="english rows have one side"):
        loss(settings(), Batch("english", view([1, 2]), None), EYE, None)
