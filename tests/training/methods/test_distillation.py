import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.training.methods.pooled_fixtures import EYE, as_outputs, as_views, random_rows
from training.batch import Facts, View
from training.config.methods import Distillation
from training.methods.distillation import DistillationMethod

NOTHING = Facts({}, {})


def method(**changes) -> DistillationMethod:
    return DistillationMethod(Distillation(**{"method": "distillation", **changes}), None, None)


def losses(student, targets, **changes):
    """Both phases; `targets` by view, as the batch has them."""
    blank = as_views(student)
    views = {
        name: View(view.ids, view.mask, {"target": targets[name]} if name in targets else {})
        for name, view in blank.items()
    }
    distils = method(**changes)
    return distils.loss(distils.rows(as_outputs(student), views), NOTHING)


@pytest.mark.parametrize("distance", ["cosine", "mse", "cosine_and_mse"])
def test_a_student_in_its_teachers_place_has_no_loss(distance):
    both = {"query": EYE, "positive": EYE}
    parts = losses(both, both, distance=distance, relation_weight=1.0)
    wanted = {"cosine", "mse"} if distance == "cosine_and_mse" else {distance}
    assert parts.keys() == {*wanted, "relation"}
    for part in parts.values():
        assert part.item() == pytest.approx(0, abs=1e-6)


def test_every_side_counts_alike():
    targets = {"query": EYE, "positive": EYE, "cross_query": EYE}
    student = {"query": EYE, "positive": EYE.flip(0)}
    assert losses(student, targets)["cosine"].item() == pytest.approx(0.5)
    assert losses(student, targets, distance="mse")["mse"].item() == pytest.approx(1.0)
    three = {**student, "cross_query": EYE.flip(0)}
    assert losses(three, targets)["cosine"].item() == pytest.approx(2 / 3)
    assert "relation" not in losses(student, targets)


def test_the_squared_distance_is_that_of_the_vectors_before_normalisation():
    student = {"query": 3 * EYE}
    assert losses(student, {"query": EYE}, distance="mse")["mse"].item() == pytest.approx(4.0)
    assert losses(student, {"query": EYE})["cosine"].item() == pytest.approx(0, abs=1e-6)


def test_one_side_alone_is_enough():
    parts = losses({"query": EYE.flip(0)}, {"query": EYE})
    assert parts["cosine"].item() == pytest.approx(1.0)


def test_the_relation_is_the_divergence_of_the_similarities():
    parts = losses({"query": EYE.flip(0)}, {"query": EYE}, relation_weight=2.0, temperature=1.0)
    wanted = torch.softmax(EYE, dim=-1)
    by_hand = (wanted * (wanted.log() - wanted.flip(0).log())).sum(-1).mean()
    assert parts["relation"].item() == pytest.approx(2 * by_hand.item(), abs=1e-6)


def test_the_contrast_wants_each_text_nearest_to_its_own_vector():
    options = {"contrast_weight": 2.0, "temperature": 1.0}
    own = losses({"query": EYE}, {"query": EYE}, **options)["contrast"]
    other = losses({"query": EYE.flip(0)}, {"query": EYE}, **options)["contrast"]
    by_hand = torch.log_softmax(EYE, dim=-1)
    assert own.item() == pytest.approx(-2 * by_hand.diag().mean().item(), abs=1e-6)
    assert other.item() > own.item()
    assert "contrast" not in losses({"query": EYE}, {"query": EYE})


def test_a_row_without_a_teacher_vector_counts_for_nothing():
    student, target = random_rows(["query"], 4), random_rows(["query"], 4, seed=1)
    target["query"][1] = 0
    kept = [0, 2, 3]
    options = {"distance": "cosine_and_mse", "relation_weight": 1.0, "contrast_weight": 1.0}
    some = losses(student, target, **options)
    alone = losses({"query": student["query"][kept]}, {"query": target["query"][kept]}, **options)
    for name, part in some.items():
        assert part.item() == pytest.approx(alone[name].item(), abs=1e-6)


def test_a_batch_in_which_no_row_is_taught_has_no_loss_and_a_gradient_of_zero():
    student = torch.randn(3, 2, requires_grad=True)
    parts = losses({"query": student}, {"query": torch.zeros(3, 2)}, relation_weight=1.0)
    sum(parts.values()).backward()
    assert {name: part.item() for name, part in parts.items()} == {"cosine": 0.0, "relation": 0.0}
    assert student.grad.abs().sum() == 0


@pytest.mark.parametrize("distance", ["cosine", "mse", "cosine_and_mse"])
def test_only_the_student_gets_gradients(distance):
    target = torch.randn(3, 4, requires_grad=True)
    student = torch.randn(3, 4, requires_grad=True)
    sum(
        losses(
            {"query": student}, {"query": target}, distance=distance, relation_weight=1.0
        ).values()
    ).backward()
    assert student.grad.abs().sum(1).min() > 0
    assert target.grad is None


@examples(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 100))
def test_directions_and_relations_do_not_see_the_length_of_a_student(seed, factor):
    student, target = random_rows(["query"], 4, seed=seed), random_rows(["query"], 4, seed=seed + 1)
    one = losses(student, target, relation_weight=1.0)
    other = losses({"query": factor * student["query"]}, target, relation_weight=1.0)
    for name, part in one.items():
        assert other[name].item() == pytest.approx(part.item(), abs=1e-4)


def test_half_precision_targets_and_students_give_a_float32_loss():
    student, target = random_rows(["query"], 8, 32), random_rows(["query"], 8, 32, seed=1)
    full = losses(student, target, relation_weight=1.0)
    half = losses(
        {"query": student["query"].bfloat16()},
        {"query": target["query"].half()},
        relation_weight=1.0,
    )
    for name, part in full.items():
        assert half[name].dtype == torch.float32
        assert half[name].item() == pytest.approx(part.item(), rel=0.03)


def test_hard_negatives_are_not_taught_and_targets_are_cut_with_the_student():
    views = frozenset({"query", "positive", "negative0"})
    assert method().needs(views).keys() == {"query", "positive"}
    assert {"query", "query_target", "cross_query_target"} < method().vectors
    assert list(method().head.parameters()) == []


def test_a_batch_without_teacher_vectors_is_refused():
    with pytest.raises(ValueError, match="none of the views positive, query has a target"):
        losses({"query": EYE, "positive": EYE}, {})
    with pytest.raises(ValueError, match="distillation needs the views query"):
        method().needs(frozenset({"source", "target"}))
