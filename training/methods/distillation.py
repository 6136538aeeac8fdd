"""Distillation: every side of a row must land where the teacher puts its English text.

Reimers and Gurevych 2020 (arXiv 2004.09813): a student learns from parallel text that both the
sentence and its translation have the English teacher's vector. The teacher's vectors are computed
once, reduced to the student's width by their own principal directions (without centring, so that
dot products are kept as well as the width allows), and lie on disk under the hash of what made them.
The strongest direction comes first, so a student that is cut (Matryoshka) meets the best cut of its
teacher.
"""

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from service.types import Role
from training.batch import Facts, Outputs, View
from training.config.methods import Distillation
from training.config.recipe import Teacher
from training.losses import cosine_distance, cosines, kl_rows, squared_distance
from training.methods.pooled import pooled_needs, pooled_rows
from training.model import embed
from training.pretrained import Pretrained, open_pretrained

CHUNK = 16_384
SIDES = ("query", "positive", "cross_query")
TARGET = "_target"


class DistillationMethod:
    """`query`, `positive` and `cross_query`, as far as the batch has them with their `target`.

    A row whose target is all zero has no teacher vector, and counts for nothing.
    """

    def __init__(self, settings: Distillation, _encoder: object, _pieces: object) -> None:
        self.settings = settings
        self.head = nn.Identity()
        self.vectors = frozenset(name + end for name in SIDES for end in ("", TARGET))

    def needs(self, views: frozenset[str]) -> dict[str, frozenset[str]]:
        return pooled_needs("distillation", views, self._read(views))

    def rows(self, outputs: Mapping[str, Outputs], views: Mapping[str, View]) -> dict[str, Tensor]:
        taught = [name for name in self._read(views) if "target" in views[name].extra]
        if not taught:
            raise ValueError(
                "distillation needs teacher vectors, and none of the views"
                f" {', '.join(sorted(views))} has a target"
            )
        targets = {name + TARGET: views[name].extra["target"] for name in taught}
        return {**pooled_rows(outputs, taught), **targets}

    def loss(self, rows: Mapping[str, Tensor], facts: Facts) -> dict[str, Tensor]:  # noqa: ARG002 - the protocol's
        """`cosine` and `mse` (as chosen) and `relation`: means over the rows of all sides."""
        sides = [self._side(rows[name], rows[name + TARGET]) for name in SIDES if name in rows]
        return {name: torch.stack([side[name] for side in sides]).mean() for name in sides[0]}

    def _side(self, student: Tensor, target: Tensor) -> dict[str, Tensor]:
        target = target.detach()
        taught = target.abs().sum(1) > 0
        student, target = student[taught], target[taught]
        rows = max(1, len(student))
        parts: dict[str, Tensor] = {}
        if self.settings.distance in {"cosine", "cosine_and_mse"}:
            parts["cosine"] = cosine_distance(student, target).sum() / rows
        if self.settings.distance in {"mse", "cosine_and_mse"}:
            parts["mse"] = squared_distance(student, target).sum() / rows
        if self.settings.relation_weight:
            # The student's row of similarities to the teacher's vectors must be the teacher's own.
            ours = torch.log_softmax(cosines(student, target) / self.settings.temperature, dim=-1)
            own = torch.log_softmax(cosines(target, target) / self.settings.temperature, dim=-1)
            parts["relation"] = self.settings.relation_weight * kl_rows(own, ours).sum() / rows
        return parts

    @staticmethod
    def _read(views: Collection[str]) -> list[str]:
        return ["query", *(name for name in SIDES[1:] if name in views)]


