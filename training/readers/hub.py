"""Data sets of the Hugging Face hub, streamed by id, or a folder that its library can read."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

from training.config.data import Hub
from training.groups import Group
from training.readers.ledger import DataInvalid, Ledger

NEGATIVE = "negative"


def read(folder: Path, settings: Hub, ledger: Ledger, *, key: str) -> Iterator[Group]:
    """A group a row, and one for each distinct text of a `negative` column.

    Raises:
        DataInvalid: the hub cannot be reached, or has no such data set, split or column.
    """
    local = folder / settings.id
    where = str(local) if local.is_dir() else settings.id
    seen: set[str] = set()
    for number, row in enumerate(_rows(where, settings, key), start=1):
        ledger.read += 1
        if number == 1 and (missing := settings.columns.keys() - row.keys()):
            raise DataInvalid(
                f"{key}.columns: {settings.id} has no {', '.join(sorted(missing))}, only"
                f" {', '.join(sorted(row))}"
            )
        yield from _groups(row, f"{settings.id}:{number}", settings, ledger, seen=seen)


def _rows(where: str, settings: Hub, key: str) -> Iterator[dict[str, Any]]:
    try:
        yield from datasets.load_dataset(
            where,
            name=settings.config,
            split=settings.split,
            revision=settings.revision,
            streaming=True,
        )
    except Exception as error:
        # What the library raises is of many kinds (its own, the hub's, the network's, Arrow's).
        raise DataInvalid(
            f"{key}: the data set {settings.id!r} (config {settings.config}, split"
            f" {settings.split!r}) cannot be read: {type(error).__name__}: {error}."
            " Without a hub, write it as groups or name a local folder"
        ) from error


def _groups(
    row: dict[str, Any], place: str, settings: Hub, ledger: Ledger, *, seen: set[str]
) -> Iterator[Group]:
    source = settings.source or settings.id
    texts: dict[Any, dict[str, str]] = {}
    negatives: list[str] = []
    for column, slot in settings.columns.items():
        role, _, language = slot.partition(".")
        values = row[column] if isinstance(row[column], list) else [row[column]]
        found = [value.strip() for value in values if isinstance(value, str) and value.strip()]
        if role != NEGATIVE and len(found) != 1:
            ledger.bad(place, f"{len(found)} texts under {column}")
            return
        if role != NEGATIVE:
            texts.setdefault(role, {})[language] = found[0]
            continue
        for text in found:
            name = f"{language}:{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"
            negatives.append(name)
            if name not in seen:
                seen.add(name)
                yield Group(name, {"passage": {language: text}}, source)
    yield Group(place, texts, source, negatives=tuple(negatives))
