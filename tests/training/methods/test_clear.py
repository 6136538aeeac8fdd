import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from tests.training.methods.pooled_fixtures import (
    EYE,
    NEAR,
    TILTED,
    all_different,
    changed,
    losses,
    random_rows,
    total,
)
from training.batch import Facts
from training.config.methods import Clear, InfoNce
from training.methods.clear import ClearMethod
from training.methods.info_nce import InfoNceMethod

CASE_A = {"query": EYE, "positive": EYE, "cross_query": TILTED.flip(0)}
CASE_B = {
    "query": EYE,
    "positive": EYE,
    "negative0": TILTED,
    "cross_query": NEAR,
    "cross_negative0": EYE.flip(0),
}
CASE_C = {"query": EYE, "positive": EYE, "cross_query": EYE}
FULL = [
    "query",
    "positive",
    "negative0",
    "negative1",
    "cross_query",
    "cross_negative0",
    "cross_negative1",
]


def method(**changes) -> ClearMethod:
    return ClearMethod(Clear(**{"method": "clear", "temperature": 1.0, **changes}), None, None)


def one(part: str, rows, facts=None, **changes) -> float:
    """A part alone with weight 1, so that its own value is seen."""
    weights = {
        "forward": {"alpha": 0.0, "beta": 0.0},
        "reverse": {"alpha": 1.0, "beta": 0.0},
        "kl": {"alpha": 0.0, "beta": 1.0},
    }[part]
    return losses(method(**weights, **changes), rows, facts)[part].item()


@pytest.mark.parametrize(
    ("rows", "temperature", "forward", "reverse", "kl", "kl_swapped", "with_kl", "without"),
    [
        pytest.param(
            CASE_A, 1.0, 0.313262, 0.798139, 0.174924, 0.162147, 0.479545, 0.507213, id="A"
        ),
        pytest.param(
            CASE_B, 1.0, 1.049748, 1.075112, 0.086936, 0.098720, 0.867331, 1.059893, id="B"
        ),
        pytest.param(
            CASE_B, 0.05, 0.018479, 1.171101, 4.919154, 1.423024, 1.459663, 0.479528, id="B20"
        ),
        pytest.param(CASE_C, 1.0, 0.313262, 0.313262, 0.0, 0.0, 0.250609, 0.313262, id="C"),
    ],
)
def test_the_parts_are_the_values_computed_by_hand(
    rows, temperature, forward, reverse, kl, kl_swapped, with_kl, without
):
    setting = {"temperature": temperature}
    assert one("forward", rows, **setting) == pytest.approx(forward, abs=1e-5)
    assert one("reverse", rows, **setting) == pytest.approx(reverse, abs=1e-5)
    assert one("kl", rows, **setting) == pytest.approx(kl, abs=1e-5)
    assert one("kl", rows, kl="forward_reverse", **setting) == pytest.approx(kl_swapped, abs=1e-5)
    parts = losses(method(alpha=0.4, beta=0.2, **setting), rows)
    assert parts["forward"].item() == pytest.approx(0.4 * forward, abs=1e-5)
    assert parts["reverse"].item() == pytest.approx(0.4 * reverse, abs=1e-5)
    assert parts["kl"].item() == pytest.approx(0.2 * kl, abs=1e-5)
    assert total(method(alpha=0.4, beta=0.2, **setting), rows).item() == pytest.approx(
        with_kl, abs=1e-5
    )
    assert total(method(alpha=0.4, beta=0.0, **setting), rows).item() == pytest.approx(
        without, abs=1e-5
    )


def test_the_defaults_are_those_of_the_authors_code():
    settings = Clear(method="clear")
    assert (settings.alpha, settings.beta, settings.temperature) == (0.4, 0.2, 0.05)
    assert settings.kl == "reverse_forward"


