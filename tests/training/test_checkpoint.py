import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from training.checkpoint import (
    Checkpoint,
    CheckpointFailed,
    CheckpointMismatch,
    Progress,
    RunFolder,
)

POSITION = {"0 cross bitext": {"block": 2, "next": 3, "dealt": [4, 5]}}
ROOT = Path(__file__).parents[2]


def saved(tmp_path, *, recipe="a", step=1) -> tuple[Checkpoint, nn.Linear]:
    checkpoint, model = Checkpoint(tmp_path / "checkpoint"), nn.Linear(2, 2)
    checkpoint.save(model, {"extra": {"x": 1}}, Progress(recipe, step, 0, step, POSITION))
    return checkpoint, model


def test_what_was_saved_comes_back(tmp_path):
    checkpoint, model = saved(tmp_path, step=5)
    other = nn.Linear(2, 2)
    state = checkpoint.load(other, recipe="a")
    assert torch.equal(other.weight, model.weight)
    assert state == {"extra": {"x": 1}}
    assert checkpoint.progress == Progress("a", 5, 0, 5, POSITION)
    assert load_file(checkpoint.weights).keys() == {"weight", "bias"}


def test_what_a_gpu_saved_comes_back_on_the_cpu(tmp_path, monkeypatch):
    """A file says on which device each of its tensors was, and is read there if nobody objects."""
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda _storage: "cuda:99")
        checkpoint, model = Checkpoint(tmp_path / "checkpoint"), nn.Linear(2, 2)
        checkpoint.save(model, {"moments": torch.arange(3)}, Progress("a"))
    with pytest.raises(RuntimeError, match=r"(?i)cuda"):
        torch.load(tmp_path / "checkpoint" / "state.pt", weights_only=True)
    state = checkpoint.load(model, recipe="a")
    assert state["moments"].device == torch.device("cpu")
    assert state["moments"].tolist() == [0, 1, 2]


def test_weights_that_share_memory_are_saved_too(tmp_path):
    model = nn.ModuleDict({"one": nn.Linear(2, 2), "other": nn.Linear(2, 2)})
    model["other"].weight = model["one"].weight
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    checkpoint.save(model, {}, Progress("a"))
    checkpoint.load(model, recipe="a")
    assert model["other"].weight is model["one"].weight


def test_weights_alone_can_be_saved(tmp_path):
    best = RunFolder(tmp_path).best
    best.save(nn.Linear(2, 2), None, Progress("a", 7))
    assert {path.name for path in (tmp_path / "best").iterdir()} == {
        "model.safetensors",
        "progress.json",
    }
    assert best.progress.step == 7


def test_a_checkpoint_of_another_recipe_or_more_processes_is_refused(tmp_path):
    checkpoint, model = saved(tmp_path)
    with pytest.raises(CheckpointMismatch, match="made by another recipe"):
        checkpoint.load(model, recipe="b")
    with pytest.raises(CheckpointMismatch, match="made by 1 processes and there are 2"):
        checkpoint.load(model, recipe="a", processes=2)


def test_no_checkpoint_is_said_so(tmp_path):
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    assert not checkpoint.exists
    with pytest.raises(CheckpointMismatch, match="holds no checkpoint"):
        checkpoint.load(nn.Linear(2, 2), recipe="a")
    with pytest.raises(CheckpointMismatch, match="holds no checkpoint"):
        _ = checkpoint.weights


def test_a_crash_between_the_renames_leaves_the_old_checkpoint(tmp_path):
    checkpoint, model = saved(tmp_path, step=1)
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")  # the first of the two renames
    assert checkpoint.exists
    checkpoint.load(model, recipe="a")
    assert checkpoint.progress.step == 1
    checkpoint.save(model, {}, Progress("a", 2))
    assert checkpoint.progress.step == 2
    assert not (tmp_path / "checkpoint.old").exists()


def test_a_crash_while_writing_leaves_the_last_checkpoint(tmp_path):
    checkpoint, model = saved(tmp_path, step=1)
    with pytest.raises(TypeError):
        checkpoint.save(model, {}, Progress("a", 2, position={"bitext": object()}))
    assert checkpoint.progress.step == 1
    checkpoint.save(model, {}, Progress("a", 3))  # over what the crash left
    assert checkpoint.progress.step == 3


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt"])
def test_a_damaged_file_is_said_so(tmp_path, name):
    checkpoint, model = saved(tmp_path)
    (tmp_path / "checkpoint" / name).write_bytes(b"nonsense")
    with pytest.raises(CheckpointMismatch, match="cannot be read"):
        checkpoint.load(model, recipe="a")


@pytest.mark.parametrize("content", ["{", '{"recipe": "a", "colour": 3}'])
def test_progress_of_another_version_is_said_so(tmp_path, content):
    checkpoint, _ = saved(tmp_path)
    (tmp_path / "checkpoint" / "progress.json").write_text(content, "utf-8")
    with pytest.raises(CheckpointMismatch, match=r"progress\.json cannot be read"):
        _ = checkpoint.progress


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path):
    (tmp_path / "file").write_text("in the way", "utf-8")
    checkpoint = Checkpoint(tmp_path / "file" / "checkpoint")
    with pytest.raises(CheckpointFailed, match=r"step 4: .*there is none yet"):
        checkpoint.save(nn.Linear(2, 2), {}, Progress("a", 4))


FULL_DISK = """
import sys
from pathlib import Path
import torch
from torch import nn
from training.checkpoint import Checkpoint, CheckpointFailed, Progress
checkpoint, large = Checkpoint(Path(sys.argv[1])), nn.Linear(64, 64)
state = {"moments": torch.zeros(int(sys.argv[2]))}
try:
    checkpoint.save(large, state, Progress("a", 2))
except CheckpointFailed as error:
    print(error)
"""


@pytest.mark.parametrize(("limit", "moments"), [(8_000, 1), (40_000, 100_000)])
def test_a_full_disk_leaves_the_last_checkpoint_and_says_what_to_do(tmp_path, limit, moments):
    """Files may not grow beyond a limit, first that of the weights, then that of the state."""
    _, model = saved(tmp_path, step=1)
    found = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "checkpoint"), str(moments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "step 2: " in found.stdout
    assert "the last checkpoint is intact (the one of step 1): free space" in found.stdout
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    checkpoint.load(model, recipe="a")
    assert checkpoint.progress.step == 1
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint"}
