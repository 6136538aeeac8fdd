"""Weights as int8, each matrix with one scale a row: written, and read back as float32.

One file serves both: the int8 graph of a bundle names its byte ranges, and training starts from it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

SMALL_WEIGHTS = "model.int8.safetensors"
SCALE = ".scale"
"""Appended to a matrix's name for that of its scales, [rows], float32."""
LARGEST = 127
"""-128 stays unused, so that a row and its negative are cut alike."""


def quantised(state: Mapping[str, Tensor], matrices: Iterable[str]) -> dict[str, Tensor]:
    """Replace the named matrices [rows, columns] by int8 ones and their scales.

    A row's largest component becomes 127 or -127; no component moves by more than half a scale.
    """
    small = {name: tensor.detach().contiguous() for name, tensor in state.items()}
    for name in matrices:
        rows = small[name].float()
        largest = rows.abs().amax(dim=1)
        scale = torch.where(largest > 0, largest / LARGEST, torch.ones_like(largest))
        small[name] = (rows / scale[:, None]).round().to(torch.int8)
        small[name + SCALE] = scale
    return small


def write_small_weights(folder: Path, small: dict[str, Tensor]) -> None:
    """Write `model.int8.safetensors`: the same weights, the same bytes."""
    path = folder / SMALL_WEIGHTS
    # One entry only: several come in another order each time, and the space is a hash of the file.
    save_file(small, path, metadata={"int8": "row of a matrix = int8 * its scale"})
    path.chmod(0o644)  # the writer's umask made it private


def read_small_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of `model.int8.safetensors` in float32."""
    small = load_file(folder / SMALL_WEIGHTS)
    return {
        name: tensor.float() * small[name + SCALE][:, None] if name + SCALE in small else tensor
        for name, tensor in small.items()
        if not name.endswith(SCALE)
    }