def test_the_columns_of_both_distributions_are_slot_by_slot():
    """The authors' code written out: one list of candidates, row i's own at column i."""
    rows = random_rows(FULL, 3)
    unit = {name: F.normalize(x, dim=-1) for name, x in rows.items()}
    passages = torch.cat([unit["positive"], unit["negative0"], unit["negative1"]])
    queries = torch.cat([unit["cross_query"], unit["cross_negative0"], unit["cross_negative1"]])
    forward, reverse = 20 * unit["query"] @ passages.T, 20 * unit["positive"] @ queries.T
    by_hand = F.kl_div(
        F.log_softmax(forward, -1), F.softmax(reverse, -1), reduction="batchmean"
    ).item()
    assert one("kl", rows, temperature=0.05) == pytest.approx(by_hand, abs=1e-4)
    swapped = {
        **rows,
        "cross_negative0": rows["cross_negative1"],
        "cross_negative1": rows["cross_negative0"],
    }
    assert one("kl", swapped, temperature=0.05) != pytest.approx(by_hand, abs=1e-2)
    assert one("reverse", swapped) == pytest.approx(one("reverse", rows), abs=1e-5)


@examples(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_without_alpha_and_beta_it_is_info_nce(seed):
    rows = random_rows(FULL, 4, seed=seed)
    pairs = {name: x for name, x in rows.items() if not name.startswith("cross")}
    plain = InfoNceMethod(InfoNce(method="info_nce", temperature=1.0), None, None)
    assert total(method(alpha=0.0, beta=0.0), rows).item() == pytest.approx(
        losses(plain, pairs)["nce"].item(), abs=1e-5
    )


@examples(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["reverse_forward", "forward_reverse"]))
def test_the_divergence_is_positive_and_nothing_where_both_languages_agree(seed, direction):
    rows = random_rows(FULL, 4, seed=seed)
    assert one("kl", rows, kl=direction) > 0
    agree = {**rows, "query": rows["positive"], "cross_query": rows["positive"]}
    for k in range(2):
        agree[f"cross_negative{k}"] = rows[f"negative{k}"]
    assert one("kl", agree, kl=direction) == pytest.approx(0, abs=1e-6)


@examples(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 100), st.sampled_from(FULL))
def test_the_length_of_a_vector_does_not_matter(seed, factor, name):
    rows = random_rows(FULL, 4, seed=seed)
    scaled = {**rows, name: factor * rows[name]}
    assert total(method(), scaled).item() == pytest.approx(total(method(), rows).item(), abs=1e-4)


@examples(max_examples=20, deadline=None)
@given(st.permutations(range(5)))
def test_the_order_of_rows_does_not_matter(order):
    rows = random_rows(FULL, 5)
    facts = changed(all_different(FULL, 5), keys={"positive": [1, 2, 1, 3, 4]})
    order = list(order)
    moved = Facts(
        {name: x[order] for name, x in facts.groups.items()},
        {name: x[order] for name, x in facts.keys.items()},
    )
    shuffled = {name: x[order] for name, x in rows.items()}
    assert total(method(), shuffled, moved).item() == pytest.approx(
        total(method(), rows, facts).item(), abs=1e-5
    )


