"""Projections of a bundle as modules of its Sentence Transformers folder, so that both agree."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from training.centroids import Projection
from training.sentence_folder import write_modules


def write_dense(folder: Path, projections: Sequence[Projection]) -> None:
    """Append a linear layer and a normalisation for each projection, weights included."""
    kinds = ["Transformer", "Pooling", "Normalize"]
    for projection in projections:
        place = folder / f"{len(kinds)}_Dense"
        place.mkdir()
        width, inputs = projection.weight.shape
        settings = {
            "in_features": inputs,
            "out_features": width,
            "bias": projection.bias is not None,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
        (place / "config.json").write_text(json.dumps(settings, indent=1) + "\n", "utf-8")
        tensors = {"linear.weight": np.ascontiguousarray(projection.weight)}
        if projection.bias is not None:
            tensors["linear.bias"] = projection.bias
        save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
        (place / "model.safetensors").chmod(0o644)
        kinds += ["Dense", "Normalize"]
    write_modules(folder, kinds)


def cut_to(dimension: int, *, width: int) -> Projection:
    """Keep the first dimensions (Matryoshka, Kusupati et al. 2022)."""
    return Projection(np.eye(dimension, width, dtype=np.float32))
