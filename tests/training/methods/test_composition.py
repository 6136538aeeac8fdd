"""The methods on pooled vectors under the gradient cache, Matryoshka and several processes."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from tests.training.word_fixtures import small_encoder
from training.batch import Batch, Facts, View
from training.config.methods import Clear, Distillation, Hybrid, InfoNce
from training.methods.clear import ClearMethod
from training.methods.distillation import DistillationMethod
from training.methods.hybrid import HybridMethod
from training.methods.info_nce import InfoNceMethod
from training.model import SentenceEncoder
from training.objective import Objective, Weighted

ROWS, WIDTH = 8, 16
PAIRS = ["query", "positive", "negative0", "negative1"]
BRIDGED = [*PAIRS, "cross_query", "cross_negative0", "cross_negative1"]
METHODS = {
    "info_nce": InfoNceMethod(
        InfoNce(method="info_nce", symmetric=True, margin=0.1, temperature=0.2), None, None
    ),
    "clear": ClearMethod(Clear(method="clear", temperature=0.2), None, None),
    "hybrid": HybridMethod(Hybrid(method="hybrid", temperature=0.2), None, None),
    "hybrid as printed": HybridMethod(Hybrid(method="hybrid", paper_strict=True), None, None),
    "distillation": DistillationMethod(
        Distillation(
            method="distillation",
            distance="cosine_and_mse",
            relation_weight=0.5,
            temperature=0.2,
        ),
        None,
        None,
    ),
}
each_method = pytest.mark.parametrize("name", METHODS)


def new_encoder(*, dropout: float) -> SentenceEncoder:
    return small_encoder(60, hidden=WIDTH, seed=5, dropout=dropout, initializer_range=0.3).train()


def new_batch() -> Batch:
    """Rows of different lengths, with teacher vectors, among them two about the same passage."""
    generator = torch.Generator().manual_seed(6)
    views, groups, keys = {}, {}, {}
    for number, name in enumerate(BRIDGED):
        lengths = torch.randint(2, 11, (ROWS, 1), generator=generator)
        target = torch.randn(ROWS, WIDTH, generator=generator)
        target[3] = 0
        views[name] = View(
            torch.randint(1, 60, (ROWS, 10), generator=generator),
            (torch.arange(10) < lengths).long(),
            {"target": target},
        )
        keys[name] = torch.arange(ROWS) + 100 * number
        groups[name] = keys[name] if "negative" in name else torch.arange(ROWS)
    keys["positive"][4] = keys["positive"][1]
    return Batch("bridged", views, Facts(groups, keys))


def objective(encoder: SentenceEncoder, *names: str, **options) -> Objective:
    weighted = [
        Weighted(name.replace(" ", "_"), METHODS[name], 1.0 + k) for k, name in enumerate(names)
    ]
    return Objective(encoder, weighted, **options)


def gradients(encoder: SentenceEncoder) -> dict[str, Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in encoder.named_parameters()
        if parameter.grad is not None
    }


def step(encoder: SentenceEncoder, batch: Batch, *names: str, **options):
    """Value and gradient, with the dropout of seed 9."""
    encoder.zero_grad(set_to_none=True)
    torch.manual_seed(9)
    parts = objective(encoder, *names, **options).backward(batch)
    return parts, gradients(encoder)


def assert_same(found, expected, tolerance: float = 1e-6) -> None:
    parts, slopes = found
    expected_parts, expected_slopes = expected
    assert parts.keys() == expected_parts.keys()
    for name, part in parts.items():
        assert part.item() == pytest.approx(expected_parts[name].item(), rel=1e-5, abs=1e-6), name
    assert slopes.keys() == expected_slopes.keys()
    largest = max(slope.abs().max() for slope in expected_slopes.values())
    assert largest > 0
    for name, slope in slopes.items():
        assert (slope - expected_slopes[name]).abs().max() <= tolerance * max(1, largest), name


@each_method
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 100])
def test_cached_is_plain_in_value_and_gradient_for_every_chunk_size(name, rows):
    encoder, batch = new_encoder(dropout=0.0), new_batch()
    assert_same(
        step(encoder, batch, name, cache_rows=rows), step(encoder, batch, name), tolerance=3e-6
    )


@each_method
@pytest.mark.parametrize("rows", [2, 3])
def test_the_cache_repeats_the_same_dropout(name, rows):
    encoder, batch = new_encoder(dropout=0.3), new_batch()
    found = step(encoder, batch, name, cache_rows=rows)
    # By hand: the same chunks in the same order, whose graphs are all kept.
    encoder.zero_grad(set_to_none=True)
    torch.manual_seed(9)
    method, read = METHODS[name], []
    for start in range(0, ROWS, rows):
        needs = method.needs(frozenset(batch.views))
        parts = {view: batch.views[view].part(slice(start, start + rows)) for view in needs}
        outputs = {view: encoder.encode(parts[view], wanted) for view, wanted in needs.items()}
        read.append(method.rows(outputs, parts))
    whole = {key: torch.cat([part[key] for part in read]) for key in read[0]}
    loss = sum(method.loss(whole, batch.facts).values())
    loss.backward()
    assert found[0]["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    by_hand = gradients(encoder)
    assert found[1].keys() == by_hand.keys()
    largest = max(slope.abs().max().item() for slope in by_hand.values())
    for key, slope in by_hand.items():
        assert (found[1][key] - slope).abs().max() <= 3e-6 * max(1, largest), key


@each_method
def test_matryoshka_is_the_sum_of_the_losses_on_cut_vectors(name):
    encoder, batch, method = new_encoder(dropout=0.0), new_batch(), METHODS[name]
    found = step(encoder, batch, name, matryoshka=(4, WIDTH), cache_rows=3)
    encoder.zero_grad(set_to_none=True)
    views = {view: batch.views[view] for view in method.needs(frozenset(batch.views))}
    outputs = {
        view: encoder.encode(value, method.needs(frozenset(views))[view])
        for view, value in views.items()
    }
    rows = method.rows(outputs, views)
    narrow = method.loss({key: value[:, :4] for key, value in rows.items()}, batch.facts)
    full = method.loss(rows, batch.facts)
    label = name.replace(" ", "_")
    expected = {f"{label}_{part}_4": value for part, value in narrow.items()}
    expected |= {f"{label}_{part}_{WIDTH}": value for part, value in full.items()}
    expected["loss"] = sum(narrow.values()) + sum(full.values())
    expected["loss"].backward()
    assert_same(found, (expected, gradients(encoder)), tolerance=3e-6)


def test_the_first_dimensions_are_normalised_again_after_the_cut():
    """What lies beyond the cut must not weigh on a cosine within it."""
    encoder, batch = new_encoder(dropout=0.0), new_batch()
    narrow = {"matryoshka": (4, WIDTH)}
    before, _ = step(encoder, batch, "clear", **narrow)
    layer = encoder.backbone.get_submodule("encoder.layer.1.output.LayerNorm")
    with torch.no_grad():
        layer.weight[4:] *= 50
        layer.bias[4:] += 3
    after, _ = step(encoder, batch, "clear", **narrow)
    for part in ("forward", "reverse", "kl"):
        assert after[f"clear_{part}_4"].item() == pytest.approx(
            before[f"clear_{part}_4"].item(), abs=1e-5
        )
        assert after[f"clear_{part}_{WIDTH}"].item() != pytest.approx(
            before[f"clear_{part}_{WIDTH}"].item(), abs=1e-3
        )


def split(batch: Batch, process: int, processes: int) -> Batch:
    """The rows of one process, and the facts of all."""
    views = {
        name: View(
            view.ids[process::processes],
            view.mask[process::processes],
            {key: value[process::processes] for key, value in view.extra.items()},
        )
        for name, view in batch.views.items()
    }
    return Batch(batch.kind, views, batch.facts)


class Wire:
    """Gathering between threads that each play a process."""

    def __init__(self, processes: int) -> None:
        self.slots: list[Tensor] = [torch.empty(0)] * processes
        self.meet = threading.Barrier(processes, timeout=60)

    def gather(self, process: int, rows: Tensor) -> Tensor:
        self.slots[process] = rows
        self.meet.wait()
        whole = torch.stack(self.slots, dim=1).flatten(0, 1)
        self.meet.wait()
        return whole


@each_method
@pytest.mark.parametrize("options", [{}, {"cache_rows": 3}, {"matryoshka": (8, WIDTH)}], ids=str)
def test_the_gradients_of_two_processes_sum_to_that_of_one(name, options):
    encoder, batch = new_encoder(dropout=0.0), new_batch()
    expected = step(encoder, batch, name, **options)
    wire = Wire(2)

    def run(process: int):
        own = copy.deepcopy(encoder)
        own.zero_grad(set_to_none=True)
        parts = objective(
            own,
            name,
            gather=lambda rows: wire.gather(process, rows),
            own=lambda rows: rows[process::2],
            **options,
        ).backward(split(batch, process, 2))
        return parts, gradients(own)

    with ThreadPoolExecutor(2) as pool:
        (parts, slopes), (others, other_slopes) = pool.map(run, range(2))
    assert parts["loss"].item() == pytest.approx(others["loss"].item(), rel=1e-6)
    summed = {key: slope + other_slopes[key] for key, slope in slopes.items()}
    assert_same((parts, summed), expected)


def test_methods_of_one_stage_share_their_views_and_add_up_by_weight():
    encoder, batch = new_encoder(dropout=0.0), new_batch()
    names = ["clear", "info_nce", "distillation"]
    parts, slopes = step(encoder, batch, *names, cache_rows=4)
    alone = [step(encoder, batch, name) for name in names]
    total = sum((k + 1) * own[0]["loss"].item() for k, own in enumerate(alone))
    assert parts["loss"].item() == pytest.approx(total, rel=1e-5)
    for key, slope in slopes.items():
        by_hand = sum((k + 1) * own[1][key] for k, own in enumerate(alone))
        assert torch.allclose(slope, by_hand, atol=1e-5), key


def test_the_value_alone_is_that_of_the_step_and_leaves_no_gradient():
    encoder, batch = new_encoder(dropout=0.0), new_batch()
    expected, _ = step(encoder, batch, "clear")
    encoder.zero_grad(set_to_none=True)
    found = objective(encoder, "clear", cache_rows=3).value(batch)
    assert found["loss"].item() == pytest.approx(expected["loss"].item(), rel=1e-5)
    assert gradients(encoder) == {}
