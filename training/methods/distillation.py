"""Distillation: every side of a row must land where the teacher puts its English text.

Reimers and Gurevych 2020 (arXiv 2004.09813): a student learns from parallel text that both the
sentence and its translation have the English teacher's vector. The teacher's vectors are computed
once, reduced to the student's width by their own principal directions (without centring, so that
dot products are kept as well as the width allows), and lie on disk under the hash of what made them.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from training.config import Distillation, Teacher
from training.losses import cosine_distance, kl_rows, squared_distance
from training.model import embed, load_encoder, load_tokenizer, locate
from training.samplers import Batch, View

CHUNK = 16_384


def loss(
    settings: Distillation, batch: Batch, left: Tensor, right: Tensor | None
) -> dict[str, Tensor]:
    """The parts of the loss, the mean over the sides that the rows have."""
    sides = [_side(settings, batch.left, left)]
    if right is not None and batch.right is not None:
        sides.append(_side(settings, batch.right, right))
    return {name: torch.stack([side[name] for side in sides]).mean() for name in sides[0]}


def _side(settings: Distillation, view: View, student: Tensor) -> dict[str, Tensor]:
    if view.target is None:
        raise ValueError("distillation needs teacher vectors, and the batch has none")
    distance = cosine_distance if settings.distance == "cosine" else squared_distance
    parts = {"distance": distance(student, view.target)}
    if settings.relation_weight:
        # The student's row of similarities to the teacher's vectors must be the teacher's own.
        ours = F.log_softmax(student @ view.target.T / settings.temperature, dim=-1)
        wanted = F.log_softmax(view.target @ view.target.T / settings.temperature, dim=-1)
        parts["relation"] = settings.relation_weight * kl_rows(wanted, ours)
    return parts


def teacher_vectors(
    teacher: Teacher,
    texts: Sequence[str],
    *,
    dimension: int,
    cache: Path,
    device: torch.device,
    progress: Callable[[int], None] = lambda _: None,
) -> NDArray[np.float16]:
    """The teacher's unit vectors of English texts, [texts, dimension], from the cache if there.

    Raises:
        ModelMissing: the teacher is not where the recipe says.
        ValueError: the teacher is narrower than the student.
    """
    folder = locate(teacher.model)
    target = cache / f"teacher-{_key(folder, teacher, texts, dimension)}.npy"
    if target.is_file():
        progress(len(texts))
        cached: NDArray[np.float16] = np.load(target, allow_pickle=False)
        return cached
    full = _encode(folder, teacher, texts, device=device, progress=progress)
    if full.shape[1] < dimension:
        raise ValueError(
            f"the teacher has {full.shape[1]} dimensions, fewer than student.hidden = {dimension}"
        )
    reduced = principal(full, dimension).astype(np.float16)
    cache.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial.npy")
    np.save(partial, reduced)
    partial.replace(target)
    return reduced


def mixtures(vectors: NDArray[np.float16], parts: Sequence[Sequence[int]]) -> NDArray[np.float16]:
    """For each list of rows, their normalised mean: about where a text made of theirs would lie."""
    means = np.stack([vectors[list(rows)].astype(np.float32).mean(axis=0) for rows in parts])
    unit: NDArray[np.float32] = means / np.linalg.norm(means, axis=1, keepdims=True).clip(1e-12)
    return unit.astype(np.float16)


def principal(vectors: NDArray[np.float32], dimension: int) -> NDArray[np.float32]:
    """Project on the `dimension` strongest directions and normalise again."""
    if vectors.shape[1] == dimension:
        return vectors
    moments = vectors.T.astype(np.float64) @ vectors.astype(np.float64)
    _, directions = np.linalg.eigh(moments)  # ascending
    strongest = directions[:, ::-1][:, :dimension].astype(np.float32)
    reduced = vectors @ strongest
    unit: NDArray[np.float32] = reduced / np.linalg.norm(reduced, axis=1, keepdims=True).clip(1e-12)
    return unit


def _encode(
    folder: Path,
    teacher: Teacher,
    texts: Sequence[str],
    *,
    device: torch.device,
    progress: Callable[[int], None],
) -> NDArray[np.float32]:
    wrapper = load_tokenizer(folder)
    tokenizer = wrapper.backend_tokenizer
    tokenizer.enable_truncation(teacher.max_tokens)
    model = load_encoder(folder).to(device)
    parts = [
        embed(
            model,
            tokenizer,
            texts[start : start + CHUNK],
            padding_id=wrapper.pad_token_id or 0,
            batch_tokens=131_072 if device.type == "cuda" else 16_384,
            precision=torch.bfloat16,  # its errors are far below what a student reaches
            progress=progress,
        )
        for start in range(0, len(texts), CHUNK)
    ]
    return np.concatenate(parts)


def _key(folder: Path, teacher: Teacher, texts: Sequence[str], dimension: int) -> str:
    digest = hashlib.sha256(f"{teacher.max_tokens} {dimension} ".encode())
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        path = folder / name
        if path.is_file():
            with path.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()[:16]
