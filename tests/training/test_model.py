import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import (
    DistilBertConfig,
    DistilBertModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from tests.training.word_fixtures import small_encoder, word_tokenizer
from training.batch import View
from training.config.recipe import Backbone
from training.model import DeviceMissing, SentenceEncoder, choose_device, embed, new_student

TEXTS = ["red cat sleeps", "old", "blue horse waits in the river with a green bird", ""]
IDS, MASK = torch.tensor([[5, 6, 7, 8], [9, 4, 1, 1]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 30}


def bert() -> PreTrainedModel:
    return small_encoder(30, hidden=16, initializer_range=0.3, dropout=0.1).backbone


def family(name: str):
    torch.manual_seed(0)
    match name:
        case "bert":
            return bert()
        case "xlm-roberta":
            shape = XLMRobertaConfig(**SIZES, intermediate_size=24, max_position_embeddings=40)
            return XLMRobertaModel(shape, add_pooling_layer=False)
        case "distilbert":
            sizes = {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2, "vocab_size": 30}
            return DistilBertModel(DistilBertConfig(**sizes))
        case _:
            special = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
            special |= {"cls_token_id": 2, "sep_token_id": 3}
            return ModernBertModel(ModernBertConfig(**SIZES, **special, intermediate_size=24))


@pytest.fixture
def tokenizer() -> Tokenizer:
    return word_tokenizer(
        ["red", "cat", "sleeps", "old", "blue", "horse", "waits", "in", "the", "river"]
    )


def test_vectors_are_of_unit_length_and_in_the_order_of_the_texts(tokenizer):
    model, texts = SentenceEncoder(bert()).eval(), TEXTS[:3]
    told = []
    together = embed(model, tokenizer, texts, padding_id=0, batch_tokens=1, progress=told.append)
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-5)
    assert sum(told) == len(texts)
    batched = embed(model, tokenizer, texts, padding_id=0)
    for number, text in enumerate(texts):
        alone = embed(model, tokenizer, [text], padding_id=0)[0]
        assert np.abs(alone - batched[number]).max() < 1e-5
        assert np.abs(alone - together[number]).max() < 1e-5


def test_no_texts_are_refused(tokenizer):
    with pytest.raises(ValueError, match="no text"):
        embed(SentenceEncoder(bert()), tokenizer, [], padding_id=0)


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "distilbert", "modernbert"])
def test_every_family_says_what_is_asked_for_and_no_more(name):
    model = SentenceEncoder(family(name)).eval()
    assert (model.width, model.layers) == (16, 2)
    view = View(IDS, MASK)
    with torch.no_grad():
        plain = model.encode(view, {"pooled"})
        full = model.encode(view, {"pooled", "first", "last", "embedded", "attention:1"})
    assert plain.first is plain.last is plain.embedded is plain.attention is None
    assert torch.allclose(plain.pooled, full.pooled, atol=1e-5)  # the slow kernel says the same
    assert full.first.shape == full.last.shape == full.embedded.shape == (2, 4, 16)
    assert not torch.allclose(full.first, full.last)
    assert full.attention.shape == (2, 2, 4, 4)
    assert torch.allclose(full.attention[0].sum(-1), torch.ones(2, 4), atol=1e-5)
    assert full.attention[1, :, :2, 2:].abs().max() < 1e-6  # nobody looks at padding
    assert torch.allclose(full.pooled[1], full.last[1, :2].mean(0), atol=1e-5)


def test_the_first_vector_is_taken_where_the_model_is_pooled_so():
    model = SentenceEncoder(bert(), pooling="cls").eval()
    found = model.encode(View(IDS, MASK), {"pooled", "last"})
    assert torch.equal(found.pooled, found.last[:, 0])


def test_noise_is_added_to_what_the_embedding_layer_puts_out():
    model = SentenceEncoder(bert()).eval()
    noise = torch.randn(2, 4, 16)
    quiet = model.encode(View(IDS, MASK), {"pooled", "embedded"})
    loud = model.encode(View(IDS, MASK, {"noise": noise}), {"pooled", "embedded"})
    assert torch.allclose(loud.embedded, quiet.embedded + noise)
    assert not torch.allclose(loud.pooled, quiet.pooled)
    again = model.encode(View(IDS, MASK), {"pooled"})
    assert torch.equal(again.pooled, quiet.pooled)


def test_a_new_student_hands_its_embeddings_through():
    shape = Backbone(hidden=8, layers=2, heads=2, feed_forward=8, max_tokens=8, dropout=0)
    student = new_student(shape, vocabulary_size=20, padding_id=1).eval()
    found = student.encode(View(IDS, MASK), {"embedded", "last"})
    assert torch.allclose(found.last, found.embedded, atol=1e-4)


def test_without_the_body_the_embeddings_are_pooled_as_they_are():
    shape = Backbone(hidden=8, layers=1, heads=2, feed_forward=8, max_tokens=8, dropout=0)
    student = new_student(shape, vocabulary_size=20, padding_id=0)
    student.body = False
    student(IDS, MASK).sum().backward()
    moved = {name for name, p in student.named_parameters() if p.grad is not None}
    assert moved
    assert all(".embeddings." in name for name in moved)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_asked_for_and_not_there_is_an_error():
    assert choose_device("auto").type == "cpu"
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(DeviceMissing, match="cuda"):
        choose_device("cuda")
