import pytest
import torch
from torch import nn

from training.trainer.processes import Processes, TrainingFailed, choose_precision, open_processes
from training.trainer.stage import learning_rate


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447]),
    ],
)
def test_the_rate_warms_up_and_then_follows_its_schedule(recipe, schedule, expected):
    stage = recipe.stage[0].model_copy(
        update={"learning_rate": 1.0, "warmup_steps": 2, "steps": 6, "schedule": schedule}
    )
    assert [learning_rate(stage, step) for step in range(6)] == pytest.approx(expected, abs=1e-6)


def with_loop(recipe, **changes):
    return recipe.model_copy(update={"loop": recipe.loop.model_copy(update=changes)})


def test_the_precision_follows_the_device_unless_it_is_named(recipe):
    def chosen(name, device):
        return choose_precision(with_loop(recipe, precision=name), torch.device(device))

    assert chosen("auto", "cpu") == "no"
    assert chosen("auto", "cuda") == "bf16"
    assert chosen("fp16", "cuda") == "fp16"
    assert chosen("bf16", "cpu") == "bf16"
    assert chosen("fp32", "cuda") == "no"
    with pytest.raises(TrainingFailed, match="needs CUDA"):
        chosen("fp16", "cpu")


def test_a_tracker_that_is_not_installed_is_named_with_its_package(recipe, tmp_path, without):
    with pytest.raises(TrainingFailed, match=r"trackers names mlflow.*pip install mlflow"):
        open_processes(with_loop(recipe, trackers=("mlflow",)), "cpu", folder=tmp_path)


@pytest.fixture
def without() -> None:
    pytest.importorskip("accelerate")
    try:
        __import__("mlflow")
    except ModuleNotFoundError:
        return
    pytest.skip("mlflow is installed")


@pytest.fixture
def alone(recipe, tmp_path) -> Processes:
    return open_processes(recipe, "cpu", folder=tmp_path)


def test_one_process_has_all_rows(alone):
    rows = torch.arange(6.0).reshape(3, 2)
    assert torch.equal(alone.gather(rows), rows)
    assert torch.equal(alone.own(rows), rows)
    assert torch.equal(alone.total(rows), rows)
    assert alone.agreed("yes") == "yes"
    assert alone.is_main
    assert (alone.count, alone.number, alone.precision) == (1, 0, "no")
    layer = nn.Linear(2, 2)
    alone.sum_gradients(list(layer.parameters()))
    assert layer.weight.grad is None


def test_random_numbers_go_on_where_they_were(alone):
    states = alone.random_states()
    wanted = torch.rand(3)
    torch.manual_seed(99)
    alone.restore_random_state(states)
    assert torch.equal(torch.rand(3), wanted)
