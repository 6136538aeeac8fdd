from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from tests.training.word_fixtures import small_encoder
from training.batch import Batch, Facts, Outputs, View
from training.config.methods import Clear, InfoNce
from training.losses import nce
from training.methods.clear import ClearMethod
from training.methods.info_nce import InfoNceMethod
from training.model import SentenceEncoder
from training.objective import Objective, Weighted

ROWS = 7
WIDTH = 16
LENGTHS = [3, 8, 5, 4, 8, 3, 6]


def encoder(*, dropout: float = 0.0) -> SentenceEncoder:
    return small_encoder(40, hidden=WIDTH, seed=1, dropout=dropout, initializer_range=0.3).train()


def view(seed: int) -> View:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.tensor([[1] * length + [0] * (8 - length) for length in LENGTHS])
    ids = torch.randint(4, 40, (ROWS, 8), generator=generator) * mask
    return View(ids, mask)


def batch(*names: str) -> Batch:
    own = torch.arange(ROWS)
    views = {name: view(seed) for seed, name in enumerate(names)}
    groups = {name: own + 100 if "negative" in name else own for name in names}
    return Batch("toy", views, Facts(groups, groups))


PAIRS = ("query", "positive", "negative0")
BRIDGED = (*PAIRS, "cross_query", "cross_negative0")


class Spread:
    """A loss of positions: how far the states of a row are from nothing, by a head of its own."""

    def __init__(self) -> None:
        torch.manual_seed(2)
        self.head: nn.Module = nn.Linear(WIDTH, 1)
        self.vectors: frozenset[str] = frozenset()

    def needs(self, views: frozenset[str]) -> Mapping[str, frozenset[str]]:
        return {"query": frozenset({"last"})}

    def rows(self, outputs: Mapping[str, Outputs], views: Mapping[str, View]) -> dict[str, Tensor]:
        states, mask = outputs["query"].last, outputs["query"].mask
        assert states is not None
        return {"sum": (self.head(states).squeeze(-1) ** 2 * mask).sum(1), "count": mask.sum(1)}

    def loss(self, rows: Mapping[str, Tensor], facts: Facts) -> dict[str, Tensor]:
        return {"spread": rows["sum"].sum() / rows["count"].sum()}


def all_methods(body: SentenceEncoder) -> list[Weighted]:
    contrast = InfoNce(method="info_nce", symmetric=True)
    return [
        Weighted("info_nce", InfoNceMethod(contrast, body, None), 0.5),
        Weighted("clear", ClearMethod(Clear(method="clear"), body, None), 2.0),
        Weighted("spread", Spread()),
    ]


def gradients(objective: Objective, rows: Batch, **options: float) -> tuple[dict, dict]:
    modules = [objective.encoder, *(weighted.method.head for weighted in objective.methods)]
    for module in modules:
        module.zero_grad()
    parts = objective.backward(rows, **options)
    found = {
        f"{place}.{name}": parameter.grad.clone()
        for place, module in enumerate(modules)
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }
    return parts, found


def assert_same(one: tuple[dict, dict], other: tuple[dict, dict], *, within: float = 1e-5) -> None:
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for name, value in left.items():
            assert torch.allclose(value, right[name], atol=within, rtol=within), name


@settings(max_examples=12, deadline=None)
@given(size=st.integers(1, ROWS + 2))
def test_a_gradient_cache_changes_neither_value_nor_gradient(size):
    body = encoder()
    plain = Objective(body, all_methods(body))
    assert_same(
        gradients(plain, batch(*BRIDGED)),
        gradients(replace(plain, cache_rows=size), batch(*BRIDGED)),
    )


@settings(max_examples=6, deadline=None)
@given(size=st.integers(1, ROWS))
def test_a_gradient_cache_is_right_with_matryoshka_too(size):
    body = encoder()
    plain = Objective(body, all_methods(body), matryoshka=(4, WIDTH, 8))
    assert_same(
        gradients(plain, batch(*BRIDGED)),
        gradients(replace(plain, cache_rows=size), batch(*BRIDGED)),
    )


@settings(max_examples=6, deadline=None)
@given(size=st.integers(1, ROWS - 1))
def test_with_dropout_the_second_pass_draws_what_the_first_one_drew(size):
    """The reference keeps the graphs of all chunks, encoded in the same order."""
    body = encoder(dropout=0.3)
    objective = Objective(
        body, [Weighted("info_nce", InfoNceMethod(InfoNce(method="info_nce"), body, None))]
    )
    rows = batch("query", "positive")
    torch.manual_seed(5)
    cached = gradients(replace(objective, cache_rows=size), rows)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    body.zero_grad()
    chunks = [slice(start, min(start + size, ROWS)) for start in range(0, ROWS, size)]
    pooled: dict[str, list[Tensor]] = {"query": [], "positive": []}
    for chunk in chunks:
        for name, part in pooled.items():
            found = body.encode(rows.views[name].part(chunk), {"pooled"}).pooled
            assert found is not None
            part.append(found)
    assert torch.equal(torch.get_rng_state(), after)  # the second pass leaves no trace
    query, positive = (F.normalize(torch.cat(pooled[name]), dim=-1) for name in pooled)
    loss = F.cross_entropy(query @ positive.T / 0.05, torch.arange(ROWS))
    loss.backward()
    assert cached[0]["loss"] == pytest.approx(float(loss.detach()), abs=1e-5)
    for name, parameter in body.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(parameter.grad, cached[1][f"0.{name}"], atol=1e-5), name


