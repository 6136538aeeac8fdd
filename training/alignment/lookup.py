"""Links that were made before: those of the groups, and Pharaoh files with the text that they number.

Links are found by their text and not by their row, because rows are dropped, merged and reordered
when data is read. Words of the file and words of ours may be cut differently: links go from one to
the other through the characters that they hold, white space aside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.alignment.links import LinksInvalid, checked, lines_of, read_pharaoh
from training.groups import Links

BETWEEN = "|||"
"""What stands between source and target words in the files of fast_align and eflomal."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A pair as it was aligned elsewhere."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    links: Links


class Lookup:
    """Known links, by the text of the pair; a pair that is not there has none."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries: Mapping[tuple[str, str], Entry] = {
            ("".join(entry.source), "".join(entry.target)): entry for entry in entries
        }

    def align(self, pairs: Sequence[tuple[list[str], list[str]]]) -> list[Links]:
        """Links between the words given here."""
        found: list[Links] = []
        for source, target in pairs:
            entry = self._entries.get(("".join(source), "".join(target)))
            found.append(() if entry is None else _carried(entry, source, target))
        return found


def entries_of(text: Path, links: Path) -> list[Entry]:
    """Read a file of `source ||| target` lines and the file of `i-j` lines made of it.

    Raises:
        LinksInvalid: a bad line, a link beyond the words, or files of different length.
    """
    lines = lines_of(text)
    known = read_pharaoh(links)
    if len(lines) != len(known):
        raise LinksInvalid(
            f"{links} has {len(known)} lines and {text} has {len(lines)}; they must match"
        )
    entries = []
    for number, (line, row) in enumerate(zip(lines, known, strict=True), start=1):
        sides = line.split(BETWEEN)
        if len(sides) != 2:  # noqa: PLR2004
            raise LinksInvalid(f"{text}:{number}: no {BETWEEN!r} between two texts")
        source, target = tuple(sides[0].split()), tuple(sides[1].split())
        checked(row, sizes=(len(source), len(target)), place=f"{links}:{number}")
        entries.append(Entry(source, target, row))
    return entries


def _carried(entry: Entry, source: list[str], target: list[str]) -> Links:
    left, right = _overlaps(entry.source, source), _overlaps(entry.target, target)
    return tuple(
        sorted({(i, j) for one, other in entry.links for i in left[one] for j in right[other]})
    )


def _overlaps(theirs: Sequence[str], ours: Sequence[str]) -> list[list[int]]:
    """Our words that share characters with each of theirs."""
    owner = [number for number, word in enumerate(ours) for _ in word]
    found, start = [], 0
    for word in theirs:
        found.append(sorted(set(owner[start : start + len(word)])))
        start += len(word)
    return found
