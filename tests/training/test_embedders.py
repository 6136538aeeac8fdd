import copy

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers

from service.encoder import Encoder
from tests.training.pretrained_fixtures import saved_run
from tests.training.word_fixtures import BERT, small_encoder, word_tokenizer
from training.embedders import (
    BundleEmbedder,
    EmbedderInvalid,
    TorchEmbedder,
    batches,
    open_embedder,
)
from training.pretrained import Pretrained, save_pretrained
from training.vocabulary import Pieces

TEXTS = ["the river rises", "a", "весной река поднимается и опускается", "the river rises"]


@pytest.fixture(scope="module")
def pretrained():
    """A random encoder of two layers over single characters, with prompts."""
    letters, cut = " abcdefghijklmnopqrstuvwxyz", pre_tokenizers.Split("", "isolated")
    pieces = Pieces.of(word_tokenizer(letters, special=BERT[:4], cut=cut), 24)
    shape = {"max_position_embeddings": 24, "initializer_range": 0.5}
    return Pretrained(
        encoder=small_encoder(pieces.size, dropout=0.1, **shape).eval(),
        pieces=pieces,
        prompts={"query": "q ", "passage": ""},
        max_tokens=24,
        name="tiny",
    )


@pytest.fixture
def folder(pretrained, tmp_path):
    save_pretrained(tmp_path / "model", pretrained)
    return tmp_path / "model"


def test_batches_fit_the_budget_and_begin_with_the_longest():
    found = list(batches([3, 9, 2, 3, 1], batch_tokens=9))
    assert found == [[1], [0, 3, 2], [4]]
    assert list(batches([100], batch_tokens=9)) == [[0]]
    assert list(batches([])) == []


def test_a_bundle_gives_what_the_service_gives(tiny_bundle):
    embedder = open_embedder(str(tiny_bundle.folder), precision="int8")
    assert isinstance(embedder, BundleEmbedder)
    assert embedder.name == "tiny/1"
    assert embedder.facts["space"] == tiny_bundle.manifest.space["int8"]
    encoder = Encoder.open(tiny_bundle, precision="int8", threads=1)
    for role in ("query", "passage"):
        expected = [encoder.infer(encoder.tokenize([text], role))[0] for text in TEXTS]
        assert embedder(TEXTS, role) == pytest.approx(np.stack(expected), abs=1e-6)
    embedder.close()
    encoder.close()


def test_a_precision_that_a_bundle_lacks_is_refused(tiny_bundle):
    with pytest.raises(EmbedderInvalid, match="has only fp32, int8"):
        open_embedder(str(tiny_bundle.folder), precision="fp16")
    with pytest.raises(EmbedderInvalid, match="precision bf16: a bundle may have fp32, fp16, int8"):
        open_embedder(str(tiny_bundle.folder), precision="bf16")


def test_a_text_that_a_bundle_cannot_embed_is_an_error_that_names_the_bundle(tiny_bundle):
    embedder = open_embedder(str(tiny_bundle.folder))
    with pytest.raises(EmbedderInvalid, match="tiny/1: the text holds a NUL"):
        embedder(["a\0b"], "query")
    embedder.close()


def test_a_folder_gives_each_texts_own_vector_whatever_it_is_batched_with(pretrained, folder):
    embedder = open_embedder(str(folder))
    found = embedder(TEXTS, "query")
    assert found.shape == (4, 32)
    assert found.dtype == np.float32
    for text, vector in zip(TEXTS, found, strict=True):
        ids = torch.tensor(np.stack(pretrained.pieces.encode([f"q {text}"])), dtype=torch.long)
        with torch.inference_mode():
            alone = pretrained.encoder.pooled(ids, torch.ones_like(ids))[0].numpy()
        assert vector == pytest.approx(alone / np.linalg.norm(alone), abs=1e-5)


def test_the_prompt_of_a_role_is_used(folder):
    embedder = open_embedder(str(folder))
    assert np.abs(embedder(["abc"], "query") - embedder(["abc"], "passage")).max() > 0.01
    assert embedder(["q abc"], "passage") == pytest.approx(embedder(["abc"], "query"), abs=1e-6)
    assert embedder.facts["prompts"] == {"query": "q ", "passage": ""}