def test_the_loss_is_the_weighted_sum_of_its_parts():
    body = encoder()
    parts, _ = gradients(Objective(body, all_methods(body)), batch(*BRIDGED))
    named = {"info_nce_nce", "clear_forward", "clear_reverse", "clear_kl", "spread_spread", "loss"}
    assert parts.keys() == named
    assert float(parts["loss"]) == pytest.approx(
        sum(float(value) for name, value in parts.items() if name != "loss"), abs=1e-5
    )
    heavier = [replace(weighted, weight=2 * weighted.weight) for weighted in all_methods(body)]
    doubled, _ = gradients(Objective(body, heavier), batch(*BRIDGED))
    assert float(doubled["clear_kl"]) == pytest.approx(2 * float(parts["clear_kl"]), abs=1e-6)


def test_the_value_alone_is_that_of_the_step_and_moves_nothing():
    body = encoder()
    objective = Objective(body, all_methods(body), matryoshka=(WIDTH, 4), cache_rows=3)
    parts, _ = gradients(objective, batch(*BRIDGED))
    body.zero_grad()
    value = objective.value(batch(*BRIDGED))
    assert value.keys() == parts.keys()
    assert all(torch.allclose(value[name], parts[name], atol=1e-5) for name in parts)
    assert all(parameter.grad is None for parameter in body.parameters())


def test_the_scale_multiplies_the_gradient_and_not_the_parts():
    body = encoder()
    objective = Objective(body, all_methods(body))
    parts, found = gradients(objective, batch(*BRIDGED))
    same, quarter = gradients(objective, batch(*BRIDGED), scale=0.25)
    assert torch.equal(parts["loss"], same["loss"])
    assert all(torch.allclose(found[name], 4 * quarter[name], atol=1e-5) for name in found)


def test_matryoshka_takes_the_losses_on_vectors_at_every_width_and_the_others_once():
    body = encoder()
    objective = Objective(body, all_methods(body), matryoshka=(WIDTH, 4))
    parts = objective.value(batch(*BRIDGED))
    assert {name for name in parts if name.startswith("spread")} == {"spread_spread_16"}
    pooled = {
        name: body.encode(one, {"pooled"}).pooled.detach()
        for name, one in batch(*BRIDGED).views.items()
    }
    query, positive, negative = (F.normalize(pooled[name][:, :4], dim=-1) for name in PAIRS)
    there = nce(query @ torch.cat([positive, negative]).T / 0.05).mean()
    back = nce(positive @ query.T / 0.05).mean()
    assert float(parts["info_nce_nce_4"]) == pytest.approx(
        0.5 * 0.5 * float(there + back), abs=1e-4
    )


class TwoAsOne:
    """Two processes in one: this one has the even rows, and the odd ones are computed beside it."""

    def __init__(self, mine: int) -> None:
        self.mine = mine
        self.other: list[Tensor] = []
        self.asked = 0

    def gather(self, rows: Tensor) -> Tensor:
        other = self.other[self.asked]
        self.asked += 1
        whole = torch.empty(len(rows) + len(other), *rows.shape[1:])
        whole[self.mine :: 2], whole[1 - self.mine :: 2] = rows, other
        return whole

    def own(self, rows: Tensor) -> Tensor:
        return rows[self.mine :: 2]


@pytest.mark.parametrize("cache_rows", [None, 2])
def test_the_gradients_of_two_processes_sum_to_that_of_the_whole_batch(cache_rows):
    body = encoder()
    methods = all_methods(body)[:2]
    whole = batch(*BRIDGED)
    even = Batch(
        "toy",
        {name: one.part(slice(0, 6)) for name, one in whole.views.items()},
        Facts(
            {name: rows[:6] for name, rows in whole.facts.groups.items()},
            {name: rows[:6] for name, rows in whole.facts.keys.items()},
        ),
    )
    expected = gradients(Objective(body, methods), even)
    shares = [
        Batch(
            "toy",
            {name: view_.part(slice(p, None, 2)) for name, view_ in even.views.items()},
            even.facts,
        )
        for p in (0, 1)
    ]
    total: dict[str, Tensor] = {}
    for mine in (0, 1):
        link = TwoAsOne(mine)
        with torch.no_grad():
            outside = {
                name: body.encode(one, {"pooled"}).pooled
                for name, one in shares[1 - mine].views.items()
            }
        order = [*PAIRS, "query", "positive", "negative0", "cross_query", "cross_negative0"]
        link.other = [outside[name] for name in order]
        objective = Objective(
            body, methods, cache_rows=cache_rows, gather=link.gather, own=link.own
        )
        parts, found = gradients(objective, shares[mine])
        assert float(parts["loss"]) == pytest.approx(float(expected[0]["loss"]), abs=1e-5)
        total = {name: total.get(name, 0) + value for name, value in found.items()}
    assert_same(({}, total), ({}, expected[1]))


def test_every_view_is_encoded_once_for_all_methods():
    body = encoder()
    calls: list[int] = []
    body.backbone.register_forward_hook(lambda *_: calls.append(1))
    Objective(body, all_methods(body)).backward(batch(*BRIDGED))
    assert len(calls) == len(BRIDGED)


def test_a_loss_that_no_gradient_reaches_leaves_the_parameters_alone():
    body = encoder()
    lonely = batch("query", "positive")
    silent = Objective(
        body, [Weighted("info_nce", InfoNceMethod(InfoNce(method="info_nce"), body, None))]
    )
    same = View(lonely.views["query"].ids, lonely.views["query"].mask)
    groups = torch.zeros(ROWS, dtype=torch.int64)  # all rows are one group: there is no negative
    names = ("query", "positive")
    facts = Facts(dict.fromkeys(names, groups), dict.fromkeys(names, groups))
    parts, found = gradients(silent, Batch("toy", {"query": same, "positive": same}, facts))
    assert float(parts["loss"]) == pytest.approx(0.0, abs=1e-6)
    assert all(float(value.abs().max()) < 1e-6 for value in found.values())