def teacher_vectors(
    teacher: Teacher,
    texts: Sequence[str],
    roles: Sequence[Role],
    *,
    dimension: int,
    cache: Path,
    device: torch.device,
    progress: Callable[[int], None] = lambda _: None,
) -> NDArray[np.float16]:
    """The teacher's unit vectors of English texts, [texts, dimension], from the cache if there.

    Each text has the prompt of its role. A damaged file of the cache is made anew.

    Raises:
        ModelMissing: the teacher is not where the recipe says.
        ModelUnsupported: its folder cannot be read, or does not say what is needed.
        ValueError: the teacher is narrower than the student.
    """
    model = open_pretrained(
        teacher.model,
        max_tokens=teacher.max_tokens,
        pooling=teacher.pooling,
        prompts=teacher.prompts,
    )
    if model.encoder.width < dimension:
        raise ValueError(
            f"the teacher {teacher.model} has {model.encoder.width} dimensions, fewer than the"
            f" student's {dimension}; take a wider teacher or a narrower student"
        )
    prompted = [model.prompts[role] + text for text, role in zip(texts, roles, strict=True)]
    place = {text: number for number, text in enumerate(dict.fromkeys(prompted))}
    target = cache / f"teacher-{_key(model, list(place), dimension)}.npz"
    vectors = _cached(target, (len(place), dimension))
    if vectors is None:
        full = _encode(model, list(place), device=device, progress=progress)
        vectors = principal(full, dimension).astype(np.float16)
        _keep(target, vectors)
    else:
        progress(len(place))
    if len(place) == len(prompted):
        return vectors
    progress(len(prompted) - len(place))
    return vectors[[place[text] for text in prompted]]


def _keep(path: Path, vectors: NDArray[np.float16]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.savez(file, vectors=vectors)
    partial.replace(path)


def _cached(path: Path, shape: tuple[int, int]) -> NDArray[np.float16] | None:
    """What lies there if it is whole: an archive has a checksum, which a bare array has not."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            vectors: NDArray[np.float16] = archive["vectors"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        return None
    return vectors if vectors.shape == shape and vectors.dtype == np.float16 else None


def mixtures(vectors: NDArray[np.float16], parts: Sequence[Sequence[int]]) -> NDArray[np.float16]:
    """For each list of rows, their normalised mean: about where a text made of theirs would lie."""
    means = np.stack([vectors[list(rows)].astype(np.float32).mean(axis=0) for rows in parts])
    unit: NDArray[np.float32] = means / np.linalg.norm(means, axis=1, keepdims=True).clip(1e-12)
    return unit.astype(np.float16)


def principal(vectors: NDArray[np.float32], dimension: int) -> NDArray[np.float32]:
    """Project on the `dimension` strongest directions, strongest first, and normalise again."""
    if vectors.shape[1] == dimension:
        return vectors
    moments = vectors.T.astype(np.float64) @ vectors.astype(np.float64)
    _, directions = np.linalg.eigh(moments)  # ascending
    strongest = directions[:, ::-1][:, :dimension].astype(np.float32)
    # A direction is as good as its opposite: take the one that every machine would.
    largest = np.abs(strongest).argmax(axis=0)
    strongest *= np.sign(strongest[largest, np.arange(dimension)])
    reduced = vectors @ strongest
    unit: NDArray[np.float32] = reduced / np.linalg.norm(reduced, axis=1, keepdims=True).clip(1e-12)
    return unit


def _encode(
    model: Pretrained,
    texts: Sequence[str],
    *,
    device: torch.device,
    progress: Callable[[int], None],
) -> NDArray[np.float32]:
    tokenizer = Tokenizer.from_str(model.pieces.tokenizer.to_str())
    tokenizer.enable_truncation(model.max_tokens)
    encoder = model.encoder.to(device)
    parts = [
        embed(
            encoder,
            tokenizer,
            list(texts[start : start + CHUNK]),
            padding_id=model.pieces.pad,
            batch_tokens=131_072 if device.type == "cuda" else 16_384,
            precision=torch.bfloat16,  # its errors are far below what a student reaches
            progress=progress,
        )
        for start in range(0, len(texts), CHUNK)
    ]
    return np.concatenate(parts)


def _key(model: Pretrained, texts: Sequence[str], dimension: int) -> str:
    """The hash of everything that shapes the vectors; the texts have their prompts."""
    shape = model.encoder.backbone.config.to_dict()
    for name in ("_name_or_path", "transformers_version"):
        shape.pop(name, None)
    prompts = sorted(set(model.prompts.values()))
    encoder = [shape, model.encoder.pooling, model.max_tokens, *prompts, dimension]
    digest = hashlib.sha256(json.dumps(encoder, sort_keys=True, default=str).encode())
    digest.update(model.pieces.tokenizer.to_str().encode())
    for name, weights in model.encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(weights.contiguous().view(torch.uint8).numpy())
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()[:16]
