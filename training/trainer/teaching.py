"""The teacher's vectors that the distilling stages of a run need, one for every target of its data."""

from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from training.config.methods import Distillation
from training.config.recipe import Recipe
from training.corpus import NOTHING, Corpus, Ids
from training.journal import progress
from training.methods import distillation


def target_vectors(
    corpus: Corpus,
    recipe: Recipe,
    *,
    width: int,
    cache: Path,
    device: torch.device,
    console: Console,
) -> Tensor | None:
    """Vectors by target, float16 [targets, width]; None where no stage distils.

    Those that no stage needs stay zero, and cost nothing. The teacher is asked once for every
    text, and its answers lie in `cache`.

    Raises:
        ModelMissing: the teacher is not where the recipe says.
        ValueError: the teacher is narrower than the student.
    """
    needed = _needed(corpus, recipe)
    if recipe.teacher is None or not len(needed):
        return None
    parts = [np.array(corpus.targets[target], dtype=np.int64) for target in needed.tolist()]
    numbers = np.unique(np.concatenate(parts))
    with progress(console, "teacher", len(numbers)) as advance:
        found = distillation.teacher_vectors(
            recipe.teacher,
            [corpus.texts[number] for number in numbers.tolist()],
            dimension=width,
            cache=cache,
            device=device,
            progress=advance,
        )
    places = [np.searchsorted(numbers, part).tolist() for part in parts]
    vectors = np.zeros((len(corpus.targets), width), dtype=np.float16)
    vectors[needed] = distillation.mixtures(found, places)
    return torch.from_numpy(vectors).to(device)


def _needed(corpus: Corpus, recipe: Recipe) -> Ids:
    """The targets of the data sets of the stages that distil."""
    names = {
        name
        for stage in recipe.stage
        if any(isinstance(method, Distillation) for method in stage.methods)
        for batches in stage.batches
        for name in batches.data
    }
    columns = [
        column.astype(np.int64)
        for name in sorted(names)
        for column in corpus.sets[name].targets.values()
    ]
    found: Ids = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *columns]))
    known: Ids = found[found != NOTHING]
    return known
