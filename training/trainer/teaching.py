"""The teacher's vectors that the distilling stages of a run, or a graft, need, one for every target of its data."""

from pathlib import Path
from typing import get_args

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from service.types import Role
from training.config.methods import Distillation
from training.config.recipe import Recipe
from training.corpus import NOTHING, Corpus
from training.groups import PROMPTED
from training.journal import progress
from training.methods.teacher import mixtures, teacher_vectors

WHOSE: tuple[Role, ...] = get_args(Role)


def target_vectors(
    corpus: Corpus,
    recipe: Recipe,
    *,
    width: int,
    cache: Path,
    device: torch.device,
    console: Console,
) -> Tensor | None:
    """Vectors by target, float16 [targets, width]; None where nothing is distilled.

    Those that no stage needs stay zero, and cost nothing. The teacher is asked once for every
    text with its prompt, and its answers lie in `cache`.

    Raises:
        ModelMissing: the teacher is not where the recipe says.
        ValueError: the teacher is narrower than the student.
    """
    needed = _needed(corpus, recipe)
    if recipe.teacher is None or not needed:
        return None
    # A question as one number: of the text, and of whose prompt it has.
    parts = [
        np.array(corpus.targets[target], dtype=np.int64) * len(WHOSE) + WHOSE.index(role)
        for target, role in needed.items()
    ]
    asked = np.unique(np.concatenate(parts))
    texts, whose = np.divmod(asked, len(WHOSE))
    with progress(console, "teacher", len(asked)) as advance:
        found = teacher_vectors(
            recipe.teacher,
            [corpus.texts[text] for text in texts.tolist()],
            [WHOSE[role] for role in whose.tolist()],
            dimension=width,
            cache=cache,
            device=device,
            progress=advance,
        )
    places = [np.searchsorted(asked, part).tolist() for part in parts]
    vectors = np.zeros((len(corpus.targets), width), dtype=np.float16)
    vectors[list(needed)] = mixtures(found, places)
    return torch.from_numpy(vectors).to(device)


def _needed(corpus: Corpus, recipe: Recipe) -> dict[int, Role]:
    """The targets of the data sets that are distilled, each with whose prompt it has."""
    names = {
        name
        for stage in recipe.stage
        if any(isinstance(method, Distillation) for method in stage.methods)
        for batches in stage.batches
        for name in batches.data
    }
    if recipe.graft is not None:
        names.update(recipe.graft.data)
    return {
        target: PROMPTED[role]
        for name in sorted(names)
        for role, column in corpus.sets[name].targets.items()
        for target in np.unique(column[column != NOTHING]).tolist()
    }
