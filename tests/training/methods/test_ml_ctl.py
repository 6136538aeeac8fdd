import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from tests.training.word_fixtures import corpus_of, letter_pieces, small_encoder, texts_of
from training.batch import Batch, Facts, Outputs, View
from training.config.batches import Words
from training.config.methods import MlCtl
from training.losses import cz
from training.methods.ml_ctl import MlCtlMethod
from training.objective import Objective, Weighted
from training.word_views import WordViews

EYE = torch.eye(2)
TILTED = torch.tensor([[0.8, 0.6], [0.6, 0.8]])
SIZE = 40


def method_of(encoder=None, **settings):
    encoder = encoder or small_encoder(SIZE, hidden=4)
    torch.manual_seed(0)
    return MlCtlMethod(MlCtl(method="ml_ctl", **{"mlm_weight": 0.0, **settings}), encoder, None)


def facts_of(size, **keys):
    plain = torch.arange(size)
    keys = {"source": plain, "target": plain + size, **keys}
    return Facts(groups=keys, keys=keys)


def spans_of(size, source=None, target=None):
    same = torch.tensor([[1.0, 2.0]]).expand(size, 2)
    return {
        "source_span": same if source is None else torch.as_tensor(source),
        "target_span": same if target is None else torch.as_tensor(target),
    }


def contrast(source, target, facts=None, spans=None, **settings):
    rows = {"source": source, "target": target, **(spans or spans_of(len(source)))}
    method = method_of(**settings)
    return method.loss(rows, facts or facts_of(len(source)))["contrast"]


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({"temperature": 1.0, "anchors": "first"}, 0.237488),
        ({"temperature": 1.0}, 0.463374),
        ({"temperature": 1.0, "contrast": "info_nce"}, 0.957474),
        ({"temperature": 0.07, "anchors": "first"}, -2.856953),
        ({"temperature": 0.07}, -0.282708),
        ({"temperature": 0.07, "contrast": "info_nce"}, 1.221856),
    ],
)
def test_values_are_those_done_by_hand(settings, value) -> None:
    assert contrast(EYE, TILTED, **settings).item() == pytest.approx(value, abs=2e-5)


def test_the_second_language_alone_is_the_one_done_by_hand() -> None:
    both, first = (
        contrast(EYE, TILTED, temperature=1.0),
        contrast(EYE, TILTED, temperature=1.0, anchors="first"),
    )
    assert (2 * both - first).item() == pytest.approx(0.689260, abs=1e-5)


@examples(deadline=None)
@given(st.integers(2, 5), st.integers(0, 1000))
def test_info_nce_is_the_softplus_of_cz_and_its_gradient_is_scaled_by_the_sigmoid(
    size, seed
) -> None:
    torch.manual_seed(seed)
    negatives = torch.randn(size, 6, dtype=torch.float32, requires_grad=True)
    positive = torch.randn(size, requires_grad=True)
    value = cz(negatives, positive)
    info = -F.log_softmax(torch.cat([positive[:, None], negatives], 1), 1)[:, 0]
    assert torch.allclose(F.softplus(value), info, atol=1e-5)
    plain = torch.autograd.grad(value.sum(), [negatives, positive], retain_graph=True)
    scaled = torch.autograd.grad(info.sum(), [negatives, positive])
    ratio = torch.sigmoid(value.detach())
    assert torch.allclose(scaled[0], plain[0] * ratio[:, None], atol=1e-5)
    assert torch.allclose(scaled[1], plain[1] * ratio, atol=1e-5)


def test_cz_has_a_gradient_where_info_nce_has_none_in_single_precision() -> None:
    # One negative, 17 below the positive.
    positive = torch.tensor([17.0], requires_grad=True)
    negative = torch.tensor([[0.0]], requires_grad=True)
    info = F.cross_entropy(torch.cat([positive[:, None], negative], 1), torch.tensor([0]))
    lost = torch.autograd.grad(info, [positive, negative])
    assert info.item() == 0.0
    assert lost[0].item() == 0.0
    assert lost[1].item() == pytest.approx(4e-8, rel=0.1)
    kept = torch.autograd.grad(cz(negative, positive).sum(), [positive, negative])
    assert [gradient.item() for gradient in kept] == pytest.approx([-1.0, 1.0])


def test_there_are_two_negatives_for_every_other_row_and_none_is_the_anchor() -> None:
    # All vectors alike: CZ is the logarithm of the number of negatives.
    same = torch.ones(5, 3)
    assert contrast(same, same).item() == pytest.approx(math.log(8), abs=1e-5)


