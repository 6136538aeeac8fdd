"""Which text the teacher is asked in which role, for every target that a distilling stage needs."""

from io import StringIO

import numpy as np
import pytest
import torch
from rich.console import Console

from tests.training.pretrained_fixtures import teacher_folder
from tests.training.text_fixtures import recipe_of
from training.config.recipe import Teacher
from training.data import read_corpus
from training.groups import Group
from training.methods.teacher import teacher_vectors
from training.readers import write_groups
from training.trainer.teaching import target_vectors

CPU = torch.device("cpu")
PROMPTS = {"query": "ask ", "passage": "read "}
TEXTS = {"query": "cat", "passage": "cat sleeps", "sentence": "dog sleeps"}


@pytest.fixture
def teacher(tmp_path):
    words = ["ask", "read", *["cat", "dog", "sleeps"]]
    model = teacher_folder(tmp_path / "teacher", words, positions=16)
    return Teacher(model=str(model), max_tokens=16, pooling="mean", prompts=PROMPTS)


@pytest.mark.parametrize("role", ["query", "passage", "sentence"])
def test_a_target_is_asked_with_the_prompt_of_its_role(tmp_path, teacher, role):
    """Sentences have the query's, as the student's own have."""
    texts = {name: {"en": text, "de": text.upper()} for name, text in TEXTS.items()}
    write_groups(tmp_path / "g.jsonl", [Group("1", texts, "s")])
    plain = recipe_of({"g": {"format": "groups", "path": "g.jsonl"}})
    stage = plain.stage[0].model_dump() | {"methods": [{"method": "distillation"}]}
    recipe = plain.model_validate(plain.model_dump() | {"teacher": teacher, "stage": [stage]})
    corpus = read_corpus(tmp_path, recipe)
    found = target_vectors(
        corpus, recipe, width=48, cache=tmp_path, device=CPU, console=Console(file=StringIO())
    )
    prompt = PROMPTS["passage" if role == "passage" else "query"]
    bare = teacher.model_copy(update={"prompts": None})
    expected = teacher_vectors(
        bare, [prompt + TEXTS[role]], ["passage"], dimension=48, cache=tmp_path, device=CPU
    )
    own = found[corpus.sets["g"].targets[role][0]].float().numpy()
    np.testing.assert_allclose(own, expected[0].astype(np.float32), atol=2e-3)
