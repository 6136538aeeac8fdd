"""A run with a graft: English stays as it was, new pieces learn alone, and a resume is exact."""

import json
from io import StringIO

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from tests.training.conftest import sentences
from tests.training.trainer.graft.graft_fixtures import english_folder
from training.checkpoint import RunFolder
from training.config.recipe import Recipe
from training.embedders import TorchEmbedder
from training.pretrained import open_pretrained, open_run
from training.trainer.run import Options, run_recipe


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return english_folder(tmp_path_factory.mktemp("english"))


@pytest.fixture(scope="module")
def grafting(recipe, start) -> Recipe:
    """The toy recipe with an English start, new pieces alone, and then everything."""
    stage = {"rows": 16, "tokens": 512, "learning_rate": 5e-3, "steps": 5}
    feed = {"kind": "single", "data": ["parallel"]}
    other = {**feed, "languages": ["de", "ru", "hi", "zh"]}
    methods = [{"method": "distillation", "contrast_weight": 0.5}]
    changed = recipe.model_dump(mode="json", exclude={"student", "vocabulary", "stage", "teacher"})
    return Recipe.model_validate(
        {
            **changed,
            "start": {"model": str(start), "pooling": "mean", "max_tokens": 64, "dropout": 0.0},
            "teacher": {"model": str(start), "pooling": "mean", "max_tokens": 64},
            "graft": {"data": ["parallel"], "pieces": 400, "steps": 20, "rows": 64},
            "stage": [
                {
                    **stage,
                    "name": "pieces",
                    "train": "new_pieces",
                    "batches": [other],
                    "methods": methods,
                },
                {
                    **stage,
                    "name": "all",
                    "learning_rate": 1e-3,
                    "pieces_learning_rate": 2e-3,
                    "batches": [feed],
                    "methods": methods,
                },
            ],
        }
    )


def run(recipe, data, out, **changes):
    options = Options(data=data, out=out, cache=out.parent / "cache", device="cpu", **changes)
    return run_recipe(recipe, options, Console(file=StringIO(), width=200))


@pytest.fixture(scope="module")
def whole(grafting, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("grafted") / "run"
    run(grafting, data, out)
    return out


@pytest.fixture(scope="module")
def first_stage(grafting, data, tmp_path_factory):
    """The run after its first stage alone."""
    out = tmp_path_factory.mktemp("first") / "run"
    run(grafting, data, out, stop_after_steps=5)
    return out


def kept_of(out) -> int:
    return json.loads(RunFolder(out).grafted.read_text("utf-8"))["kept"]


def table_of(weights) -> torch.Tensor:
    return weights["backbone.embeddings.word_embeddings.weight"]


def test_english_has_the_vectors_of_the_start_after_the_first_stage(first_stage, start):
    before = TorchEmbedder(open_pretrained(str(start), pooling="mean", max_tokens=64))
    after = TorchEmbedder(open_run(first_stage))
    english = sentences("en")
    assert torch.equal(
        torch.from_numpy(before(english, "query")), torch.from_numpy(after(english, "query"))
    )


def test_the_first_stage_moves_new_pieces_and_nothing_else(first_stage):
    before = open_pretrained(str(first_stage / "encoder")).encoder.state_dict()
    after = load_file(first_stage / "checkpoint" / "model.safetensors")
    moved = [name for name in after if not torch.equal(before[name], after[name])]
    assert moved == ["backbone.embeddings.word_embeddings.weight"]
    kept = kept_of(first_stage)
    assert torch.equal(table_of(before)[:kept], table_of(after)[:kept])
    assert not torch.equal(table_of(before)[kept:], table_of(after)[kept:])


def test_the_last_stage_moves_everything(whole):
    before = open_pretrained(str(whole / "encoder")).encoder.state_dict()
    after = load_file(whole / "checkpoint" / "model.safetensors")
    kept = kept_of(whole)
    still = [name for name in after if torch.equal(before[name], after[name])]
    assert still == []
    assert not torch.equal(table_of(before)[:kept], table_of(after)[:kept])


def test_an_interrupted_run_ends_with_the_same_weights(grafting, whole, data, tmp_path):
    out = tmp_path / "run"
    for steps in (2, 4, None):
        run(grafting, data, out, resume=True, stop_after_steps=steps)
    one, other = (load_file(path / "checkpoint" / "model.safetensors") for path in (whole, out))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_a_run_with_a_graft_says_what_it_was_before(whole, start):
    assert open_run(whole).base.startswith(start.name)