def test_vectors_may_be_scaled_and_rows_reordered() -> None:
    torch.manual_seed(1)
    source, target = torch.randn(4, 3), torch.randn(4, 3)
    value = contrast(source, target)
    assert contrast(source * 7, target * torch.rand(4, 1)).item() == pytest.approx(
        value.item(), abs=1e-4
    )
    order = torch.tensor([2, 0, 3, 1])
    assert contrast(source[order], target[order]).item() == pytest.approx(value.item(), abs=1e-4)


def test_the_same_word_of_the_same_sentence_is_no_negative_but_another_word_is() -> None:
    torch.manual_seed(2)
    source, target = torch.randn(3, 4), torch.randn(3, 4)
    doubled = torch.tensor([5, 5, 6])
    other_words = spans_of(3, source=[[1.0, 2.0], [4.0, 4.0], [1.0, 2.0]])
    plain = contrast(source, target)
    facts = facts_of(3, source=doubled)
    assert contrast(source, target, facts, other_words).item() == plain.item()
    merged = contrast(source, target, facts)
    assert merged.item() != plain.item()
    # By hand: rows 0 and 1 have only row 2's two texts as negatives, row 2 has four.
    unit = [F.normalize(side, dim=-1) for side in (source, target)]
    values = []
    for anchor, other in (unit, unit[::-1]):
        for row, negatives in ((0, [2]), (1, [2]), (2, [0, 1])):
            scores = torch.cat([other[negatives], anchor[negatives]]) @ anchor[row] / 0.07
            values.append(torch.logsumexp(scores, 0) - other[row] @ anchor[row] / 0.07)
    assert merged.item() == pytest.approx(torch.stack(values).mean().item(), abs=1e-4)
    # The same target sentence and word separates rows no less.
    assert contrast(source, target, facts_of(3, target=doubled)).item() == merged.item()


def test_without_words_the_same_sentence_is_no_negative_wherever_the_word_is() -> None:
    torch.manual_seed(2)
    source, target = torch.randn(3, 4), torch.randn(3, 4)
    rows = {"source": source, "target": target}
    facts = facts_of(3, source=torch.tensor([5, 5, 6]))
    alone = method_of(level="sentence").loss(rows, facts)["contrast"]
    assert alone.item() == contrast(source, target, facts).item()


def test_rows_without_any_negative_are_left_out_and_a_batch_of_them_is_refused() -> None:
    alike = facts_of(2, source=torch.tensor([5, 5]))
    with pytest.raises(ValueError, match="all 2 rows of the batch mark the same word"):
        contrast(EYE, TILTED, alike)
    with pytest.raises(ValueError, match=r"1 row in the batch.*at least 2"):
        contrast(EYE[:1], TILTED[:1])


def stub_rows(method, states):
    """Rows of a method whose projection passes everything on, for states [rows, length, width]."""
    method._project = torch.nn.Identity()
    mask = torch.tensor([[1, 1, 1, 1, 0]])
    output = Outputs(mask, first=states, last=2 * states)
    view = View(mask, mask, {"span": torch.tensor([[1, 2]])})
    found = method.rows({"source": output, "target": output}, {"source": view, "target": view})
    return found["source"][0]


def test_a_vector_is_the_sentences_mean_and_the_words_mean_of_first_and_last_layer() -> None:
    states = torch.arange(10.0).view(1, 5, 2)
    sentence, word = states[0, :4].mean(0) * 3, states[0, 1:3].mean(0) * 3
    assert torch.allclose(stub_rows(method_of(), states), torch.cat([sentence, word]))
    alone = method_of(level="sentence")
    assert torch.allclose(stub_rows(alone, states), sentence)


def test_a_piece_outside_the_word_changes_the_sentence_and_not_the_word() -> None:
    states = torch.randn(1, 5, 2)
    changed = states.clone()
    changed[0, 3] += 1.0
    before, after = stub_rows(method_of(), states), stub_rows(method_of(), changed)
    assert not torch.equal(before[:2], after[:2])
    assert torch.equal(before[2:], after[2:])
    padding = states.clone()
    padding[0, 4] += 1.0
    assert torch.equal(stub_rows(method_of(), padding), before)


