import pytest
import torch
from torch import nn

from training.checkpoint import Checkpoint, CheckpointMismatch, Progress, restore_generators

POSITION = {"bitext": {"block": 2, "next": 3}}


def saved(tmp_path, *, recipe="a", step=1) -> tuple[Checkpoint, nn.Linear]:
    checkpoint, model = Checkpoint(tmp_path / "checkpoint"), nn.Linear(2, 2)
    checkpoint.save(model, {"extra": {"x": 1}}, Progress(recipe, step, 0, step, POSITION))
    return checkpoint, model


def test_what_was_saved_comes_back(tmp_path):
    checkpoint, model = saved(tmp_path, step=5)
    other = nn.Linear(2, 2)
    state, progress = checkpoint.load(other, recipe="a")
    assert torch.equal(other.weight, model.weight)
    assert state["extra"] == {"x": 1}
    assert progress == Progress("a", 5, 0, 5, POSITION)


def test_random_numbers_go_on_where_they_were(tmp_path):
    checkpoint, model = saved(tmp_path)
    wanted = torch.rand(3)
    torch.manual_seed(99)
    state, _ = checkpoint.load(model, recipe="a")
    restore_generators(state)
    assert torch.equal(torch.rand(3), wanted)


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    checkpoint, model = saved(tmp_path)
    with pytest.raises(CheckpointMismatch, match="made by another recipe"):
        checkpoint.load(model, recipe="b")


def test_no_checkpoint_is_said_so(tmp_path):
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    assert not checkpoint.exists
    with pytest.raises(CheckpointMismatch, match="holds no checkpoint"):
        checkpoint.load(nn.Linear(2, 2), recipe="a")


def test_a_crash_between_the_renames_leaves_the_old_checkpoint(tmp_path):
    checkpoint, model = saved(tmp_path, step=1)
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")  # the first of the two renames
    assert checkpoint.exists
    assert checkpoint.load(model, recipe="a")[1].step == 1
    checkpoint.save(model, {}, Progress("a", 2))
    assert checkpoint.load(model, recipe="a")[1].step == 2
    assert not (tmp_path / "checkpoint.old").exists()


def test_a_crash_while_writing_leaves_the_last_checkpoint(tmp_path):
    checkpoint, model = saved(tmp_path, step=1)
    with pytest.raises(TypeError):
        checkpoint.save(model, {}, Progress("a", 2, position={"bitext": object()}))  # type: ignore[dict-item]
    assert checkpoint.load(model, recipe="a")[1].step == 1


def test_the_weights_lie_apart_from_the_optimiser(tmp_path):
    saved(tmp_path)
    files = {path.name for path in (tmp_path / "checkpoint").iterdir()}
    assert files == {"model.safetensors", "state.pt", "progress.json"}
