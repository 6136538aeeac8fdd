"""Stages that a run has not begun may be changed, added and taken away; others may not."""

import json
from io import StringIO

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from training.checkpoint import CheckpointMismatch
from training.trainer.run import Options, run_recipe


def run(recipe, data, out, **changes):
    said = StringIO()
    options = Options(data=data, out=out, cache=out / "cache", device="cpu", **changes)
    run_recipe(recipe, options, Console(file=said, width=200))
    return said.getvalue()


def changed(recipe, number, **values):
    stages = list(recipe.stage)
    stages[number] = stages[number].model_copy(update=values)
    return recipe.model_copy(update={"stage": tuple(stages)})


@pytest.fixture
def begun(recipe, data, tmp_path):
    """A run in the midst of the first of its two stages."""
    out = tmp_path / "run"
    run(recipe, data, out, stop_after_steps=5)
    return out


def test_a_stage_that_was_not_begun_may_be_another(begun, recipe, data):
    other = changed(recipe, 1, steps=3, learning_rate=1e-4)
    said = run(other, data, begun, resume=True)
    assert "resumed after step 5" in said
    assert "all 11 steps are done" in said
    assert json.loads((begun / "recipe.json").read_text("utf-8"))["stage"][1]["steps"] == 3


def test_a_stage_that_was_begun_may_not(begun, recipe, data):
    with pytest.raises(CheckpointMismatch, match="another recipe"):
        run(changed(recipe, 0, learning_rate=1e-4), data, begun, resume=True)


def test_a_finished_run_may_get_another_stage(recipe, data, tmp_path):
    out = tmp_path / "run"
    short = recipe.model_copy(update={"stage": recipe.stage[:1]})
    assert "all 8 steps are done" in run(short, data, out)
    before = load_file(out / "checkpoint" / "model.safetensors")
    assert "all 16 steps are done" in run(recipe, data, out, resume=True)
    after = load_file(out / "checkpoint" / "model.safetensors")
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_stage_that_was_done_may_not_be_taken_away(recipe, data, tmp_path):
    out = tmp_path / "run"
    run(recipe, data, out, stop_after_steps=10)
    short = recipe.model_copy(update={"stage": recipe.stage[:1]})
    with pytest.raises(CheckpointMismatch, match="another recipe"):
        run(short, data, out, resume=True)