def test_the_projection_is_as_wide_as_what_it_reads() -> None:
    encoder = small_encoder(SIZE, hidden=8)
    assert method_of(encoder)._project[0].weight.shape == (16, 16)
    assert method_of(encoder, level="sentence")._project[2].weight.shape == (8, 8)
    assert set(method_of(encoder).head.keys()) == {"project"}
    assert set(method_of(encoder, mlm_weight=0.1).head.keys()) == {"project", "mlm"}


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({}, {"source": {"first", "last"}, "target": {"first", "last"}}),
        ({"mask_views": True}, {"masked_source": {"first", "last"}, "masked_target": {"first", "last"}}),
        (
            {"mlm_weight": 0.1},
            {
                "source": {"first", "last"}, "target": {"first", "last"},
                "masked_source": {"last"}, "masked_target": {"last"},
            },
        ),
        (
            {"mlm_weight": 0.1, "mask_views": True},
            {"masked_source": {"first", "last"}, "masked_target": {"first", "last"}},
        ),
    ],
)  # fmt: skip
def test_only_what_is_read_is_asked_for(settings, needed) -> None:
    views = frozenset({"source", "target", "masked_source", "masked_target"})
    assert method_of(**settings).needs(views) == needed
    with pytest.raises(ValueError, match="ml_ctl: the batch has no"):
        method_of(**settings).needs(frozenset({"query"}))


def test_the_masked_lm_term_is_the_mean_of_both_languages() -> None:
    rows = {
        "source": EYE, "target": TILTED, **spans_of(2),
        "source_mlm": torch.tensor([3.0, 1.0]), "source_count": torch.tensor([1.0, 1.0]),
        "target_mlm": torch.tensor([8.0, 0.0]), "target_count": torch.tensor([2.0, 0.0]),
    }  # fmt: skip
    parts = method_of(mlm_weight=0.5).loss(rows, facts_of(2))
    assert parts["mlm"].item() == pytest.approx(0.5 * (2.0 + 4.0) / 2)


# Through the tokenizer, the encoder and the step of training.

GROUPS = [
    ("ab c de", "fg hi jk"),
    ("lm no", "pq rs"),
    ("tu vw", "xy za"),
    ("bb cc", "dd ee"),
    ("f g", "h i"),
]
LINKS = {(row, "en", "xx"): ((0, 1), (1, 0)) for row in range(len(GROUPS))}


def trained(settings, *, cache=None, seed=0):
    corpus, pieces = corpus_of(["en", "xx"], GROUPS, links=LINKS), letter_pieces()
    encoder = small_encoder(pieces.size, dropout=0.0)
    feed = Words(kind="words", data=("pairs",), aligner={"kind": "given"}, stop_words=0)
    views = WordViews(corpus, pieces, feed, [settings], encoder=encoder, data_folder=Path())
    source, target = texts_of(corpus, 0), texts_of(corpus, 1)
    built = views.build(source, target, np.random.default_rng(seed))
    keys = {"source": torch.from_numpy(source), "target": torch.from_numpy(target)}
    method = MlCtlMethod(settings, encoder, pieces)
    objective = Objective(encoder, [Weighted("ml_ctl", method)], cache_rows=cache)
    parts = objective.backward(Batch("words", built, Facts(groups=keys, keys=keys)))
    named = [*encoder.named_parameters(), *method.head.named_parameters()]
    return parts, {name: p.grad for name, p in named if p.grad is not None}, named


@pytest.mark.parametrize("cache", [1, 2, 3, 4])
@pytest.mark.parametrize("masked", [True, False])
def test_chunks_of_any_size_give_the_value_and_gradient_of_the_whole_batch(cache, masked) -> None:
    settings = MlCtl(method="ml_ctl", mlm_weight=0.3, mask_views=masked)
    torch.manual_seed(4)
    parts, gradients, _ = trained(settings)
    torch.manual_seed(4)
    again, cached, _ = trained(settings, cache=cache)
    for name, part in parts.items():
        assert torch.allclose(part, again[name], atol=1e-5)
    assert gradients.keys() == cached.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, cached[name], atol=1e-4)


def test_the_gradient_reaches_the_body_the_projection_and_the_head() -> None:
    parts, gradients, named = trained(MlCtl(method="ml_ctl"))
    assert set(parts) == {"ml_ctl_contrast", "ml_ctl_mlm", "loss"}
    assert {name for name, _ in named} == set(gradients)
    plain, without, _ = trained(MlCtl(method="ml_ctl", mlm_weight=0.0))
    assert "ml_ctl_mlm" not in plain
    assert not any(name.startswith("mlm") for name in without)
    assert all(without[name].abs().sum() > 0 for name in ("project.0.weight", "project.2.bias"))


def test_masked_views_are_contrasted_as_they_are_masked() -> None:
    clean, _, _ = trained(MlCtl(method="ml_ctl", mlm_weight=0.0))
    masked, _, _ = trained(MlCtl(method="ml_ctl", mlm_weight=0.0, mask_views=True, mask_rate=0.9))
    assert clean["loss"].item() != masked["loss"].item()
    nothing, _, _ = trained(MlCtl(method="ml_ctl", mlm_weight=0.0, mask_views=True, mask_rate=0.0))
    assert math.isfinite(nothing["loss"].item())
