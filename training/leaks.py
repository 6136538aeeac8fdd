"""What of the training text is also evaluated: found by hashes, counted, and shown.

Two texts are the same if their letters, marks and digits are (NFKC, case-folded), in whatever
language; an English text leaks, too, if it shares a run of ten words with an evaluated English one.
Sentences that differ in one word are not found.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b

from training.config.batches import ENGLISH

RUN = 10
"""Words in a row."""
SHOWN = 20


class _Spaces(dict[int, str]):
    """A table for `str.translate` that keeps letters, marks and digits, and makes spaces of others."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = kept = character if unicodedata.category(character)[0] in "LMN" else " "
        return kept


_SPACES = _Spaces()


def words(text: str) -> list[str]:
    """The runs of letters, marks and digits of a text, NFKC and case-folded."""
    return unicodedata.normalize("NFKC", text).casefold().translate(_SPACES).split()


class Evaluated:
    """Hashes of everything that some benchmarks evaluate."""

    def __init__(self, benchmarks: Mapping[str, Iterable[tuple[str, str]]]) -> None:
        """Read language and text of every evaluated text, by benchmark."""
        self._names = list(benchmarks)
        self._wholes: dict[bytes, int] = {}
        self._runs: dict[bytes, int] = {}
        self.checked = dict.fromkeys(benchmarks, 0)
        """Evaluated texts by benchmark."""
        for number, (name, texts) in enumerate(benchmarks.items()):
            for language, text in texts:
                self.checked[name] += 1
                found = words(text)
                if found:  # a text without any letter says nothing
                    self._wholes.setdefault(_hash("".join(found)), number)
                if language == ENGLISH:
                    for run in _runs(found):
                        self._runs.setdefault(run, number)

    def find(self, text: str, language: str) -> str | None:
        """The benchmark that evaluates this text, if any does."""
        found = words(text)
        number = self._wholes.get(_hash("".join(found))) if found else None
        if number is None and language == ENGLISH and self._runs:
            number = next((self._runs[run] for run in _runs(found) if run in self._runs), None)
        return None if number is None else self._names[number]


class Leaks:
    """The account of what was found: counts by benchmark, language and source, some examples."""

    def __init__(self, handling: str, *, checked: Mapping[str, int]) -> None:
        self.handling = handling
        self._checked = checked
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self.examples: list[dict[str, str]] = []

    def add(self, benchmark: str, language: str, source: str, text: str) -> None:
        self._counts[benchmark, language, source] += 1
        if len(self.examples) < SHOWN:
            self.examples.append({"benchmark": benchmark, "language": language, "text": text})

    def __len__(self) -> int:
        """Texts that were found."""
        return self._counts.total()

    def __str__(self) -> str:
        by_benchmark: Counter[str] = Counter()
        for (benchmark, _, _), count in self._counts.items():
            by_benchmark[benchmark] += count
        return ", ".join(f"{name}: {count}" for name, count in by_benchmark.most_common())

    def as_json(self) -> dict[str, object]:
        return {
            "handling": self.handling,
            "checked": dict(self._checked),
            "texts": len(self),
            "counts": [
                {"benchmark": benchmark, "language": language, "source": source, "texts": count}
                for (benchmark, language, source), count in sorted(self._counts.items())
            ],
            "examples": self.examples,
        }


def _runs(found: list[str]) -> Iterator[bytes]:
    return (_hash(" ".join(found[i : i + RUN])) for i in range(len(found) - RUN + 1))


def _hash(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=8).digest()
