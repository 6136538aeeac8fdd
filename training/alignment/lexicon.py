"""Links from a dictionary: two words that it pairs, each once in its sentence (ML-CTL's data)."""

import gzip
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from training.alignment.links import LinksInvalid
from training.alignment.words import form, split
from training.groups import Links

Phrase = tuple[str, ...]


class LexiconAligner:
    """Pairs of source word and target words; an entry of several source words is never found."""

    def __init__(self, entries: Sequence[tuple[str, str]], *, source: str, target: str) -> None:
        self._known: dict[str, set[Phrase]] = {}
        for left, right in entries:
            one, other = _phrase(left, source), _phrase(right, target)
            if len(one) == 1 and other:
                self._known.setdefault(one[0], set()).add(other)
        phrases = {phrase for known in self._known.values() for phrase in known}
        self._lengths = sorted({len(phrase) for phrase in phrases})

    def align(self, pairs: Sequence[tuple[list[str], list[str]]]) -> list[Links]:
        """Links of each pair; a target word of several (Chinese) is linked with all of them."""
        return [self._links(source, target) for source, target in pairs]

    def _links(self, source: list[str], target: list[str]) -> Links:
        left, right = [form(word) for word in source], [form(word) for word in target]
        places: dict[Phrase, list[int]] = {}
        for length in self._lengths:
            for start in range(len(right) - length + 1):
                places.setdefault(tuple(right[start : start + length]), []).append(start)
        counts = Counter(left)
        found: list[tuple[int, int]] = []
        for i, word in enumerate(left):
            if counts[word] > 1:
                continue
            there = [phrase for phrase in self._known.get(word, ()) if phrase in places]
            # 日本 holds 日: the longest entry is what stands there.
            longest = max(map(len, there), default=0)
            chosen = [phrase for phrase in there if len(phrase) == longest]
            if len(chosen) == 1 and len(places[chosen[0]]) == 1:
                start = places[chosen[0]][0]
                found.extend((i, j) for j in range(start, start + longest))
        return tuple(found)


def read_lexicon(path: Path) -> list[tuple[str, str]]:
    """Source and target word of every row; the first row is a header.

    Raises:
        LinksInvalid: no such file, or a row without two columns.
    """
    entries = []
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8") as file
        ):
            for number, line in enumerate(file, start=1):
                columns = line.rstrip("\n").split("\t")
                if len(columns) < 2 or not (columns[0] and columns[1]):  # noqa: PLR2004
                    raise LinksInvalid(f"{path}:{number}: {line!r} is not `source word TAB target`")
                if number > 1:
                    entries.append((columns[0], columns[1]))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise LinksInvalid(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    return entries


def _phrase(text: str, language: str) -> Phrase:
    return tuple(form(text[start:stop]) for start, stop in split(text, language))