@pytest.mark.parametrize(
    ("part", "reached"),
    [
        ("forward", {"query", "positive", "negative0", "negative1"}),
        ("reverse", {"positive", "cross_query", "cross_negative0", "cross_negative1"}),
        ("kl", set(FULL)),
    ],
)
def test_every_part_moves_exactly_the_views_it_is_about(part, reached):
    rows = {name: x.requires_grad_() for name, x in random_rows(FULL, 4).items()}
    losses(method(), rows)[part].backward()
    moved = {name for name, x in rows.items() if x.grad is not None and x.grad.abs().sum() > 0}
    assert moved == reached
    for name in reached:
        assert rows[name].grad.abs().sum(1).min() > 0, name


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param({"keys": {"positive": [7, 1, 7]}}, id="two questions about one passage"),
        pytest.param({"keys": {"query": [7, 1, 7]}}, id="one question asked twice"),
        pytest.param({"keys": {"cross_query": [7, 1, 7]}}, id="one translation of two questions"),
        pytest.param(
            {
                "groups": {
                    "query": [4, 1, 4],
                    "positive": [4, 1, 4],
                    "cross_query": [4, 1, 4],
                }
            },
            id="one group twice",
        ),
    ],
)
@pytest.mark.parametrize("direction", ["reverse_forward", "forward_reverse"])
def test_false_negatives_are_left_out_of_the_same_columns_of_all_parts(facts, direction):
    rows = {name: x.requires_grad_() for name, x in random_rows(FULL, 3).items()}
    known = changed(all_different(FULL, 3), **facts)
    setting = method(kl=direction)
    parts = losses(setting, rows, known)
    sum(parts.values()).backward()
    assert all(part.isfinite() for part in parts.values())
    assert all(x.grad.isfinite().all() for x in rows.values())
    # Rows 0 and 2 do not see each other's own candidates, row 1 sees all.
    views = {name: x.detach() for name, x in rows.items()}
    unit = {name: F.normalize(x, dim=-1) for name, x in views.items()}
    passages = torch.cat([unit["positive"], unit["negative0"], unit["negative1"]])
    queries = torch.cat([unit["cross_query"], unit["cross_negative0"], unit["cross_negative1"]])
    kl = []
    for row, kept in ((0, [0, 1, *range(3, 9)]), (1, [*range(9)]), (2, [1, 2, *range(3, 9)])):
        log_f = F.log_softmax(unit["query"][row] @ passages[kept].T, -1)
        log_r = F.log_softmax(unit["positive"][row] @ queries[kept].T, -1)
        p, q = (log_r, log_f) if direction == "reverse_forward" else (log_f, log_r)
        kl.append((p.exp() * (p - q)).sum())
    assert parts["kl"].item() == pytest.approx(0.2 * torch.stack(kl).mean().item(), abs=1e-6)


def test_a_hard_negative_that_is_a_positive_is_left_out_with_its_query():
    keys = {"positive": [7, 1, 2], "negative0": [50, 51, 7]}  # row 2's negative is row 0's answer
    rows = random_rows(FULL, 3)
    unit = {name: F.normalize(x, dim=-1) for name, x in rows.items()}
    queries = torch.cat([unit["cross_query"], unit["cross_negative0"], unit["cross_negative1"]])
    scores = unit["positive"] @ queries.T
    scores[0, 3 + 2] = -torch.inf
    by_hand = (scores.logsumexp(1) - scores.diagonal()).mean().item()
    facts = changed(all_different(FULL, 3), keys=keys)
    assert one("reverse", rows, facts) == pytest.approx(by_hand, abs=1e-5)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (FULL[:-1], r"2 negative\* and 1 cross_negative\*"),
        ([*FULL[:2], *FULL[4:]], r"0 negative\* and 2 cross_negative\*"),
        (FULL[:5], r"2 negative\* and 0 cross_negative\*"),
    ],
)
def test_unequal_numbers_of_negatives_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        method().needs(frozenset(names))
    with pytest.raises(ValueError, match=message):
        method().loss(random_rows(names, 3), all_different(names, 3))


def test_a_batch_without_the_other_language_is_refused():
    with pytest.raises(ValueError, match="clear needs the views cross_query"):
        method().needs(frozenset({"query", "positive"}))


def test_bfloat16_vectors_give_nearly_the_loss_of_float32():
    rows = random_rows(FULL, 16, 64)
    half = losses(method(temperature=0.05), {name: x.bfloat16() for name, x in rows.items()})
    for name, part in losses(method(temperature=0.05), rows).items():
        assert half[name].dtype == torch.float32
        assert half[name].item() == pytest.approx(part.item(), rel=0.03)
