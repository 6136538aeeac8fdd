"""`golden.jsonl` of the user: queries of one's own, with the documents that they should find.

One JSON object a line: `{"query": "…", "language": "de", "collection": "default", "relevant": ["id"]}`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.errors import ConfigurationError, InvalidInput
from service.language import canonical

VARIABLE = "ISOGLOSS_GATE_GOLDEN"
LINES_LIMIT = 2_000
CHARACTERS_LIMIT = 10_000
KEYS = ("query", "language", "collection", "relevant")


@dataclass(frozen=True, slots=True)
class GoldenSearch:
    """A query in a language, and the ids of the documents of a collection that answer it."""

    query: str
    language: str
    collection: str
    relevant: frozenset[str]


def read_searches(path: Path) -> list[GoldenSearch]:
    """Read the user's golden queries; empty lines are skipped.

    Raises:
        ConfigurationError: what is wrong with the file, and in which line.
    """
    searches: list[GoldenSearch] = []
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                if len(searches) == LINES_LIMIT:
                    raise ConfigurationError(
                        f"{VARIABLE}: {path}, line {number}: more than {LINES_LIMIT} queries"
                    )
                try:
                    searches.append(_search(json.loads(line)))
                except (ValueError, RecursionError) as error:
                    raise ConfigurationError(
                        f"{VARIABLE}: {path}, line {number}: {error}"
                    ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{VARIABLE}: {path}: {error}") from error
    return searches


def _search(row: Any) -> GoldenSearch:
    given = row if isinstance(row, dict) else {}
    for key in KEYS:
        if key not in given:
            raise ValueError(f"{key!r} is missing; a line has {', '.join(KEYS)}")
    for key in given:
        if key not in KEYS:
            raise ValueError(f"unknown key {key!r}; a line has {', '.join(KEYS)}")
    relevant = given["relevant"]
    if not isinstance(relevant, list) or not relevant:
        raise ValueError("'relevant' is not a list of at least one document id")
    try:
        language = canonical(_text("language", given["language"]))
    except InvalidInput as error:
        raise ValueError(f"'language': {error.detail}") from error
    return GoldenSearch(
        _text("query", given["query"]),
        language,
        _text("collection", given["collection"]),
        frozenset(_text("relevant", one) for one in relevant),
    )


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError(f"{key!r} holds {value!r}, which is no text")
    if len(value) > CHARACTERS_LIMIT:
        raise ValueError(f"{key!r} has {len(value)} characters, more than {CHARACTERS_LIMIT}")
    value.encode()  # half a character is a UnicodeEncodeError, which is a ValueError
    return value
