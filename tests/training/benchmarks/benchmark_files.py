"""What the tests of the benchmarks share: files of a few lines, and vectors that a text spells out."""

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from training.config.evaluation import Benchmark


def write(path: Path, lines: Iterable[str]) -> Path:
    """Lines of text, as gzip where the name ends in `.gz`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_objects(path: Path, rows: Iterable[Mapping]) -> Path:
    return write(path, (json.dumps(row, ensure_ascii=False) for row in rows))


def write_table(path: Path, *rows: Iterable[object]) -> Path:
    """Tab-separated, the first row is the header."""
    return write(path, ("\t".join(map(str, row)) for row in rows))


def benchmark(name: str, **options) -> Benchmark:
    return Benchmark.model_validate({"name": name, **options})


def spelt(texts, _role):
    """The unit vector of the numbers that end a text: `what is it? 3 4` is (0.6, 0.8, 0, 0)."""
    vectors = np.zeros((len(texts), 4), dtype=np.float32)
    for row, text in enumerate(texts):
        numbers = [
            float(word) for word in text.split() if word.lstrip("-").replace(".", "").isdigit()
        ]
        vectors[row, : len(numbers)] = numbers
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def cells_by_name(measured, embed=spelt):
    return {cell.name: cell for cell in measured.cells(embed)}
