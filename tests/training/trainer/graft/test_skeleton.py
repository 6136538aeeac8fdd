"""In the static space a text lies where the teacher puts its English, in whatever language."""

import numpy as np
import pytest
import torch

from tests.training.conftest import sentences
from tests.training.trainer.graft.graft_fixtures import english_tokenizer
from tests.training.word_fixtures import corpus_of
from training.config.graft import Graft
from training.trainer.graft.pieces import graft_pieces
from training.trainer.graft.skeleton import static_space
from training.vocabulary import Pieces

LANGUAGES = ("en", "de", "ru", "zh")
OPTIONS = {"data": ["pairs"], "pieces": 400, "character_coverage": 1.0}


@pytest.fixture(scope="module")
def corpus():
    """192 groups, the target of each being their English sentence."""
    rows = zip(*(sentences(language) for language in LANGUAGES), strict=True)
    found = corpus_of(LANGUAGES, [tuple(row) for row in rows])
    table = found.sets["pairs"]
    numbers = np.arange(len(table.ids), dtype=np.int32)
    table.targets["sentence"] = numbers
    return found


@pytest.fixture(scope="module")
def pieces(corpus):
    grafted = graft_pieces(corpus, english_tokenizer(), Graft(**OPTIONS), seed=1)
    return Pieces.of(grafted.tokenizer, 64)


@pytest.fixture(scope="module")
def targets(corpus):
    """A teacher that means a sum of words."""
    rng = np.random.default_rng(5)
    words = {}
    rows = []
    for text in sentences("en"):
        parts = [words.setdefault(word, rng.standard_normal(24)) for word in text.split()]
        rows.append(np.sum(parts, axis=0))
    unit = np.stack(rows) / np.linalg.norm(rows, axis=1, keepdims=True)
    return torch.from_numpy(unit.astype(np.float16))


def space_of(corpus, pieces, targets, **changes):
    options = Graft(**{**OPTIONS, "steps": 60, "rows": 64, "learning_rate": 0.05, **changes})
    return static_space(corpus, pieces, targets, options, seed=3)


def test_translations_of_a_text_lie_where_the_teacher_put_it(corpus, pieces, targets):
    space = space_of(corpus, pieces, targets)
    assert space.shape == (pieces.size, 24)
    for language in LANGUAGES:
        texts = [
            [number for number in ids.tolist() if number not in pieces.special]
            for ids in pieces.encode(sentences(language))
        ]
        vectors = torch.stack([space[ids].mean(0) for ids in texts])
        nearest = torch.nn.functional.normalize(vectors, dim=1) @ targets.float().T
        assert (nearest.argmax(1) == torch.arange(len(texts))).float().mean() > 0.9, language


def test_the_same_seed_gives_the_same_space_and_every_step_is_told(corpus, pieces, targets):
    told = []
    options = Graft(**OPTIONS, steps=3, rows=16)
    one, other = (
        static_space(corpus, pieces, targets, options, seed=3, progress=told.append)
        for _ in range(2)
    )
    assert torch.equal(one, other)
    assert sum(told) == 6


def test_pieces_without_a_text_stay_as_they_began(corpus, pieces, targets):
    one, other = (space_of(corpus, pieces, targets, steps=steps) for steps in (1, 5))
    special = sorted(pieces.special)
    assert torch.equal(one[special], other[special])


def test_sets_without_a_teachers_vector_are_refused(pieces, targets):
    bare = corpus_of(("en", "de"), [("cat", "Katze")])
    bare.sets["pairs"].targets["sentence"] = np.full(1, -1, dtype=np.int32)
    with pytest.raises(ValueError, match="no sentence has a teacher's vector"):
        space_of(bare, pieces, targets)
