"""The static space that a graft's new pieces begin from, measured as if it were an encoder.

    python -m tests.benchmarks.skeleton --data FOLDER --run runs/starter --out skeleton.json

A text is the mean of the vectors of its pieces. The space is trained again as the run's recipe says, on the run's
own pieces; a run does not keep it. The teacher's vectors are taken from the run's cache, or --cache.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from service.types import Matrix, Role
from training.config.recipe import Recipe
from training.data import read_corpus
from training.evaluation import evaluate
from training.pretrained import open_pretrained
from training.trainer.graft.skeleton import static_space
from training.trainer.teaching import target_vectors


def main() -> None:
    options = parse_options()
    recipe = Recipe.model_validate_json((options.run / "recipe.json").read_text("utf-8"))
    assert recipe.graft is not None
    encoder = open_pretrained(str(options.run / "encoder"))
    corpus = read_corpus(options.data, recipe)
    targets = target_vectors(
        corpus,
        recipe,
        width=encoder.encoder.width,
        cache=options.cache or options.run / "cache",
        device=torch.device("cpu"),
        console=Console(stderr=True),
    )
    assert targets is not None
    space = static_space(corpus, encoder.pieces, targets, recipe.graft, seed=recipe.seed).numpy()
    special = list(encoder.pieces.special)

    def embed(texts: Sequence[str], _role: Role) -> Matrix:
        vectors = np.zeros((len(texts), space.shape[1]), dtype=np.float32)
        for row, ids in enumerate(encoder.pieces.encode(list(texts))):
            own = ids[np.isin(ids, special, invert=True)]
            vectors[row] = space[own].mean(axis=0) if len(own) else space[ids].mean(axis=0)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    evaluate(embed, options.data, recipe.evaluation, model="static space").write(options.out)


def parse_options() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--run", type=Path, required=True)
    options.add_argument("--cache", type=Path)
    options.add_argument("--out", type=Path, required=True)
    return options.parse_args()


if __name__ == "__main__":
    main()
