"""A row of embeddings moves in the steps that touch it, and in no others."""

import pytest
import torch

from training.trainer.row_adam import RowAdam


def stepped(table, gradients, **options):
    """The table after steps with these gradients."""
    moved = table.clone().requires_grad_()
    optimiser = RowAdam([moved], lr=0.1, **options)
    for gradient in gradients:
        moved.grad = gradient.clone()
        optimiser.step()
    return moved.detach()


def test_rows_that_every_step_touches_move_as_with_adam():
    torch.manual_seed(0)
    table, gradients = torch.randn(3, 4), [torch.randn(3, 4) for _ in range(5)]
    plain = table.clone().requires_grad_()
    adam = torch.optim.Adam([plain], lr=0.1)
    for gradient in gradients:
        plain.grad = gradient.clone()
        adam.step()
    torch.testing.assert_close(stepped(table, gradients), plain.detach())


def test_a_row_without_a_gradient_stays_where_it_is():
    table, gradient = torch.ones(3, 2), torch.zeros(3, 2)
    gradient[1] = 1.0
    after = stepped(table, [gradient, torch.zeros(3, 2), torch.zeros(3, 2)])
    assert torch.equal(after[[0, 2]], table[[0, 2]])
    assert after[1].tolist() == pytest.approx([0.9, 0.9])


def test_a_rare_row_moves_in_its_first_step_as_far_as_a_frequent_one_did():
    often, rare = torch.zeros(2, 1), torch.zeros(2, 1)
    often[0], rare[1] = 1.0, 1.0
    after = stepped(torch.zeros(2, 1), [*[often] * 50, rare, *[often] * 50])
    assert after[1].item() == pytest.approx(-0.1, rel=1e-4)


def test_rows_before_the_first_one_never_move():
    after = stepped(torch.zeros(4, 2), [torch.ones(4, 2)] * 3, first=2)
    assert torch.equal(after[:2], torch.zeros(2, 2))
    assert (after[2:] < -0.2).all()


def test_it_goes_on_from_its_state_exactly():
    torch.manual_seed(1)
    gradients = [torch.randn(3, 2) for _ in range(4)]
    whole = stepped(torch.zeros(3, 2), gradients)
    table = torch.zeros(3, 2, requires_grad=True)
    first = RowAdam([table], lr=0.1)
    for gradient in gradients[:2]:
        table.grad = gradient.clone()
        first.step()
    second = RowAdam([table], lr=0.1)
    second.load_state_dict(first.state_dict())
    for gradient in gradients[2:]:
        table.grad = gradient.clone()
        second.step()
    assert torch.equal(table.detach(), whole)


def test_a_sparse_gradient_is_as_good_as_a_dense_one():
    torch.manual_seed(2)
    rows = [torch.tensor([4, 1, 4]), torch.tensor([0, 2, 2]), torch.tensor([4, 3, 0])]
    sparse = [
        torch.sparse_coo_tensor(row[None], torch.randn(3, 2), (5, 2), check_invariants=True)
        for row in rows
    ]
    dense = [gradient.to_dense() for gradient in sparse]
    for first in (0, 2):
        one = stepped(torch.zeros(5, 2), sparse, first=first)
        other = stepped(torch.zeros(5, 2), dense, first=first)
        torch.testing.assert_close(one, other)
