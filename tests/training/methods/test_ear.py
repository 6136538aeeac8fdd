"""EAR against hand-computed values, its identities, and where its gradients go."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.training.word_fixtures import BERT, small_encoder, word_tokenizer
from training.batch import Batch, Facts, Outputs, View
from training.config.methods import Ear, InfoNce
from training.methods.ear import EarMethod, embedding_distance, word_attention, word_units
from training.methods.info_nce import InfoNceMethod
from training.model import SentenceEncoder
from training.objective import Objective, Weighted
from training.vocabulary import Pieces

WIDTH, LAYERS, ROWS = 16, 3, 6
VIEWS = frozenset({"query", "positive", "perturbed_query", "perturbed_positive"})
START, END = 2, 3


def an_encoder(*, dropout: float = 0.0, layers: int = LAYERS) -> SentenceEncoder:
    shape = {"intermediate_size": 24, "max_position_embeddings": 32, "initializer_range": 0.3}
    return small_encoder(40, hidden=WIDTH, layers=layers, seed=11, dropout=dropout, **shape).train()


def some_pieces() -> Pieces:
    return Pieces.of(word_tokenizer([f"w{i}" for i in range(4, 40)], special=BERT[:4]), 32)


def a_method(encoder: SentenceEncoder, **settings: object) -> EarMethod:
    return EarMethod(Ear.model_validate({"method": "ear", **settings}), encoder, some_pieces())


def a_view(rows: list[list[int]], *, longer: int = 0) -> View:
    """Rows of pieces with the special ones around them, every piece a word of its own."""
    length = max(map(len, rows)) + 2 + longer
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    words = torch.full_like(ids, -1)
    for row, pieces in enumerate(rows):
        ids[row, : len(pieces) + 2] = torch.tensor([START, *pieces, END])
        words[row, 1 : len(pieces) + 1] = torch.arange(len(pieces))
    return View(ids, (ids != 0).long(), {"words": words})


def some_views(*, same: bool = False, longer: int = 0) -> dict[str, View]:
    """Texts of two to six pieces; in the copies one piece of every text is another one."""
    generator = torch.Generator().manual_seed(5)
    views: dict[str, View] = {}
    for name in ("query", "positive"):
        texts = [
            torch.randint(4, 30, (2 + row % 5,), generator=generator).tolist()
            for row in range(ROWS)
        ]
        copies = texts if same else [[39 - text[0] // 2, *text[1:]] for text in texts]
        views[name] = a_view(texts, longer=longer)
        views[f"perturbed_{name}"] = a_view(copies, longer=longer)
    return views


def some_facts(rows: int = ROWS) -> Facts:
    numbers = torch.arange(rows)
    return Facts(
        groups={"query": numbers, "positive": numbers},
        keys={"query": numbers, "positive": numbers + 100},
    )


def the_rows(
    method: EarMethod, encoder: SentenceEncoder, views: Mapping[str, View]
) -> dict[str, Tensor]:
    needs = method.needs(frozenset(views))
    return method.rows({name: encoder.encode(views[name], needs[name]) for name in needs}, views)


def the_parts(
    method: EarMethod, encoder: SentenceEncoder, views: Mapping[str, View]
) -> dict[str, Tensor]:
    return method.loss(the_rows(method, encoder, views), some_facts())


def reached(encoder: SentenceEncoder) -> set[str]:
    """The parameters with a gradient other than zero."""
    return {
        name
        for name, parameter in encoder.backbone.named_parameters()
        if parameter.grad is not None and bool(parameter.grad.abs().sum() > 1e-9)
    }


def test_the_embedding_distance_has_the_value_computed_by_hand() -> None:
    left = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [7.0, 7.0]]])
    right = torch.tensor([[[1.0, 2.0], [5.0, 4.0], [9.0, 9.0]]])
    found = embedding_distance(left, torch.tensor([[1, 1, 0]]), right, torch.tensor([[1, 1, 1]]))
    assert -found.mean().item() == pytest.approx(-6.5)


def outputs_by_hand(attention: list[list[float]], embedded: list[list[float]]) -> Outputs:
    pooled = torch.eye(2)[:1]
    return Outputs(
        mask=torch.ones(1, len(embedded), dtype=torch.int64),
        pooled=pooled,
        embedded=torch.tensor([embedded]),
        attention=torch.tensor([[attention]]),
    )


@pytest.mark.parametrize("strict", [False, True])
def test_the_parts_have_the_values_computed_by_hand(*, strict: bool) -> None:
    one = outputs_by_hand([[0.5, 0.5], [0.2, 0.8]], [[1.0, 2.0], [3.0, 4.0]])
    other = outputs_by_hand([[0.6, 0.4], [0.2, 0.8]], [[5.0, 5.0], [5.0, 5.0]])
    outputs = {
        "query": one, "positive": one, "perturbed_query": other, "perturbed_positive": other,
    }  # fmt: skip
    ids = torch.tensor([[5, 6]])
    views = {name: View(ids, torch.ones_like(ids)) for name in VIEWS}
    method = a_method(an_encoder(), alpha=0.1, beta=2.0, strict=strict)
    parts = method.loss(method.rows(outputs, views), some_facts(1))
    assert parts["push"].item() == pytest.approx(0.1 * -6.5)
    assert parts["pull"].item() == pytest.approx(2.0 * 0.005)
    assert parts["task"].item() == parts["robust"].item() == 0.0


def test_attention_between_words_sums_over_targets_and_averages_over_sources() -> None:
    # [CLS] and two words, of which the second has two pieces, against one piece in the other view
    attention = torch.tensor(
        [[[[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.0, 0.5, 0.5, 0.0], [0.2, 0.0, 0.0, 0.8]]]]
    )
    words = torch.tensor([[-1, 0, 1, 1]])
    units = word_units(words, torch.ones_like(words), specials=1, units=3)
    found = word_attention(attention, units)
    expected = torch.tensor([[[[0.1, 0.2, 0.7], [0.4, 0.3, 0.3], [0.1, 0.25, 0.65]]]])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(-1), torch.ones(1, 1, 3))


def test_another_number_of_pieces_costs_nothing_where_the_words_attend_alike() -> None:
    whole = torch.tensor([[[[0.2, 0.8], [0.6, 0.4]]]])
    split = torch.tensor([[[[0.2, 0.3, 0.5], [0.6, 0.1, 0.3], [0.6, 0.4, 0.0]]]])
    one = word_attention(
        whole, word_units(torch.tensor([[0, 1]]), torch.ones(1, 2), specials=0, units=2)
    )
    other = word_attention(
        split, word_units(torch.tensor([[0, 1, 1]]), torch.ones(1, 3), specials=0, units=2)
    )
    torch.testing.assert_close(one, other)


def test_special_pieces_are_compared_with_their_like_and_words_that_were_cut_with_nothing() -> None:
    encoder = an_encoder()
    method = a_method(encoder, alpha=0)
    views = some_views(same=True)
    short = [[7, 8], *[[9, 10]] * (ROWS - 1)]
    views["query"] = a_view([[*text, 11] for text in short])
    views["perturbed_query"] = a_view(short)
    rows = the_rows(method, encoder, views)
    heads, units = 2, 4  # [CLS], [SEP] and the two words that both have
    assert rows["pull_query_count"].tolist() == [heads * units**2] * ROWS


def test_identical_views_without_dropout_differ_in_nothing() -> None:
    encoder = an_encoder()
    for strict in (False, True):
        parts = the_parts(a_method(encoder, strict=strict), encoder, some_views(same=True))
        assert parts["push"].item() == 0.0
        assert parts["pull"].item() == 0.0
        assert parts["robust"].item() == parts["task"].item()


def test_the_task_is_info_nce_and_a_copy_is_no_candidate_of_the_original() -> None:
    encoder = an_encoder()
    views, facts = some_views(), some_facts()
    method = a_method(encoder, alpha=0, beta=0)
    rows = the_rows(method, encoder, views)
    parts = method.loss(rows, facts)
    plain = InfoNceMethod(InfoNce(method="info_nce"), encoder, some_pieces())
    originals = {name: rows[name] for name in ("query", "positive")}
    copies = {name: rows[f"perturbed_{name}"] for name in originals}
    torch.testing.assert_close(parts["task"], plain.loss(originals, facts)["nce"])
    torch.testing.assert_close(parts["robust"], plain.loss(copies, facts)["nce"])
    assert set(parts) == {"task", "robust"}


def test_hard_negatives_are_candidates_of_both_views() -> None:
    encoder = an_encoder()
    views = some_views()
    method = a_method(encoder, alpha=0, beta=0)
    without = the_parts(method, encoder, views)
    views["negative0"] = views["positive"]
    numbers = torch.arange(ROWS)
    known = some_facts()
    facts = Facts(
        {**known.groups, "negative0": numbers + 50}, {**known.keys, "negative0": numbers + 500}
    )
    found = method.loss(the_rows(method, encoder, views), facts)
    assert found["task"] > without["task"] + 0.1
    assert found["robust"] > without["robust"] + 0.01


def test_a_false_negative_counts_in_neither_view() -> None:
    encoder = an_encoder()
    method = a_method(encoder, alpha=0, beta=0)
    rows = the_rows(method, encoder, some_views())
    known = some_facts()
    same_text = Facts(known.groups, {**known.keys, "positive": torch.zeros(ROWS).long()})
    for facts in (same_text, Facts(dict.fromkeys(known.groups, torch.zeros(ROWS)), known.keys)):
        parts = method.loss(rows, facts)
        assert parts["task"].item() == parts["robust"].item() == 0.0


def test_nothing_is_asked_of_the_encoder_for_a_part_without_weight() -> None:
    encoder = an_encoder()
    everything = {"pooled", "embedded", "attention:1"}
    for settings, wanted in (
        ({}, everything),
        ({"alpha": 0}, everything - {"embedded"}),
        ({"beta": 0, "alpha": 0}, {"pooled"}),
    ):
        needs = a_method(encoder, **settings).needs(VIEWS | {"negative0"})
        assert {name: set(names) for name, names in needs.items()} == {
            **dict.fromkeys(VIEWS, wanted), "negative0": {"pooled"},
        }  # fmt: skip


def test_a_batch_without_perturbed_views_is_refused() -> None:
    with pytest.raises(ValueError, match="perturbed_positive, perturbed_query"):
        a_method(an_encoder()).needs(frozenset({"query", "positive"}))


def test_the_layer_is_the_middle_one_and_must_be_there() -> None:
    assert [a_method(an_encoder(layers=layers)).layer for layers in (1, 2, 3, 6, 12)] == [
        0,
        0,
        1,
        2,
        5,
    ]
    assert a_method(an_encoder(), layer=2).layer == 2
    with pytest.raises(ValueError, match="layer = 3, but the encoder has 3 layers"):
        a_method(an_encoder(), layer=3)


def test_pushing_reaches_the_embeddings_alone() -> None:
    encoder = an_encoder()
    torch.autograd.backward(the_parts(a_method(encoder), encoder, some_views())["push"])
    assert reached(encoder)
    assert {name.split(".")[0] for name in reached(encoder)} == {"embeddings"}


@pytest.mark.parametrize("strict", [False, True])
def test_pulling_reaches_nothing_above_its_layer(*, strict: bool) -> None:
    encoder = an_encoder()
    method = a_method(encoder, layer=1, strict=strict)
    torch.autograd.backward(the_parts(method, encoder, some_views())["pull"])
    layers = {name.split(".")[2] for name in reached(encoder) if name.startswith("encoder")}
    assert layers == {"0", "1"}
    inside = {name for name in reached(encoder) if name.startswith("encoder.layer.1.")}
    # Of its own layer only what makes the probabilities: not the values, not what follows.
    assert inside == {
        f"encoder.layer.1.attention.self.{name}"
        for name in ("query.weight", "query.bias", "key.weight")
    }
    assert any(name.startswith("embeddings") for name in reached(encoder))


def test_a_step_of_pushing_alone_raises_the_distance() -> None:
    encoder = an_encoder()
    method, views = a_method(encoder, alpha=1.0), some_views()
    before = the_parts(method, encoder, views)["push"]
    torch.autograd.backward(before)
    torch.optim.SGD(encoder.parameters(), lr=1.0).step()
    assert the_parts(method, encoder, views)["push"] < 1.02 * before


@pytest.mark.parametrize("strict", [False, True])
def test_a_step_of_pulling_alone_lowers_the_gap_in_attention(*, strict: bool) -> None:
    encoder = an_encoder()
    method, views = a_method(encoder, strict=strict), some_views()
    before = the_parts(method, encoder, views)["pull"]
    torch.autograd.backward(before)
    torch.optim.SGD(encoder.parameters(), lr=0.5).step()
    assert the_parts(method, encoder, views)["pull"] < before * 0.999


def test_beyond_the_bound_nothing_is_pushed() -> None:
    encoder = an_encoder()
    views = some_views()
    free = the_parts(a_method(encoder, alpha=1.0), encoder, views)["push"]
    assert free.item() < -0.01
    bounded = the_parts(a_method(encoder, alpha=1.0, push_bound=0.001), encoder, views)["push"]
    assert bounded.item() == pytest.approx(-0.001)
    torch.autograd.backward(bounded)
    assert not reached(encoder)
    loose = the_parts(a_method(encoder, alpha=1.0, push_bound=100.0), encoder, views)["push"]
    assert loose.item() == free.item()


@pytest.mark.parametrize("strict", [False, True])
def test_padding_changes_the_strict_comparison_alone(*, strict: bool) -> None:
    encoder = an_encoder()
    method = a_method(encoder, strict=strict)
    short, long = (the_parts(method, encoder, some_views(longer=longer)) for longer in (0, 9))
    for name in ("task", "robust", "push"):
        torch.testing.assert_close(long[name], short[name])
    if strict:
        assert long["pull"] < 0.8 * short["pull"]
    else:
        torch.testing.assert_close(long["pull"], short["pull"])


def test_words_that_are_pieces_compare_as_positions_do() -> None:
    encoder = an_encoder()
    method, views = a_method(encoder), some_views()
    bare = {name: replace(view, extra={}) for name, view in views.items()}
    torch.testing.assert_close(
        the_parts(method, encoder, views)["pull"], the_parts(method, encoder, bare)["pull"]
    )


def test_strictly_the_gap_is_the_mean_over_all_positions() -> None:
    encoder = an_encoder()
    method, views = a_method(encoder, strict=True, layer=0), some_views(longer=3)
    expected = []
    for name in ("query", "positive"):
        left, right = (
            encoder.encode(views[view], {"attention:0"}).attention
            for view in (name, f"perturbed_{name}")
        )
        assert left is not None
        assert right is not None
        expected.append((left - right).square().mean())
    torch.testing.assert_close(
        the_parts(method, encoder, views)["pull"], torch.stack(expected).mean()
    )


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("cache_rows", [1, 2, 4, 5, 6])
def test_with_a_gradient_cache_value_and_gradient_are_the_plain_ones(
    cache_rows: int, *, strict: bool
) -> None:
    found = {}
    for rows in (None, cache_rows):
        encoder = an_encoder(dropout=0.0)
        method = a_method(encoder, strict=strict)
        views = {name: replace(view, fixed=strict) for name, view in some_views().items()}
        batch = Batch("mono", views, some_facts())
        objective = Objective(encoder, [Weighted("ear", method)], cache_rows=rows)
        parts = objective.backward(batch)
        gradient = torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])
        found[rows] = parts, gradient
    (plain, plain_gradient), (cached, cached_gradient) = found[None], found[cache_rows]
    assert set(plain) == {"ear_task", "ear_robust", "ear_push", "ear_pull", "loss"}
    for name, part in plain.items():
        torch.testing.assert_close(cached[name], part, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(cached_gradient, plain_gradient, rtol=1e-4, atol=1e-6)


def test_attention_between_words_is_not_rounded_with_the_encoder() -> None:
    attention = torch.softmax(
        torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(0)), -1
    )
    words = torch.tensor([[-1, 0, 0, 1, 2, -1]] * 2)
    units = word_units(words, torch.ones(2, 6), specials=2, units=5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = word_attention(attention, units)
    assert found.dtype == torch.float32
    assert torch.equal(found, word_attention(attention, units))


def test_matryoshka_cuts_the_vectors_alone() -> None:
    encoder = an_encoder()
    objective = Objective(encoder, [Weighted("ear", a_method(encoder))], matryoshka=(4, WIDTH))
    parts = objective.value(Batch("mono", some_views(), some_facts()))
    assert parts["ear_task_4"] != parts[f"ear_task_{WIDTH}"]
    assert {"ear_push_4", "ear_pull_4"}.isdisjoint(parts)
