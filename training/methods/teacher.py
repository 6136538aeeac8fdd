"""The teacher's vectors of English texts: asked once, kept on disk, brought to the student's width.

What the teacher said of a text lies in a folder under the hash of what made it, in files of some
thousand texts each. So a run that was interrupted, or whose data changed a little, asks only for
what is new. *Why* the full width is kept: the directions that a narrower student keeps depend on all
texts, the vectors do not.
"""

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from service.types import Role
from training.config.recipe import Teacher
from training.model import embed
from training.pretrained import Pretrained, open_pretrained

CHUNK = 16_384
"""Texts of a file."""
NAME_BYTES = 12


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

    Each text has the prompt of its role. A narrower student gets the strongest directions of all
    the vectors, the strongest first. A damaged file of the cache is made anew.

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
    distinct = list(dict.fromkeys(prompted))
    folder = cache / f"teacher-{_key(model)}"
    full = _asked(model, distinct, folder, device=device, progress=progress)
    vectors = principal(full, dimension)
    if len(distinct) == len(prompted):
        return vectors
    progress(len(prompted) - len(distinct))
    place = {text: number for number, text in enumerate(distinct)}
    return vectors[[place[text] for text in prompted]]


def mixtures(vectors: NDArray[np.float16], parts: Sequence[Sequence[int]]) -> NDArray[np.float16]:
    """For each list of rows, their normalised mean: about where a text made of theirs would lie."""
    mixed = np.empty((len(parts), vectors.shape[1]), dtype=np.float16)
    for number, rows in enumerate(parts):
        mean = vectors[list(rows)].astype(np.float32).mean(axis=0)
        mixed[number] = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return mixed


def principal(vectors: NDArray[np.float16], dimension: int) -> NDArray[np.float16]:
    """Project on the `dimension` strongest directions, strongest first, and normalise again.

    Without centring, so that dot products are kept as well as the width allows. A student that is
    cut (Matryoshka) meets the best cut of its teacher.
    """
    if vectors.shape[1] == dimension:
        return vectors
    exact = vectors.astype(np.float64)
    _, directions = np.linalg.eigh(exact.T @ exact)  # ascending
    strongest = directions[:, ::-1][:, :dimension]
    # A direction is as good as its opposite: take the one that every machine would.
    largest = np.abs(strongest).argmax(axis=0)
    strongest *= np.sign(strongest[largest, np.arange(dimension)])
    reduced = exact @ strongest
    unit = reduced / np.linalg.norm(reduced, axis=1, keepdims=True).clip(1e-12)
    half: NDArray[np.float16] = unit.astype(np.float16)
    return half


def _asked(
    model: Pretrained,
    texts: Sequence[str],
    folder: Path,
    *,
    device: torch.device,
    progress: Callable[[int], None],
) -> NDArray[np.float16]:
    """Unit vectors of distinct texts, [texts, width]; what is not in the folder is put there."""
    place = {_name(text): number for number, text in enumerate(texts)}
    vectors = np.empty((len(texts), model.encoder.width), dtype=np.float16)
    known = np.zeros(len(texts), dtype=np.bool_)
    for names, kept in _kept(folder, width=model.encoder.width):
        rows = np.array([place.get(bytes(name), -1) for name in names], dtype=np.int64)
        wanted = rows >= 0
        vectors[rows[wanted]] = kept[wanted]
        known[rows[wanted]] = True
    progress(int(known.sum()))
    # Texts of like length share a file, because they are computed together.
    missing = sorted(np.flatnonzero(~known).tolist(), key=lambda number: len(texts[number]))
    model.encoder.to(device)
    for start in range(0, len(missing), CHUNK):
        chosen = missing[start : start + CHUNK]
        asked = [texts[number] for number in chosen]
        found = _encode(model, asked, device=device, progress=progress)
        _keep(folder, [_name(text) for text in asked], found)
        vectors[chosen] = found
    return vectors


def _name(text: str) -> bytes:
    # Never ends in a zero byte, which numpy would take for padding.
    return hashlib.blake2b(text.encode(), digest_size=NAME_BYTES).digest() + b"."


def _keep(folder: Path, names: Sequence[bytes], vectors: NDArray[np.float16]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(b''.join(names)).hexdigest()[:16]}.npz"
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.savez(file, names=np.array(names), vectors=vectors)
    partial.replace(path)


def _kept(folder: Path, *, width: int) -> Iterator[tuple[NDArray[np.bytes_], NDArray[np.float16]]]:
    """What lies there and is whole: an archive has a checksum; a damaged one is taken away."""
    for path in sorted(folder.glob("*.npz")):
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                names, vectors = archive["names"], archive["vectors"]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
            path.unlink(missing_ok=True)
            continue
        if vectors.shape != (len(names), width) or vectors.dtype != np.float16:
            path.unlink(missing_ok=True)
        else:
            yield names, vectors


def _encode(
    model: Pretrained,
    texts: Sequence[str],
    *,
    device: torch.device,
    progress: Callable[[int], None],
) -> NDArray[np.float16]:
    tokenizer = Tokenizer.from_str(model.pieces.tokenizer.to_str())
    tokenizer.enable_truncation(model.max_tokens)
    return embed(
        model.encoder,
        tokenizer,
        texts,
        padding_id=model.pieces.pad,
        batch_tokens=131_072 if device.type == "cuda" else 8192,
        precision=torch.bfloat16,  # its errors are far below what a student reaches
        progress=progress,
    ).astype(np.float16)


def _key(model: Pretrained) -> str:
    """The hash of everything that shapes the vector of a text; its prompt is part of the text."""
    shape = model.encoder.backbone.config.to_dict()
    for name in ("_name_or_path", "transformers_version"):
        shape.pop(name, None)
    encoder = [shape, model.encoder.pooling, model.max_tokens]
    digest = hashlib.sha256(json.dumps(encoder, sort_keys=True, default=str).encode())
    digest.update(model.pieces.tokenizer.to_str().encode())
    for name, weights in model.encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(weights.contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
