import json
import shutil
from io import StringIO

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM

from tests.training.conftest import write_pairs
from tests.training.pretrained_fixtures import SHAPE, transformers_folder
from training.benchmarks.files import BenchmarkMissing
from training.checkpoint import CheckpointMismatch, RunFolder
from training.config.evaluation import Evaluation
from training.config.recipe import Recipe, Start, Stopping
from training.data import read_corpus
from training.mlm import MlmHead
from training.model import ModelMissing
from training.pretrained import open_pretrained
from training.trainer.inputs import files_read
from training.trainer.processes import TrainingFailed
from training.trainer.run import Options, fingerprints_of, run_recipe
from training.trainer.stopping import MetricUnknown


def run(recipe, data, out, **changes):
    said = StringIO()
    options = Options(data=data, out=out, cache=out / "cache", device="cpu", **changes)
    outcome = run_recipe(recipe, options, Console(file=said, width=200))
    return outcome.results, said.getvalue()


def weights(out, which="checkpoint"):
    return load_file(out / which / "model.safetensors")


def records(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]


def with_stage(recipe: Recipe, number: int = 0, **changes) -> Recipe:
    stages = list(recipe.stage)
    stages[number] = stages[number].model_copy(update=changes)
    return recipe.model_copy(update={"stage": tuple(stages)})


def with_loop(recipe: Recipe, **changes) -> Recipe:
    return recipe.model_copy(update={"loop": recipe.loop.model_copy(update=changes)})


def assert_same_weights(one, other):
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different


