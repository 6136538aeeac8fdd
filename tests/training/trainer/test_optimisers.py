"""What a stage trains moves, at its own rate; what it does not train stays a constant."""

import pytest
import torch
from torch import nn

from tests.training.word_fixtures import small_encoder
from training.config.recipe import Stage
from training.trainer.optimisers import Optimisers

TABLE = "backbone.embeddings.word_embeddings.weight"


def stage_of(**changes) -> Stage:
    return Stage.model_validate(
        {
            "name": "one",
            "steps": 4,
            "rows": 2,
            "tokens": 64,
            "learning_rate": 0.01,
            "batches": [{"kind": "mono", "data": ["pairs"]}],
            "methods": [{"method": "info_nce"}],
            **changes,
        }
    )


def moved(stage, *, first_new=0, factor=1.0, heads=None):
    """How far each parameter of an encoder goes in one step on a gradient of ones."""
    encoder = small_encoder(12)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimisers = Optimisers(
        stage, encoder, heads or nn.Identity(), first_new=first_new, device=torch.device("cpu")
    )
    optimisers.start(factor)
    for parameter in optimisers.parameters:
        parameter.grad = torch.ones_like(parameter)
    optimisers.step(None)
    return {name: before[name] - value for name, value in encoder.state_dict().items()}


def test_new_pieces_alone_leave_everything_else_where_it_is():
    steps = moved(stage_of(train="new_pieces"), first_new=9)
    assert {name for name, step in steps.items() if step.any()} == {TABLE}
    assert not steps[TABLE][:9].any()
    assert steps[TABLE][9:].flatten().tolist() == pytest.approx([0.01] * 3 * 32, rel=1e-3)


def test_embeddings_alone_are_those_of_all_pieces():
    steps = moved(stage_of(train="embeddings"), first_new=9)
    assert {name for name, step in steps.items() if step.any()} == {TABLE}
    assert steps[TABLE].flatten().tolist() == pytest.approx([0.01] * 12 * 32, rel=1e-3)


def test_everything_moves_at_the_rate_of_the_stage():
    steps = moved(stage_of(weight_decay=0.0))
    for name, step in steps.items():
        assert step.flatten().tolist() == pytest.approx([0.01] * step.numel(), rel=1e-2), name


def test_embeddings_may_have_a_rate_of_their_own():
    steps = moved(stage_of(weight_decay=0.0, pieces_learning_rate=0.1), first_new=9, factor=0.5)
    for name, step in steps.items():
        rate = 0.05 if name == TABLE else 0.005
        assert step.flatten().tolist() == pytest.approx([rate] * step.numel(), rel=1e-2), name


def test_heads_are_trained_beside_new_pieces():
    head = nn.Linear(2, 2)
    before = head.weight.detach().clone()
    moved(stage_of(train="new_pieces", weight_decay=0.0), first_new=9, heads=head)
    assert (before - head.weight).flatten().tolist() == pytest.approx([0.01] * 4, rel=1e-3)


def test_a_stage_after_one_of_new_pieces_trains_the_body_again():
    encoder = small_encoder(12)
    options = {"first_new": 9, "device": torch.device("cpu")}
    alone = Optimisers(stage_of(train="new_pieces"), encoder, nn.Identity(), **options)
    assert len(alone.parameters) == 1
    whole = Optimisers(stage_of(), encoder, nn.Identity(), **options)
    assert len(whole.parameters) == len(list(encoder.parameters()))


def test_the_state_is_that_of_all_of_them():
    stage = stage_of(pieces_learning_rate=0.1)
    encoder = small_encoder(12)
    options = {"first_new": 0, "device": torch.device("cpu")}
    one = Optimisers(stage, encoder, nn.Identity(), **options)
    for parameter in one.parameters:
        parameter.grad = torch.ones_like(parameter)
    one.step(None)
    states = one.state_dict()
    assert len(states) == 2
    other = Optimisers(stage, encoder, nn.Identity(), **options)
    other.load_state_dict(states)
    rows = other.state_dict()[0]["state"][0]
    assert torch.equal(rows["steps"], torch.ones(12))


@pytest.mark.parametrize("sparse", [True, False])
def test_gradients_are_clipped_to_a_joint_norm(sparse):
    encoder, head = small_encoder(12), nn.Linear(1, 1, bias=False)
    options = {"first_new": 9, "device": torch.device("cpu"), "sparse": sparse}
    optimisers = Optimisers(stage_of(train="new_pieces"), encoder, head, **options)
    table = encoder.backbone.get_input_embeddings().weight
    head.weight.grad = torch.full((1, 1), 3.0)
    table.grad = torch.zeros_like(table)
    table.grad[10, 0] = 4.0
    if sparse:  # twice the same row, as a text has a piece twice
        places, halves = torch.tensor([[10, 10]]), torch.zeros(2, 32)
        halves[:, 0] = 2.0
        table.grad = torch.sparse_coo_tensor(places, halves, table.shape, check_invariants=True)
    assert optimisers.clip(1.0).item() == pytest.approx(5.0)
    assert head.weight.grad.item() == pytest.approx(0.6)
    assert table.grad.to_dense()[10, 0].item() == pytest.approx(0.8)


def test_only_new_pieces_have_sparse_gradients():
    encoder = small_encoder(12)
    options = {"first_new": 9, "device": torch.device("cpu")}
    embedding = encoder.backbone.get_input_embeddings()
    for stage, sparse, found in (
        (stage_of(train="new_pieces"), True, True),
        (stage_of(train="new_pieces"), False, False),
        (stage_of(), True, False),
    ):
        Optimisers(stage, encoder, nn.Identity(), sparse=sparse, **options)
        assert embedding.sparse is found
