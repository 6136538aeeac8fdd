"""The files of a data set: found by pattern, plain or gzip, read line by line without surprises."""

import glob
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import orjson

from training.readers.ledger import DataInvalid, Ledger

GZIP = b"\x1f\x8b"
BUFFER_BYTES = 1 << 20
"""Unpacking is called this seldom; with the default it costs more than the text itself."""


@dataclass(frozen=True, slots=True)
class File:
    """One file, and what of its name matters."""

    path: Path
    name: str
    """Below the data folder; it begins the ids of the file's groups."""
    star: str | None = None
    """What the last `*` of the pattern stands for."""

    @property
    def stem(self) -> str:
        """The file's name up to its first dot, for want of a better name of the source."""
        return self.path.name.partition(".")[0]


def find(folder: Path, pattern: str, *, key: str) -> list[File]:
    """The files that a pattern stands for, in order of their names; a missing `.gz` is forgiven.

    Of a file that is there both plain and packed, the plain one is read.

    Raises:
        DataInvalid: there is none; names the recipe's key.
    """
    there: dict[str, File] = {}
    for wanted in (pattern, f"{pattern}.gz"):
        shape = re.compile(re.escape(str(folder / wanted)).replace(r"\*", "([^/]*)"))
        for path in glob.glob(str(folder / wanted)):  # noqa: PTH207 - an absolute one is welcome
            there.setdefault(path.removesuffix(".gz"), _file(folder, Path(path), shape))
    if not there:
        raise DataInvalid(f"{key} = {pattern!r}: there is no such file below {folder}")
    return [there[name] for name in sorted(there)]


def _file(folder: Path, path: Path, shape: re.Pattern[str]) -> File:
    name = path.relative_to(folder) if path.is_relative_to(folder) else path
    matched = shape.fullmatch(str(path))
    stars = matched.groups() if matched else ()
    return File(path, str(name), stars[-1] if stars else None)


@contextmanager
def opened(file: File) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked; what goes wrong while they are read names the file."""
    try:
        with file.path.open("rb", buffering=BUFFER_BYTES) as raw:
            packed = raw.read(2) == GZIP
            raw.seek(0)
            if packed:
                with gzip.open(raw, "rb") as inner:
                    yield io.BufferedReader(inner, BUFFER_BYTES)
            else:
                yield raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataInvalid(f"{file.path}: cannot be read: {error}") from error


def lines(file: File) -> Iterator[tuple[int, str]]:
    """Number and text of each line, without its end.

    Raises:
        DataInvalid: the file cannot be read, or a line is not UTF-8.
    """
    with opened(file) as raw:
        for number, line in enumerate(raw, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataInvalid(f"{file.path}:{number}: not UTF-8: {error}") from error
            yield number, text.rstrip("\r\n")


def objects(file: File, ledger: Ledger) -> Iterator[tuple[str, dict[str, object]]]:
    """Place and content of the JSON objects of a file, one a line; bad ones are counted."""
    for number, line in lines(file):
        ledger.read += 1
        place = f"{file.name}:{number}"
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            ledger.bad(place, f"not JSON: {error}")
            continue
        if isinstance(row, dict):
            yield place, row
        else:
            ledger.bad(place, "not an object")


def strings(row: dict[str, object], *keys: str) -> list[str] | str:
    """The texts under these keys, or the reason why they cannot be had."""
    values = [row.get(key) for key in keys]
    found = [value for value in values if isinstance(value, str) and value.strip()]
    if len(found) == len(keys):
        return found
    missing = [k for k, v in zip(keys, values, strict=True) if v not in found]
    return f"no text under {', '.join(missing)}"


def passage(row: dict[str, object], text: str) -> str:
    """A passage as the service embeds it: the title, a line end, the text."""
    title = row.get("title")
    return f"{title}\n{text}" if isinstance(title, str) and title.strip() else text
