from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from transformers import BertModel

from tests.training.methods.pooled_fixtures import EYE, as_outputs, as_views, random_rows
from tests.training.pretrained_fixtures import sentence_folder, teacher_folder
from training.batch import Facts, View
from training.config.methods import Distillation
from training.config.recipe import Teacher
from training.methods.distillation import (
    DistillationMethod,
    mixtures,
    principal,
    teacher_vectors,
)
from training.pretrained import ModelUnsupported

NOTHING = Facts({}, {})
WORDS = ["red", "blue", "cat", "dog", "bird", "sleeps"]
TEXTS = ["red cat sleeps", "blue dog", "bird", "red red bird sleeps", "cat dog"]


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


def test_a_row_without_a_teacher_vector_counts_for_nothing():
    student, target = random_rows(["query"], 4), random_rows(["query"], 4, seed=1)
    target["query"][1] = 0
    kept = [0, 2, 3]
    options = {"distance": "cosine_and_mse", "relation_weight": 1.0}
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


# The teacher's vectors


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A random encoder of 48 dimensions in a plain transformers folder."""
    return teacher_folder(tmp_path_factory.mktemp("teacher"), WORDS, positions=16)


def vectors(teacher, cache, texts=TEXTS, roles=None, *, dimension=32, progress=None, **said):
    spec = Teacher(**{"model": str(teacher), "max_tokens": 16, "pooling": "mean", **said})
    return teacher_vectors(
        spec,
        texts,
        roles or ["passage"] * len(texts),
        dimension=dimension,
        cache=cache,
        device=torch.device("cpu"),
        progress=progress or (lambda _: None),
    )


def test_vectors_are_computed_once_and_then_read(teacher, tmp_path):
    told = []
    first = vectors(teacher, tmp_path)
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    again = vectors(teacher, tmp_path, progress=told.append)
    assert told == [len(TEXTS)]
    assert np.array_equal(first, again)
    assert first.shape == (len(TEXTS), 32)
    assert first.dtype == np.float16
    assert np.linalg.norm(first.astype(np.float32), axis=1) == pytest.approx(1, abs=1e-3)
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == [written]


@pytest.mark.parametrize(
    "change",
    [
        {"dimension": 16},
        {"texts": TEXTS[::-1]},
        {"max_tokens": 8},
        {"pooling": "cls"},
        {"prompts": {"passage": "red "}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_shapes_the_vectors_has_a_file_of_its_own(teacher, tmp_path, change):
    vectors(teacher, tmp_path)
    vectors(teacher, tmp_path, **change)
    assert len(list(tmp_path.iterdir())) == 2


def test_other_weights_have_a_file_of_their_own_and_the_place_does_not_matter(teacher, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in teacher.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    cache = tmp_path / "cache"
    first = vectors(teacher, cache)
    assert np.array_equal(vectors(copy, cache), first)
    assert len(list(cache.iterdir())) == 1
    model = BertModel.from_pretrained(copy, add_pooling_layer=False)
    model.embeddings.word_embeddings.weight.data[6] += 1
    model.save_pretrained(copy)
    assert not np.array_equal(vectors(copy, cache), first)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "other"])
def test_a_damaged_file_is_made_anew(teacher, tmp_path, damage):
    first = vectors(teacher, tmp_path)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "emptied":
        file.write_bytes(b"")
    else:
        np.savez(file, vectors=np.ones((2, 32), np.float16))
    assert np.array_equal(vectors(teacher, tmp_path), first)
    (file,) = tmp_path.iterdir()
    assert np.array_equal(np.load(file)["vectors"], first)


def test_a_teacher_of_the_same_width_is_not_turned(teacher, tmp_path):
    full = vectors(teacher, tmp_path, dimension=48).astype(np.float32)
    turned = vectors(teacher, tmp_path, dimension=47).astype(np.float32)
    assert np.abs(turned @ turned.T - full @ full.T).max() < 5e-3
    assert np.abs(turned - full[:, :47]).max() > 0.1


def test_every_text_has_the_prompt_of_its_role(teacher, tmp_path):
    prompts = {"query": "red ", "passage": "blue "}
    roles = ["query", "passage", "query"]
    found = vectors(
        teacher, tmp_path / "a", ["cat", "cat", "dog"], roles, dimension=48, prompts=prompts
    )
    by_hand = vectors(teacher, tmp_path / "b", ["red cat", "blue cat", "red dog"], dimension=48)
    assert np.array_equal(found, by_hand)


def test_the_prompts_are_those_of_the_teachers_folder_unless_the_recipe_says_others(tmp_path):
    settings = {"prompts": {"query": "q: ", "document": "d: "}}
    folder = sentence_folder(tmp_path / "teacher", settings=settings)
    both = (["a cat", "a cat"], ["query", "passage"])
    own = vectors(folder, tmp_path / "a", *both)
    told = vectors(folder, tmp_path / "b", *both, prompts={"query": "", "passage": ""})
    by_hand = ["q: a cat", "d: a cat"]
    bare = vectors(folder, tmp_path / "c", by_hand, prompts={"query": "", "passage": ""})
    assert np.array_equal(own, bare)
    assert np.array_equal(told[0], told[1])
    assert not np.array_equal(own[0], own[1])


def test_without_prompts_a_text_in_two_roles_is_asked_once(teacher, tmp_path):
    told = []
    twice = vectors(teacher, tmp_path, ["cat", "cat"], ["query", "passage"], progress=told.append)
    assert np.array_equal(*twice)
    assert sum(told) == 2
    vectors(teacher, tmp_path, ["cat"])
    assert len(list(tmp_path.iterdir())) == 1


def test_a_student_wider_than_its_teacher_is_refused(teacher, tmp_path):
    with pytest.raises(ValueError, match="48 dimensions, fewer than the student's 64"):
        vectors(teacher, tmp_path, dimension=64)


def test_a_folder_that_does_not_say_its_pooling_must_be_told(teacher, tmp_path):
    with pytest.raises(ModelUnsupported, match="pool"):
        vectors(teacher, tmp_path, pooling=None)


def random_unit(rows: int, rank: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    flat = rng.standard_normal((rows, rank)) * np.arange(rank, 0, -1)
    flat = (flat @ rng.standard_normal((rank, width))).astype(np.float32)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def test_principal_directions_keep_what_fits():
    flat = random_unit(50, 3, 8)
    reduced = principal(flat, 3)
    assert np.abs(reduced @ reduced.T - flat @ flat.T).max() < 1e-4
    assert principal(flat, 8) is flat


def test_the_leading_dimensions_are_the_best_cut():
    flat = random_unit(50, 6, 8)
    wide, narrow = principal(flat, 6), principal(flat, 2)
    cut = wide[:, :2] / np.linalg.norm(wide[:, :2], axis=1, keepdims=True)
    assert np.abs(cut - narrow).max() < 1e-4


def test_the_sign_of_a_direction_does_not_depend_on_the_machine():
    # The strongest component of every direction is positive, wherever eigh put the signs.
    flat = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 1, 2]]
    assert principal(-flat, 2)[[0, 3]] == pytest.approx(-np.eye(2), abs=1e-6)
    assert principal(flat, 2)[[0, 3]] == pytest.approx(np.eye(2), abs=1e-6)


def test_a_mixture_is_the_unit_mean_of_its_parts():
    mixed = mixtures(np.eye(3, dtype=np.float16), [[0, 1], [2]])
    assert mixed.astype(np.float32) == pytest.approx(
        np.array([[0.7071, 0.7071, 0], [0, 0, 1]]), abs=1e-3
    )
