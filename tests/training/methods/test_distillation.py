import numpy as np
import pytest
import torch

from training.config import Distillation, Teacher
from training.methods.distillation import loss, mixtures, principal, teacher_vectors
from training.samplers import Batch, View

EYE = torch.eye(2)
TEXTS = ["red cat sleeps", "blue dog eats", "old bird waits", "green horse", "who"]


def view(target) -> View:
    nothing = torch.zeros(2, 1, dtype=torch.int64)
    return View(nothing, nothing, torch.arange(2), target)


def settings(**changes) -> Distillation:
    return Distillation(method="distillation", **changes)


def test_a_student_in_its_teachers_place_has_no_loss():
    batch = Batch("bitext", view(EYE), view(EYE))
    for distance in ("cosine", "mse"):
        parts = loss(settings(distance=distance, relation_weight=1.0), batch, EYE, EYE)
        assert parts["distance"].item() == pytest.approx(0, abs=1e-6)
        assert parts["relation"].item() == pytest.approx(0, abs=1e-6)


def test_both_sides_count_alike():
    batch = Batch("bitext", view(EYE), view(EYE))
    assert loss(settings(), batch, EYE, EYE.flip(0))["distance"].item() == pytest.approx(0.5)
    parts = loss(settings(distance="mse"), batch, EYE, EYE.flip(0))
    assert parts["distance"].item() == pytest.approx(1.0)
    assert "relation" not in parts


def test_one_side_alone_is_enough():
    parts = loss(settings(), Batch("english", view(EYE), None), EYE.flip(0), None)
    assert parts["distance"].item() == pytest.approx(1.0)


def test_the_relation_is_the_divergence_of_the_similarities():
    batch = Batch("english", view(EYE), None)
    parts = loss(settings(relation_weight=2.0, temperature=1.0), batch, EYE.flip(0), None)
    wanted = torch.softmax(EYE, dim=-1)
    by_hand = (wanted * (wanted.log() - wanted.flip(0).log())).sum(-1).mean()
    assert parts["relation"].item() == pytest.approx(2 * by_hand.item(), abs=1e-6)


def test_only_the_student_gets_gradients():
    target = EYE.clone().requires_grad_(False)
    student = EYE.flip(0).clone().requires_grad_()
    parts = loss(settings(relation_weight=1.0), Batch("english", view(target), None), student, None)
    sum(parts.values()).backward()
    assert student.grad.abs().sum() > 0


def test_a_batch_without_teacher_vectors_is_refused():
    with pytest.raises(ValueError, match="teacher vectors"):
        loss(settings(), Batch("english", view(None), None), EYE, None)


def vectors(teacher, cache, **changes):
    options = {"dimension": 32, "cache": cache, "device": torch.device("cpu"), **changes}
    return teacher_vectors(Teacher(model=str(teacher)), TEXTS, **options)


def test_vectors_are_computed_once_and_then_read(teacher, tmp_path):
    told = []
    first = vectors(teacher, tmp_path)
    again = vectors(teacher, tmp_path, progress=told.append)
    assert told == [len(TEXTS)]
    assert np.array_equal(first, again)
    assert first.shape == (len(TEXTS), 32)
    assert first.dtype == np.float16
    assert len(list(tmp_path.iterdir())) == 1
    vectors(teacher, tmp_path, dimension=16)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_student_wider_than_its_teacher_is_refused(teacher, tmp_path):
    with pytest.raises(ValueError, match=r"48 dimensions, fewer than student\.hidden = 64"):
        vectors(teacher, tmp_path, dimension=64)


def test_principal_directions_keep_what_fits():
    rng = np.random.default_rng(1)
    flat = rng.standard_normal((50, 3)).astype(np.float32) @ rng.standard_normal((3, 8)).astype(
        np.float32
    )
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    reduced = principal(flat, 3)
    assert np.abs(reduced @ reduced.T - flat @ flat.T).max() < 1e-4
    assert principal(flat, 8) is flat


def test_a_mixture_is_the_unit_mean_of_its_parts():
    mixed = mixtures(np.eye(3, dtype=np.float16), [[0, 1], [2]])
    assert mixed.astype(np.float32) == pytest.approx(
        np.array([[0.7071, 0.7071, 0], [0, 0, 1]]), abs=1e-3
    )
