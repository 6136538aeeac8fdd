"""What the teacher says of a text is asked once, kept, and fits the student's width."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertModel

from tests.training.pretrained_fixtures import sentence_folder, teacher_folder
from training.config.recipe import Teacher
from training.methods.teacher import mixtures, principal, teacher_vectors
from training.pretrained import ModelUnsupported

WORDS = ["red", "blue", "cat", "dog", "bird", "sleeps"]
TEXTS = ["red cat sleeps", "blue dog", "bird", "red red bird sleeps", "cat dog"]


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


def files(cache: Path) -> dict[str, int]:
    """The files of the cache, with when they were written."""
    found = sorted(cache.rglob("*.npz"))
    return {str(path.relative_to(cache)): path.stat().st_mtime_ns for path in found}


def test_vectors_are_computed_once_and_then_read(teacher, tmp_path):
    told = []
    first = vectors(teacher, tmp_path)
    written = files(tmp_path)
    again = vectors(teacher, tmp_path, progress=told.append)
    assert told == [len(TEXTS)]
    assert np.array_equal(first, again)
    assert first.shape == (len(TEXTS), 32)
    assert first.dtype == np.float16
    assert np.linalg.norm(first.astype(np.float32), axis=1) == pytest.approx(1, abs=1e-3)
    assert len(written) == 1
    assert files(tmp_path) == written


def test_only_new_texts_are_asked_and_what_is_known_may_be_in_any_order(teacher, tmp_path):
    first = vectors(teacher, tmp_path, TEXTS[:3], dimension=48)
    before = files(tmp_path)
    told = []
    more = vectors(teacher, tmp_path, TEXTS[::-1], dimension=48, progress=told.append)
    assert told[0] == 3
    assert sum(told) == len(TEXTS)
    assert np.array_equal(more[::-1][:3], first)
    assert files(tmp_path).items() > before.items()


def test_texts_of_more_than_one_file_are_put_together(teacher, tmp_path, monkeypatch):
    whole = vectors(teacher, tmp_path / "one", dimension=48)
    monkeypatch.setattr("training.methods.teacher.CHUNK", 2)
    parts = vectors(teacher, tmp_path / "many", dimension=48)
    assert len(files(tmp_path / "many")) == 3
    assert np.abs(whole.astype(np.float32) - parts).max() < 0.02  # bf16, other neighbours
    assert np.array_equal(vectors(teacher, tmp_path / "many", dimension=48), parts)


@pytest.mark.parametrize(
    "change",
    [{"max_tokens": 8}, {"pooling": "cls"}],
    ids=lambda change: next(iter(change)),
)
def test_whatever_shapes_the_vectors_has_a_folder_of_its_own(teacher, tmp_path, change):
    vectors(teacher, tmp_path)
    vectors(teacher, tmp_path, **change)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_narrower_student_and_another_prompt_share_the_folder(teacher, tmp_path):
    vectors(teacher, tmp_path)
    before = files(tmp_path)
    vectors(teacher, tmp_path, dimension=16)
    assert files(tmp_path) == before
    vectors(teacher, tmp_path, prompts={"passage": "red "})
    assert len(files(tmp_path)) == 2
    assert len(list(tmp_path.iterdir())) == 1


def test_other_weights_have_a_folder_of_their_own_and_the_place_does_not_matter(teacher, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in teacher.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    cache = tmp_path / "cache"
    first = vectors(teacher, cache)
    assert np.array_equal(vectors(copy, cache), first)
    assert len(list(cache.iterdir())) == 1
    model = BertModel.from_pretrained(copy, add_pooling_layer=False)
    model.embeddings.word_embeddings.weight.data[6, 0] += 1
    model.save_pretrained(copy)
    assert not np.array_equal(vectors(copy, cache), first)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "other"])
def test_a_damaged_file_is_made_anew(teacher, tmp_path, damage):
    first = vectors(teacher, tmp_path)
    (file,) = tmp_path.rglob("*.npz")
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "emptied":
        file.write_bytes(b"")
    else:
        np.savez(file, names=np.array([b"a", b"b"]), vectors=np.ones((2, 32), np.float16))
    assert np.array_equal(vectors(teacher, tmp_path), first)
    (file,) = tmp_path.rglob("*.npz")
    assert len(np.load(file)["vectors"]) == len(TEXTS)


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
    before = files(tmp_path)
    vectors(teacher, tmp_path, ["cat"])
    assert files(tmp_path) == before


def test_a_student_wider_than_its_teacher_is_refused(teacher, tmp_path):
    with pytest.raises(ValueError, match="48 dimensions, fewer than the student's 64"):
        vectors(teacher, tmp_path, dimension=64)


def test_a_folder_that_does_not_say_its_pooling_must_be_told(teacher, tmp_path):
    with pytest.raises(ModelUnsupported, match="pool"):
        vectors(teacher, tmp_path, pooling=None)


def random_unit(rows: int, rank: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    flat = rng.standard_normal((rows, rank)) * np.arange(rank, 0, -1)
    flat = flat @ rng.standard_normal((rank, width))
    return (flat / np.linalg.norm(flat, axis=1, keepdims=True)).astype(np.float16)


def test_principal_directions_keep_what_fits():
    flat = random_unit(50, 3, 8)
    reduced, exact = principal(flat, 3).astype(np.float32), flat.astype(np.float32)
    assert np.abs(reduced @ reduced.T - exact @ exact.T).max() < 5e-3
    assert principal(flat, 8) is flat


def test_the_leading_dimensions_are_the_best_cut():
    flat = random_unit(50, 6, 8)
    wide, narrow = (principal(flat, width).astype(np.float32) for width in (6, 2))
    cut = wide[:, :2] / np.linalg.norm(wide[:, :2], axis=1, keepdims=True)
    assert np.abs(cut - narrow).max() < 5e-3


def test_the_sign_of_a_direction_does_not_depend_on_the_machine():
    # The strongest component of every direction is positive, wherever eigh put the signs.
    flat = np.eye(3, dtype=np.float16)[[0, 0, 0, 1, 1, 2]]
    assert principal(-flat, 2)[[0, 3]] == pytest.approx(-np.eye(2), abs=1e-6)
    assert principal(flat, 2)[[0, 3]] == pytest.approx(np.eye(2), abs=1e-6)


def test_a_mixture_is_the_unit_mean_of_its_parts():
    mixed = mixtures(np.eye(3, dtype=np.float16), [[0, 1], [2]])
    assert mixed.astype(np.float32) == pytest.approx(
        np.array([[0.7071, 0.7071, 0], [0, 0, 1]]), abs=1e-3
    )
