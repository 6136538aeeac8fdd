import json
import shutil
from io import StringIO

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from training.checkpoint import CheckpointMismatch
from training.config import Recipe
from training.reader import DataInvalid
from training.trainer import (
    Options,
    TrainingFailed,
    choose_precision,
    learning_rate,
    run_recipe,
)


def run(recipe, data, out, **changes):
    said = StringIO()
    options = Options(data=data, out=out, cache=out / "cache", device="cpu", **changes)
    scores = run_recipe(recipe, options, Console(file=said, width=200))
    return scores, said.getvalue()


def weights(out):
    return load_file(out / "checkpoint" / "model.safetensors")


def with_stage(recipe: Recipe, **changes) -> Recipe:
    stages = (recipe.stage[0].model_copy(update=changes), *recipe.stage[1:])
    return recipe.model_copy(update={"stage": stages})


@pytest.mark.parametrize("stops", [[3], [8], [4, 9], [1, 2, 15]])
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
    recipe, data, tmp_path, stops
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(recipe, data, whole)
    parts.mkdir()
    shutil.copy(whole / "tokenizer.json", parts)
    done = 0
    for stop in stops:
        scores, said = run(recipe, data, parts, resume=True, stop_after_steps=stop - done)
        assert scores is None
        done = stop
    scores, said = run(recipe, data, parts, resume=True)
    assert scores is not None
    assert f"resumed after step {stops[-1]}" in said
    expected, found = weights(whole), weights(parts)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_run_learns_and_keeps_what_a_bundle_needs(recipe, data, tmp_path):
    longer = with_stage(recipe, steps=40)
    scores, said = run(longer, data, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    taught = [record for record in records if record.get("stage") == "teach"]
    assert taught[-1]["distillation_distance"] < 0.6 * taught[0]["distillation_distance"]
    assert taught[-1]["tokens_per_second"] > 0
    assert {"info_nce_nce", "distillation_distance", "gradient_norm"} <= records[-2].keys()
    assert records[-1]["kind"] == "evaluation"
    assert scores is not None
    assert scores.summary()["ntrex"] == records[-1]["ntrex"]
    sources = json.loads((tmp_path / "run" / "sources.json").read_text("utf-8"))
    assert sources["templates"]["licence"] == "CC0-1.0"
    assert sources["notes"]["licence"] == "unstated"
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    assert "texts in 5 languages" in said


def test_a_checkpoint_in_the_way_is_refused(recipe, data, tmp_path):
    run(recipe, data, tmp_path / "run", stop_after_steps=1)
    with pytest.raises(TrainingFailed, match="add --resume"):
        run(recipe, data, tmp_path / "run")
    with pytest.raises(CheckpointMismatch, match="another recipe"):
        run(with_stage(recipe, steps=9), data, tmp_path / "run", resume=True)


def test_a_loss_that_is_no_number_stops_the_run_and_spares_the_checkpoint(recipe, data, tmp_path):
    wild = with_stage(recipe, learning_rate=1e25, warmup_steps=0, schedule="constant")
    with pytest.raises(TrainingFailed, match=r"the loss is nan .*learning_rate of stage 'teach'"):
        run(wild, data, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_a_stage_whose_source_is_empty_is_refused_at_once(recipe, data, tmp_path):
    without = recipe.model_copy(update={"data": recipe.data.model_copy(update={"joined_rows": 0})})
    with pytest.raises(DataInvalid, match="stage 'teach': the data has no rows of joined"):
        run(without, data, tmp_path / "run")
    assert not (tmp_path / "run" / "tokenizer.json").exists()


def test_malformed_rows_are_told(recipe, data, tmp_path):
    narrow = recipe.model_copy(
        update={"data": recipe.data.model_copy(update={"max_characters": 22, "max_bad_share": 1.0})}
    )
    _, said = run(narrow, data, tmp_path / "run", stop_after_steps=1)
    assert "malformed rows left out: en-de.tsv.gz:" in said


def test_a_stage_without_distillation_needs_no_teacher(recipe, data, tmp_path):
    contrast = recipe.stage[1].model_copy(update={"methods": recipe.stage[1].methods[:1]})
    alone = recipe.model_copy(update={"stage": (contrast,)}).taught_by("nowhere/at/all")
    _, said = run(alone, data, tmp_path / "run", stop_after_steps=2)
    assert "teacher" not in said


def test_evaluation_runs_between_the_steps(recipe, data, tmp_path):
    often = recipe.model_copy(update={"loop": recipe.loop.model_copy(update={"evaluate_every": 5})})
    _, said = run(often, data, tmp_path / "run")
    assert [f"step {step}: ntrex" in said for step in (5, 10, 15, 16)] == [True] * 4


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


def test_the_precision_follows_the_device_unless_it_is_named(recipe):
    def chosen(name, device):
        loop = recipe.loop.model_copy(update={"precision": name})
        return choose_precision(recipe.model_copy(update={"loop": loop}), torch.device(device))

    assert chosen("auto", "cpu") == torch.float32
    assert chosen("auto", "cuda") == torch.bfloat16
    assert chosen("fp16", "cuda") == torch.float16
    assert chosen("bf16", "cpu") == torch.bfloat16
    with pytest.raises(TrainingFailed, match="needs CUDA"):
        chosen("fp16", "cpu")


@pytest.mark.gpu
def test_the_same_recipe_runs_on_cuda(recipe, data, tmp_path):
    options = Options(data=data, out=tmp_path, cache=tmp_path / "cache", device="cuda")
    assert run_recipe(recipe, options, Console(file=StringIO())) is not None
