import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from tests.training.word_fixtures import small_encoder
from training.losses import NO_LABEL
from training.mlm import MlmHead, carry_head, embedding_table

SIZE = 40
SMALL = {"vocab_size": SIZE, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
MODELS = [
    BertForMaskedLM(BertConfig(**SMALL, intermediate_size=16, pad_token_id=0)),
    XLMRobertaForMaskedLM(XLMRobertaConfig(**SMALL, intermediate_size=16)),
    DistilBertForMaskedLM(
        DistilBertConfig(vocab_size=SIZE, dim=16, n_layers=1, n_heads=2, hidden_dim=16)
    ),
    ModernBertForMaskedLM(
        ModernBertConfig(
            **SMALL, intermediate_size=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            cls_token_id=1, sep_token_id=2,
        )
    ),
]  # fmt: skip


def saved(model, folder):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    return AutoModel.from_pretrained(folder)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_a_saved_head_scores_pieces_as_the_model_that_it_is_from(model, tmp_path) -> None:
    backbone = saved(model, tmp_path).eval()
    head = MlmHead.of(backbone)
    ids = torch.randint(3, SIZE, (2, 7))
    expected = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    states = backbone(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    assert head.pretrained
    assert torch.allclose(head(states, embedding_table(backbone)), expected, atol=1e-5)


def test_a_head_in_one_of_several_files_is_found(tmp_path) -> None:
    model = MODELS[0]
    model.save_pretrained(tmp_path, max_shard_size="2KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    head = MlmHead.of(AutoModel.from_pretrained(tmp_path))
    assert torch.equal(head.dense.weight, model.cls.predictions.transform.dense.weight)


def test_a_head_is_carried_to_an_encoder_that_is_saved_without_it(tmp_path) -> None:
    backbone = saved(MODELS[0], tmp_path / "start")
    backbone.save_pretrained(tmp_path / "run")
    assert not MlmHead.of(AutoModel.from_pretrained(tmp_path / "run")).pretrained
    carry_head(tmp_path / "start", tmp_path / "run")
    carried = MlmHead.of(AutoModel.from_pretrained(tmp_path / "run"))
    assert carried.pretrained
    known = MlmHead.of(backbone).state_dict()
    assert all(torch.equal(known[name], value) for name, value in carried.state_dict().items())


def test_models_without_a_head_get_a_fresh_one(tmp_path) -> None:
    encoder = small_encoder(SIZE)
    assert not MlmHead.of(encoder.backbone).pretrained
    encoder.backbone.save_pretrained(tmp_path)
    assert not MlmHead.of(AutoModel.from_pretrained(tmp_path)).pretrained


def test_a_head_of_an_unknown_layout_or_another_size_is_not_taken(tmp_path) -> None:
    backbone = saved(MODELS[0], tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "cls.predictions.transform.dense.weight"
    save_file({**weights, name: torch.zeros(3, 3)}, tmp_path / "model.safetensors")
    assert not MlmHead.of(backbone).pretrained
    kept = {key: value for key, value in weights.items() if key != name}
    save_file(kept, tmp_path / "model.safetensors")
    assert not MlmHead.of(backbone).pretrained
    (tmp_path / "model.safetensors").unlink()
    assert not MlmHead.of(backbone).pretrained


def test_a_fresh_head_is_tied_to_the_embeddings_and_does_not_own_them() -> None:
    encoder = small_encoder(SIZE)
    head = MlmHead.of(encoder.backbone)
    assert set(head.state_dict()) == {
        "bias", "dense.weight", "dense.bias", "norm.weight", "norm.bias",
    }  # fmt: skip
    table = embedding_table(encoder.backbone)
    head(torch.randn(3, 32), table).sum().backward()
    assert table.grad is not None
    assert table.grad.abs().sum() > 0


def test_cross_entropy_of_rows_is_the_one_over_all_positions() -> None:
    torch.manual_seed(0)
    head, table = MlmHead(8, 8, SIZE), torch.randn(SIZE, 8)
    states = torch.randn(3, 5, 8)
    labels = torch.tensor([[NO_LABEL, 4, NO_LABEL, 7, 1], [NO_LABEL] * 5, [3] + [NO_LABEL] * 4])
    each = torch.nn.functional.cross_entropy(
        head(states, table).transpose(1, 2), labels, ignore_index=NO_LABEL, reduction="none"
    ).sum(1)
    found = head.cross_entropy_rows(states, labels, table)
    assert torch.allclose(found, each, atol=1e-5)
    assert found[1] == 0


def test_only_predicted_positions_meet_the_vocabulary() -> None:
    seen = []
    head, table = MlmHead(8, 8, SIZE), torch.randn(SIZE, 8)
    head.register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape))
    labels = torch.full((4, 50), NO_LABEL)
    labels[1, 3] = labels[2, 7] = 5
    head.cross_entropy_rows(torch.randn(4, 50, 8), labels, table)
    assert seen == [(2, SIZE)]
    assert head.cross_entropy_rows(torch.randn(1, 3, 8), labels[:1, :3], table).tolist() == [0.0]
