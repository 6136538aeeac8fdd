"""`golden.jsonl`: queries of a bundle with the passages that they must find, in many languages.

They were held out of training, and shape no vector. A service asks them before it lets a bundle go
live, in every pair of languages that they have.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

from service.errors import BundleInvalid
from service.manifest import LANGUAGE

ByLanguage: TypeAlias = Mapping[str, str]
LINES_LIMIT = 10_000
CHARACTERS_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class GoldenQuery:
    """Texts of one meaning by language; each query is answered by each of the passages, and no other.

    A text may be a query and a passage at once: it then says nothing about its own language.
    """

    query: ByLanguage
    passage: ByLanguage


def read_golden(path: Path) -> list[GoldenQuery]:
    """Read a file of golden queries, of any size up to `LINES_LIMIT` lines.

    Raises:
        BundleInvalid: what is wrong with it, and in which line.
    """
    queries = []
    try:
        # Not `splitlines`: a text may hold a character at which that cuts, e.g. U+2028.
        with path.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                if number > LINES_LIMIT:
                    raise BundleInvalid(f"{path.name}: more than {LINES_LIMIT} lines")
                try:
                    queries.append(_query(json.loads(line)))
                except (ValueError, RecursionError) as error:
                    raise BundleInvalid(f"{path.name}:{number}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BundleInvalid(f"{path.name}: {error}") from error
    return queries


def write_golden(path: Path, queries: Iterable[GoldenQuery]) -> None:
    """Write what `read_golden` reads; equal queries give equal bytes."""
    path.write_bytes(b"".join(golden_line(query) for query in queries))


def golden_line(query: GoldenQuery) -> bytes:
    """One line of the file."""
    return json.dumps(asdict(query), ensure_ascii=False).encode() + b"\n"


def _query(row: object) -> GoldenQuery:
    if not isinstance(row, dict) or row.keys() != {"query", "passage"}:
        raise ValueError('not an object {"query": {…}, "passage": {…}}')
    return GoldenQuery(_texts("query", row["query"]), _texts("passage", row["passage"]))


def _texts(role: str, texts: object) -> dict[str, str]:
    if not isinstance(texts, dict) or not texts:
        raise ValueError(f"{role} is not an object of language and text")
    for language, text in texts.items():
        if not LANGUAGE.fullmatch(language):
            raise ValueError(f"{role}: {language!r} is not a BCP-47 code such as de or zh-Hans")
        if not isinstance(text, str) or not text.strip() or "\0" in text:
            raise ValueError(f"{role}.{language} is no text")
        if len(text) > CHARACTERS_LIMIT:
            raise ValueError(
                f"{role}.{language} has {len(text)} characters, more than {CHARACTERS_LIMIT}"
            )
        text.encode()  # half a character is a UnicodeEncodeError, which is a ValueError
    return texts
