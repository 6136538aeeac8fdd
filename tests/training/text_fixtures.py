"""Small files of every format, written as their makers write them."""

import gzip
import json
from pathlib import Path

from training.config.data import Data
from training.config.recipe import Recipe
from training.readers import Ledger, read_set


def write(path: Path, *lines: str) -> Path:
    """Lines of a file, gzip if its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def write_rows(path: Path, *rows: object) -> Path:
    return write(path, *(json.dumps(row, ensure_ascii=False) for row in rows))


def data_of(settings: dict[str, object], **options: object) -> Data:
    return Data.model_validate({"sets": {"s": settings}, "max_bad_share": 1, **options})


def groups_of(folder: Path, settings: dict[str, object], **options: object):
    """The groups of a set with these settings, and the account of how they were read."""
    data = data_of(settings, **options)
    ledger = Ledger(data)
    return list(read_set("s", data.sets["s"], folder, ledger)), ledger


def recipe_of(sets: dict[str, object], *, evaluation: object = None, **options: object) -> Recipe:
    """A recipe around some data sets."""
    return Recipe.model_validate(
        {
            "name": "toy",
            "version": "1",
            "licence": "CC0-1.0",
            "student": {},
            "data": {"sets": sets, "held_out_share": 1e-9, "max_bad_share": 1, **options},
            "evaluation": evaluation or {},
            "stage": [
                {
                    "name": "one",
                    "steps": 1,
                    "rows": 2,
                    "tokens": 64,
                    "learning_rate": 1e-3,
                    "batches": [{"kind": "mono", "data": list(sets)}],
                    "methods": [{"method": "info_nce"}],
                }
            ],
        }
    )