def test_lower_precision_is_near(folder):
    full = open_embedder(str(folder))(TEXTS, "passage")
    half = open_embedder(str(folder), precision="bf16")
    assert half.facts["precision"] == "bfloat16"
    cosines = (half(TEXTS, "passage") * full).sum(axis=1)
    assert (cosines > 0.99).all()
    assert (cosines < 1 - 1e-7).any()


def test_an_encoder_in_training_stays_in_training_but_embeds_without_dropout(pretrained):
    embedder = TorchEmbedder(pretrained)
    pretrained.encoder.train()
    first = embedder(TEXTS, "passage")
    assert (embedder(TEXTS, "passage") == first).all()
    assert pretrained.encoder.training
    pretrained.encoder.eval()
    embedder.close()


def test_a_run_gives_its_last_or_its_best_checkpoint(pretrained, tmp_path):
    halved = copy.deepcopy(pretrained.encoder)
    halved.load_state_dict({k: v * 0.5 for k, v in pretrained.encoder.state_dict().items()})
    recipe = {"name": "toy", "version": "2", "licence": "CC0-1.0"}
    saved_run(tmp_path, pretrained, recipe, last=pretrained.encoder, best=halved)
    last = open_embedder(str(tmp_path), weights="last")
    assert (last.name, last.facts["weights"]) == ("toy@2", "last")
    assert last(TEXTS, "query") == pytest.approx(
        TorchEmbedder(pretrained)(TEXTS, "query"), abs=1e-6
    )
    best = open_embedder(str(tmp_path))
    assert best.facts["weights"] == "best"
    assert np.abs(best(TEXTS, "query") - last(TEXTS, "query")).max() > 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "precision int8: torch has fp32, bf16, fp16"),
        ({"api_key": "k"}, "no use for --api-key"),
        ({"weights": "best"}, "no use for --weights"),
    ],
)
def test_an_option_that_a_folder_has_no_use_for_is_refused(folder, options, message):
    with pytest.raises(EmbedderInvalid, match=message):
        open_embedder(str(folder), **options)


def test_an_option_that_another_kind_has_no_use_for_is_refused(tiny_bundle):
    with pytest.raises(EmbedderInvalid, match="no use for --pooling"):
        open_embedder(str(tiny_bundle.folder), pooling="mean")
    with pytest.raises(EmbedderInvalid, match="no use for --precision"):
        open_embedder("http://127.0.0.1:1", precision="fp32")


def test_words_are_embedded_without_a_prompt(pretrained):
    embedder = TorchEmbedder(pretrained)
    words = ["river", "a"]
    np.testing.assert_array_equal(embedder.alone(words), embedder(words, "passage"))
    assert np.abs(embedder.alone(words) - embedder(words, "query")).max() > 1e-3


def test_static_vectors_are_the_mean_of_the_pieces_input_embeddings(pretrained):
    embedder = TorchEmbedder(pretrained)
    table = pretrained.encoder.backbone.embeddings.word_embeddings.weight.detach().numpy()
    mean = table[[pretrained.pieces.tokenizer.token_to_id(letter) for letter in "abb"]].mean(axis=0)
    found = embedder.static(["abb", "bab", "", "c"])
    np.testing.assert_allclose(found[0], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)
    assert not found[2].any()
    np.testing.assert_allclose(np.linalg.norm(found[[0, 1, 3]], axis=1), 1, atol=1e-6)


def test_contextual_vectors_are_the_mean_of_a_words_states_whatever_stands_in_the_batch(pretrained):
    pretrained.encoder.train()
    embedder = TorchEmbedder(pretrained)
    sentences = [["ab", "c"], ["the", "river", "rises"], ["a"] * 12 + ["bbbbbbbbbbbb"] * 2] * 12
    found = list(embedder.contextual(sentences))
    assert pretrained.encoder.training
    pretrained.encoder.eval()
    assert [len(one) for one in found] == [2, 3, 14] * 12
    encoding = pretrained.pieces.tokenizer.encode("abc")
    ids = torch.tensor([encoding.ids])
    with torch.no_grad():
        states = pretrained.encoder.backbone(input_ids=ids).last_hidden_state[0].numpy()
    mean = states[1:3].mean(axis=0)
    np.testing.assert_allclose(found[0][0], mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(found[33], found[0], atol=1e-5)
    assert found[2][12].any()  # cut within the word
    assert not found[2][13].any()  # beyond the limit of 24