@pytest.fixture(scope="module")
def whole(recipe, data, tmp_path_factory):
    """A run that was not interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, *run(recipe, data, out)


@pytest.mark.parametrize("stops", [[3], [8], [4, 9], [1, 2, 15]])
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
    whole, recipe, data, tmp_path, stops
):
    out = tmp_path / "run"
    out.mkdir()
    shutil.copytree(
        whole[0] / "encoder", out / "encoder"
    )  # a vocabulary is not learned alike twice
    done = 0
    for stop in stops:
        results, said = run(recipe, data, out, resume=True, stop_after_steps=stop - done)
        assert results is None
        done = stop
    results, said = run(recipe, data, out, resume=True)
    assert results is not None
    assert f"resumed after step {stops[-1]}" in said
    assert_same_weights(whole[0], out)
    assert [r["loss"] for r in records(out) if r["kind"] == "train"][-1] == pytest.approx(
        records(whole[0])[-2]["loss"], abs=0
    )


def test_a_run_keeps_what_a_bundle_and_a_reader_need(whole):
    out, results, said = whole
    lines = records(out)
    assert {"info_nce_nce", "distillation_mse", "gradient_norm"} <= lines[-2].keys()
    assert lines[-2]["tokens_per_second"] > 0
    assert lines[-1]["kind"] == "evaluation"
    assert results.summary()["ntrex bitext accuracy"] == lines[-1]["ntrex bitext accuracy"]
    sources = json.loads((out / "sources.json").read_text("utf-8"))
    assert sources["templates"]["licence"] == "CC0-1.0"
    assert sources["notes"]["licence"] == "unstated"
    assert json.loads((out / "leaks.json").read_text("utf-8"))
    assert list((out / "tensorboard" / "toy").iterdir())
    assert (out / "encoder" / "tokenizer.json").is_file()
    assert "texts in 5 languages" in said
    assert "all 16 steps are done" in said


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(stops=st.lists(st.integers(1, 15), min_size=1, max_size=3, unique=True).map(sorted))
@pytest.mark.slow
def test_a_run_can_be_interrupted_after_any_steps(whole, recipe, data, tmp_path_factory, stops):
    out = tmp_path_factory.mktemp("parts") / "run"
    out.mkdir()
    shutil.copytree(whole[0] / "encoder", out / "encoder")
    for done, stop in zip([0, *stops], stops, strict=False):
        run(recipe, data, out, resume=True, stop_after_steps=stop - done)
    run(recipe, data, out, resume=True)
    assert_same_weights(whole[0], out)


def test_a_run_that_is_over_only_says_so_again(whole, recipe, data, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole[0], out)
    results, said = run(recipe, data, out, resume=True)
    assert "resumed after step 16" in said
    assert "all 16 steps are done" in said
    assert results.summary() == whole[1].summary()
    assert records(out) == records(whole[0])


def test_training_lowers_the_loss(recipe, data, tmp_path):
    longer = with_stage(recipe, steps=40)
    run(longer, data, tmp_path / "run", stop_after_steps=40)
    taught = [record["distillation_cosine"] for record in records(tmp_path / "run")]
    assert taught[-1] < 0.6 * taught[0]


def test_a_checkpoint_in_the_way_is_refused(recipe, data, tmp_path):
    run(recipe, data, tmp_path / "run", stop_after_steps=1)
    with pytest.raises(TrainingFailed, match="add --resume"):
        run(recipe, data, tmp_path / "run")
    kept = (tmp_path / "run" / "recipe.json").read_text("utf-8")
    with pytest.raises(CheckpointMismatch, match="another recipe"):
        run(with_stage(recipe, steps=9), data, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "recipe.json").read_text("utf-8") == kept


def test_other_data_is_refused_on_resuming(recipe, data, tmp_path):
    mine = tmp_path / "data"
    shutil.copytree(data, mine)
    run(recipe, mine, tmp_path / "run", stop_after_steps=1)
    write_pairs(mine, "de", [("a red ship", "ein rotes Schiff", "templates")] * 3)
    with pytest.raises(CheckpointMismatch, match="other data"):
        run(recipe, mine, tmp_path / "run", resume=True)


SENTENCES = {"kind": "cross", "roles": ["sentence", "sentence"], "data": ["parallel"]}
WORDS_OF = {
    "synonyms": (
        "ear.tsv",
        SENTENCES,
        {"method": "ear", "perturber": {"kind": "synonyms", "path": "ear.tsv"}},
        "cat\tdog\n",
        "cat\tbird\n",
    ),
    "lexicon": (
        "words/en-de.tsv",
        {
            "kind": "translation",
            "data": ["parallel"],
            "languages": ["en", "de"],
            "aligner": {"kind": "lexicon", "path": "words/{source}-{target}.tsv"},
        },
        {"method": "weam"},
        "en\tde\ncat\tKatze\nred\trot\n",
        "en\tde\ncat\tKatze\nblue\tblau\n",
    ),
}


@pytest.mark.parametrize("kind", WORDS_OF)
def test_another_table_of_words_is_refused_on_resuming(recipe, data, tmp_path, kind):
    name, batches, method, before, after = WORDS_OF[kind]
    mine = tmp_path / "data"
    shutil.copytree(data, mine)
    (mine / name).parent.mkdir(exist_ok=True)
    (mine / name).write_text(before, "utf-8")
    content = json.loads(recipe.model_dump_json())
    stage = {**content["stage"][1], "batches": [batches], "methods": [method], "token_dropout": 0}
    worded = Recipe.model_validate({**content, "stage": [stage], "teacher": None})
    run(worded, mine, tmp_path / "run", stop_after_steps=1)
    (mine / name).write_text(after, "utf-8")
    with pytest.raises(CheckpointMismatch, match=rf"other data.*{name}"):
        run(worded, mine, tmp_path / "run", resume=True)
    (mine / name).write_text(before, "utf-8")
    _, said = run(worded, mine, tmp_path / "run", resume=True, stop_after_steps=1)
    assert "resumed after step 1" in said


def test_another_benchmark_is_refused_on_resuming(recipe, data, tmp_path):
    """Its scores decide which weights are the best ones, and stand beside those from before."""
    mine = tmp_path / "data"
    shutil.copytree(data, mine)
    place = mine / "eval" / "bli"
    place.mkdir()
    words = [("cat", "Katze"), ("dog", "Hund"), ("bird", "Vogel"), ("horse", "Pferd")]
    words += [("garden", "Garten"), ("house", "Haus"), ("river", "Fluss")]
    rows = ["english\tforeign", *("\t".join(pair) for pair in words)]
    (place / "en-de.tsv").write_text("\n".join(rows) + "\n", "utf-8")
    measured = recipe.model_copy(update={"evaluation": Evaluation(benchmarks=[{"name": "bli"}])})
    run(measured, mine, tmp_path / "run", stop_after_steps=1)
    (place / "en-de.tsv").write_text("\n".join(rows[:-1]) + "\n", "utf-8")
    with pytest.raises(CheckpointMismatch, match=r"other data.*eval/bli/en-de\.tsv"):
        run(measured, mine, tmp_path / "run", resume=True)


def test_an_encoder_of_another_recipe_does_not_linger(recipe, data, tmp_path):
    """A run that died before its first checkpoint leaves an encoder behind."""
    out = tmp_path / "run"
    with pytest.raises(TrainingFailed):
        run(wild(recipe), data, out)
    before = (out / "encoder" / "made_for.txt").read_text("utf-8")
    smaller = recipe.model_copy(
        update={"student": recipe.student.model_copy(update={"hidden": 16})}
    )
    run(smaller, data, out, stop_after_steps=1)
    assert (out / "encoder" / "made_for.txt").read_text("utf-8") != before
    assert json.loads((out / "encoder" / "config.json").read_text("utf-8"))["hidden_size"] == 16


def test_best_weights_and_links_of_another_recipe_do_not_linger(recipe, data, tmp_path):
    """An export would take the best ones that it finds."""
    out = tmp_path / "run"
    wilder = wild(stopping(recipe)).model_copy(update={"name": "other"})
    with pytest.raises(TrainingFailed):
        run(wilder, data, out)
    shutil.copytree(out / "best", out / "best.old")  # as a crash between two renames leaves it
    (out / "links").mkdir()
    run(recipe, data, out, stop_after_steps=1)
    assert not RunFolder(out).best.exists
    assert not (out / "links").exists()


def wild(recipe):
    return with_stage(recipe, learning_rate=1e25, warmup_steps=0, schedule="constant")


def test_a_loss_that_is_no_number_stops_the_run_and_spares_the_checkpoint(recipe, data, tmp_path):
    often = with_loop(wild(recipe), log_every=1000, checkpoint_every=1)
    said = r"stage 'teach', its step 2: the loss is nan.*learning_rate \(1e\+25\)"
    with pytest.raises(TrainingFailed, match=said):
        run(often, data, tmp_path / "run")
    progress = json.loads((tmp_path / "run" / "checkpoint" / "progress.json").read_text("utf-8"))
    assert progress["step"] == 1


def test_a_stage_without_distillation_needs_no_teacher(recipe, data, tmp_path):
    contrast = recipe.stage[1].model_copy(update={"methods": recipe.stage[1].methods[:1]})
    alone = recipe.model_copy(update={"stage": (contrast,)}).taught_by("nowhere/at/all")
    run(alone, data, tmp_path / "run", stop_after_steps=2)
    assert not (tmp_path / "run" / "cache").exists()


def test_a_missing_teacher_is_said_before_the_first_step(recipe, data, tmp_path):
    with pytest.raises(ModelMissing, match="nowhere/at/all"):
        run(recipe.taught_by("nowhere/at/all"), data, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_an_encoder_that_exists_is_trained_on(recipe, data, whole, tmp_path):
    start = Start(model=str(whole[0] / "encoder"), dropout=0.0, max_tokens=20)
    content = recipe.model_dump(exclude={"student", "vocabulary"}) | {"start": start.model_dump()}
    further = Recipe.model_validate(content)
    run(further, data, tmp_path / "run", stop_after_steps=1)
    config = json.loads((tmp_path / "run" / "encoder" / "config.json").read_text("utf-8"))
    assert config["hidden_dropout_prob"] == 0.0
    assert open_pretrained(str(tmp_path / "run" / "encoder")).max_tokens == 20
    first = load_file(tmp_path / "run" / "encoder" / "model.safetensors")
    given_ = load_file(whole[0] / "encoder" / "model.safetensors")
    assert all(torch.equal(first[name], given_[name]) for name in given_)


def test_the_head_of_a_masked_language_model_comes_along(recipe, data, tmp_path):
    transformers_folder(tmp_path / "start")
    model = BertForMaskedLM(BertConfig(**SHAPE, max_position_embeddings=64))
    model.save_pretrained(tmp_path / "start")
    start = Start(model=str(tmp_path / "start"), pooling="mean")
    content = recipe.model_dump(exclude={"student", "vocabulary"}) | {"start": start.model_dump()}
    run(Recipe.model_validate(content), data, tmp_path / "run", stop_after_steps=1)
    head = MlmHead.of(open_pretrained(str(tmp_path / "run" / "encoder")).encoder.backbone)
    assert head.pretrained
    assert torch.equal(head.dense.weight, model.cls.predictions.transform.dense.weight)


def test_matryoshka_must_name_the_full_width(recipe, data, tmp_path):
    with pytest.raises(TrainingFailed, match=r"matryoshka = \[8, 16\].*own, 32"):
        run(with_stage(recipe, matryoshka=(8, 16)), data, tmp_path / "run")
    run(with_stage(recipe, matryoshka=(8, 32)), data, tmp_path / "other", stop_after_steps=2)
    assert {"distillation_cosine_8", "distillation_cosine_32"} <= records(tmp_path / "other")[
        0
    ].keys()


def test_without_the_body_only_the_embeddings_are_trained(recipe, data, tmp_path):
    still = with_stage(recipe, body=False)
    run(still, data, tmp_path / "run", stop_after_steps=2)
    before = open_pretrained(str(tmp_path / "run" / "encoder")).encoder.state_dict()
    after = weights(tmp_path / "run")
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved
    assert all(".embeddings." in name for name in moved)


def test_evaluation_runs_between_the_steps(recipe, data, tmp_path):
    _, said = run(with_loop(recipe, evaluate_every=5), data, tmp_path / "run")
    assert [f"step {step}: ntrex" in said for step in (5, 10, 15, 16)] == [True] * 4


def test_evaluating_changes_nothing_that_is_trained(whole, recipe, data, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    shutil.copytree(whole[0] / "encoder", out / "encoder")
    mark = out / "encoder" / "made_for.txt"
    often = with_loop(recipe, evaluate_every=3)
    corpus = read_corpus(data, often)
    mark.write_text(fingerprints_of(often, corpus, files_read(often, corpus, data))[0], "utf-8")
    run(often, data, out)
    assert_same_weights(whole[0], out)


METRIC = "ntrex bitext accuracy"


def stopping(recipe, **rule):
    changed = with_loop(recipe, evaluate_every=2)
    return changed.model_copy(update={"stopping": Stopping(metric=METRIC, **rule)})


def test_training_stops_when_the_metric_stands_still_and_the_best_weights_are_kept(
    recipe, data, tmp_path
):
    out = tmp_path / "run"
    results, said = run(stopping(recipe, min_gain=1000, patience=2), data, out)
    assert results is not None
    assert "stopped after step 4: 2 evaluations (stopping.patience) without a better" in said
    assert "best ntrex bitext accuracy" in said
    evaluated = [record["step"] for record in records(out) if record["kind"] == "evaluation"]
    assert evaluated == [0, 2, 4]
    assert json.loads((out / "best" / "progress.json").read_text("utf-8"))["step"] == 0
    begun = open_pretrained(str(out / "encoder")).encoder.state_dict()
    best = weights(out, "best")
    assert all(torch.equal(best[name], begun[name]) for name in begun)
    again, said = run(stopping(recipe, min_gain=1000, patience=2), data, out, resume=True)
    assert "stopped after step 4" in said
    assert again.summary() == results.summary()


def test_without_the_body_no_evaluation_is_the_best_or_the_last_one(recipe, data, tmp_path):
    """What is kept and exported has the body, whatever the embeddings scored alone."""
    rule = with_stage(stopping(recipe, min_gain=1000, patience=1), body=False)
    _, said = run(rule, data, tmp_path / "run")
    assert "step 2: ntrex" in said
    assert "stopped after step 10" in said


def test_an_interrupted_run_stops_where_the_uninterrupted_one_does(recipe, data, tmp_path):
    rule = stopping(recipe, min_gain=1000, patience=3)
    out = tmp_path / "run"
    run(rule, data, out, stop_after_steps=3)
    _, said = run(rule, data, out, resume=True)
    assert "stopped after step 6" in said


def test_a_metric_that_is_not_there_is_refused_before_the_first_step(recipe, data, tmp_path):
    wrong = recipe.model_copy(
        update={
            "stopping": Stopping(metric="xquad cross ndcg@10"),
            "loop": recipe.loop.model_copy(update={"evaluate_every": 2}),
        }
    )
    with pytest.raises(MetricUnknown, match=f"'xquad cross ndcg@10' is no metric.*{METRIC}"):
        run(wrong, data, tmp_path / "run")


def test_what_a_benchmark_lacks_is_said_before_the_first_step(recipe, data, tmp_path):
    evaluation = Evaluation(benchmarks=[{"name": "belebele"}])
    with pytest.raises(BenchmarkMissing):
        run(recipe.model_copy(update={"evaluation": evaluation}), data, tmp_path / "run")


@pytest.mark.gpu
def test_the_same_recipe_runs_on_cuda(recipe, data, tmp_path):
    options = Options(data=data, out=tmp_path, cache=tmp_path / "cache", device="cuda")
    assert run_recipe(recipe, options, Console(file=StringIO())).results is not None


@pytest.mark.parametrize("aligner", ["ibm1", "states"])
def test_heads_are_trained_saved_and_dropped_with_their_stage(recipe, data, tmp_path, aligner):
    """A stage with a head in the middle: interrupted within it, and at both of its borders.

    Links by the encoder's own states are those of the stage's beginning, resumed or not.
    """
    methods = [{"method": "weam"}]
    feed = {"kind": "translation", "data": ["parallel"], "languages": ["en", "de"]}
    batches = [{**feed, "aligner": {"kind": aligner}}]
    content = json.loads(recipe.scaled(0.5).model_dump_json())
    weam = {**content["stage"][0], "name": "words", "methods": methods, "batches": batches}
    content["stage"] = [content["stage"][1], weam, content["stage"][1]]
    headed = Recipe.model_validate(content)
    whole_, parts = tmp_path / "whole", tmp_path / "parts"
    run(headed, data, whole_)
    parts.mkdir()
    shutil.copytree(whole_ / "encoder", parts / "encoder")
    for done, stop in ((0, 4), (4, 6), (6, 8)):
        run(headed, data, parts, resume=True, stop_after_steps=stop - done)
        state = torch.load(parts / "checkpoint" / "state.pt", weights_only=True)
        assert bool(state["heads"]) == (stop > 4)
    run(headed, data, parts, resume=True)
    assert_same_weights(whole_, parts)
    assert all(name.startswith("backbone.") for name in weights(parts))
