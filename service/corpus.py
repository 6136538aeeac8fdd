"""Documents out of files: JSON lines, tables, and plain text, each perhaps gzipped.

A folder stands for every file below it that has one of these endings. Reading streams: a file of
any length takes the memory of one line.
"""

import csv
import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO, TypeAlias

from service.errors import InvalidInput

TABLES = {".tsv": "\t", ".csv": ","}
LINES = {".jsonl", ".ndjson"}
TEXTS = {".txt", ".md"}

Record: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a table hold the text and the id; without an id column the row number serves."""

    text: str = "text"
    id: str | None = None
    language: str | None = None


def files(paths: Sequence[Path]) -> list[Path]:
    """The files that the paths stand for, in a stable order.

    Raises:
        InvalidInput: a path is not there, or a file has an ending that nobody reads.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(file for file in path.rglob("*") if file.is_file() and _ending(file))
        elif not path.is_file():
            raise InvalidInput(f"{path} is not there")
        elif not _ending(path):
            known = " ".join(sorted({*TABLES, *LINES, *TEXTS}))
            raise InvalidInput(
                f"{path}: cannot tell how to read it; known endings: {known} (and .gz)"
            )
        else:
            found.append(path)
    return found


def documents(path: Path, *, columns: Columns, by_line: bool = False) -> Iterator[Record]:
    """The documents of one file, as `POST /documents` takes them.

    JSON lines may use the keys of BEIR (`_id`, `lang`). A table gives one document a row, a text
    file one document, or one a line with `by_line`.

    Raises:
        InvalidInput: a line is not what the ending says; the message has file and line.
    """
    ending = _ending(path)
    with _open(path) as stream:
        try:
            if ending in LINES:
                yield from _json_lines(path, stream)
            elif ending in TABLES:
                yield from _rows(path, stream, columns, delimiter=TABLES[ending])
            elif by_line:
                lines = ((number, line.strip()) for number, line in enumerate(stream, 1))
                yield from (
                    {"id": f"{path.name}:{number}", "text": line} for number, line in lines if line
                )
            else:
                yield {"id": path.name, "title": path.stem, "text": stream.read()}
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, csv.Error) as error:
            raise InvalidInput(f"{path}: {error}") from error


def _json_lines(path: Path, stream: Iterable[str]) -> Iterator[Record]:
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InvalidInput(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(record, dict):
            raise InvalidInput(f"{path}, line {number}: a document is an object, not {line[:40]!r}")
        for theirs, ours in (("_id", "id"), ("lang", "language")):
            if theirs in record:
                record.setdefault(ours, record.pop(theirs))
        yield record


def _rows(path: Path, stream: TextIO, columns: Columns, *, delimiter: str) -> Iterator[Record]:
    quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    rows = csv.DictReader(stream, delimiter=delimiter, quoting=quoting)
    have = rows.fieldnames or []
    for wanted in (columns.text, columns.id, columns.language):
        if wanted is not None and wanted not in have:
            raise InvalidInput(f"{path}: no column {wanted!r}; it has: {', '.join(have)}")
    for number, row in enumerate(rows, 2):
        if not (row[columns.text] or "").strip():
            continue
        record = {
            "id": row[columns.id] if columns.id else f"{path.name}:{number}",
            "text": row[columns.text],
        }
        if columns.language:
            record["language"] = row[columns.language]
        yield record


def _ending(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    ending = Path(name).suffix.lower()
    return ending if ending in {*TABLES, *LINES, *TEXTS} else ""


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")
