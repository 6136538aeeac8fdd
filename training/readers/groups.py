"""Groups as lines of JSON: the format that every data set can be written in, and mining writes."""

import gzip
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson

from training.config.data import JsonLines
from training.groups import Group, GroupInvalid
from training.readers.files import File, objects
from training.readers.ledger import Ledger


def read(file: File, settings: JsonLines, ledger: Ledger) -> Iterator[Group]:
    """A group a line."""
    for place, row in objects(file, ledger):
        try:
            yield Group.from_json(row, source=settings.source or file.stem)
        except GroupInvalid as error:
            ledger.bad(place, str(error))


def write_groups(path: Path, groups: Iterable[Group]) -> int:
    """Write groups to a gzip file of JSON lines, all or nothing, and say how many there were.

    The bytes depend on the groups alone, so that a hash of the file means something.
    """
    partial = path.with_name(f".{path.name}.partial")
    count = 0
    try:
        with partial.open("wb") as raw:
            with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
                for group in groups:
                    file.write(orjson.dumps(group.as_json()) + b"\n")
                    count += 1
            raw.flush()
            os.fsync(raw.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return count
