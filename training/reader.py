"""The files of a data folder, row by row: what is wrong is counted and shown, what is used hashed."""

import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from training.config import Data

SHOWN = 5
PAIR_COLUMNS = 3


class DataInvalid(ValueError):
    """The data folder cannot be used; the message names the files and lines."""


@dataclass(slots=True)
class SourceFacts:
    """How much of a source was used, under which licence, and a hash of just those rows."""

    licence: str
    rows: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def add(self, row: str) -> None:
        self.rows += 1
        self.digest.update(f"{row}\n".encode())

    def as_json(self) -> dict[str, str | int]:
        return {"licence": self.licence, "rows": self.rows, "sha256": self.digest.hexdigest()}


class Reader:
    """Streams rows by the rules of a recipe, and keeps count of them."""

    def __init__(self, options: Data) -> None:
        self._options = options
        self.sources: dict[str, SourceFacts] = {}
        self.read, self.refused = 0, 0
        self.complaints: list[str] = []
        """The first few malformed rows, as `file:line: why`."""

    def parallel_files(self, folder: Path) -> dict[str, Path]:
        """The file of each language of the recipe, or of every language there is.

        Raises:
            DataInvalid: there is none, or one of the recipe's languages is missing.
        """
        found = {
            path.name.removeprefix("en-").removesuffix(".tsv.gz"): path
            for path in sorted(folder.glob("en-*.tsv.gz"))
        }
        if not found:
            raise DataInvalid(f"{folder} holds no en-xx.tsv.gz")
        missing = [language for language in self._options.languages if language not in found]
        if missing:
            raise DataInvalid(f"{folder} holds no pairs for {', '.join(missing)} (data.languages)")
        return {language: found[language] for language in self._options.languages or found}

    def pairs(self, path: Path) -> Iterator[tuple[str, str, str]]:
        """English, foreign and source of each row of a tab-separated file with a header."""
        taken = 0
        for number, line in _lines(path):
            if number == 1:
                continue
            self.read += 1
            cells = [cell.strip() for cell in line.rstrip("\n").split("\t")]
            if len(cells) != PAIR_COLUMNS:
                self._refuse(path, number, f"{len(cells)} columns instead of {PAIR_COLUMNS}")
            elif not cells[0] or not cells[1]:
                self._refuse(path, number, "an empty side")
            elif (longest := max(len(cells[0]), len(cells[1]))) > self._options.max_characters:
                self._refuse(path, number, f"{longest} characters (data.max_characters)")
            elif not self._excluded(cells[2]):
                yield cells[0], cells[1], cells[2]
                taken += 1
                if taken == self._options.rows_per_language:
                    return

    def objects(self, path: Path, keys: Sequence[str]) -> Iterator[dict[str, str]]:
        """The JSON objects of a file of lines, each with text under all the keys."""
        limit = self._options.rows_per_language
        for number, line in _lines(path):
            if limit is not None and number > limit:
                return
            self.read += 1
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                self._refuse(path, number, f"not JSON: {error}")
                continue
            if not isinstance(row, dict):
                self._refuse(path, number, "not an object")
            elif missing := [key for key in keys if not isinstance(row.get(key), str)]:
                self._refuse(path, number, f"no text under {', '.join(missing)}")
            elif not self._excluded(str(row.get("source", ""))):
                yield row

    def used(self, source: str, row: str) -> None:
        """Account for a row that went into training."""
        if source not in self.sources:
            licence = self._options.licences.get(source, "unstated")
            self.sources[source] = SourceFacts(licence)
        self.sources[source].add(row)

    def check(self) -> None:
        """Raise `DataInvalid` if too large a share of the rows was malformed."""
        share = self._options.max_bad_share
        if self.refused > share * max(self.read, 1):
            raise DataInvalid(
                f"{self.refused} of {self.read} rows are malformed, more than the share of {share}"
                f" that the recipe allows (data.max_bad_share): {'; '.join(self.complaints)}"
            )

    def _excluded(self, source: str) -> bool:
        # `lafand-ict` is made of `lafand`.
        return any(
            source == name or source.startswith(f"{name}-")
            for name in self._options.exclude_sources
        )

    def _refuse(self, path: Path, line: int, why: str) -> None:
        self.refused += 1
        if len(self.complaints) < SHOWN:
            self.complaints.append(f"{path.name}:{line}: {why}")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
            yield from enumerate(lines, start=1)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataInvalid(f"{path}: cannot be read: {error}") from error
