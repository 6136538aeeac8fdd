"""The linked words of many pairs of texts, as places of characters, in flat arrays and on disk.

Characters and not word numbers, because word pieces know their characters; nothing that reads this
needs to know how words were cut.
"""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.alignment.aligner import Aligner
from training.alignment.words import Span, core, is_word, split
from training.groups import Links

Places: TypeAlias = NDArray[np.int32]
"""A row a link: first character and the one after the last, in the source, then in the target."""
Ids: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LinkedPairs:
    """Links by pair; a pair is looked up by the numbers of its two texts."""

    source: Ids
    """Text numbers, [pairs], sorted by source and then by target."""
    target: Ids
    starts: Ids
    """The links of pair k are those from starts[k] to starts[k + 1]; [pairs + 1]."""
    places: Places
    """[links, 4]"""

    def __len__(self) -> int:
        return len(self.source)

    def find(self, source: Ids, target: Ids) -> Ids:
        """The numbers of these pairs, -1 where one is not known."""
        width = 1 + max(int(a.max(initial=0)) for a in (self.target, target))
        keys, wanted = self.source * width + self.target, source * width + target
        place = np.searchsorted(keys, wanted)
        known = place < len(keys)
        known[known] = keys[place[known]] == wanted[known]
        return np.where(known, place, -1)

    def of(self, pair: int) -> Places:
        """The links of one pair; none for number -1."""
        if pair < 0:
            return self.places[:0]
        return self.places[self.starts[pair] : self.starts[pair + 1]]

    def counts(self, pairs: Ids) -> Ids:
        """How many links pairs have; 0 for number -1."""
        found: Ids = np.where(pairs < 0, 0, self.starts[pairs + 1] - self.starts[pairs])
        return found

    def kept(self, links: NDArray[np.bool_]) -> Self:
        """The same pairs with only some of the links."""
        before = np.concatenate([[0], np.cumsum(links)])
        return type(self)(self.source, self.target, before[self.starts], self.places[links])

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """All parts in one; they hold different pairs."""
        source = np.concatenate([np.zeros(0, np.int64), *(part.source for part in parts)])
        target = np.concatenate([np.zeros(0, np.int64), *(part.target for part in parts)])
        sizes = np.concatenate([np.zeros(0, np.int64), *(np.diff(part.starts) for part in parts)])
        places = np.concatenate([np.zeros((0, 4), np.int32), *(part.places for part in parts)])
        order = np.lexsort((target, source))
        begin = (np.cumsum(sizes) - sizes)[order]
        starts = np.concatenate([[0], np.cumsum(sizes[order])]).astype(np.int64)
        rows = np.arange(len(places)) - np.repeat(starts[:-1] - begin, sizes[order])
        return cls(source[order], target[order], starts, places[rows])

    @classmethod
    def align(
        cls,
        aligner: Aligner,
        texts: Sequence[str],
        pairs: tuple[Ids, Ids],
        languages: tuple[str, str],
    ) -> Self:
        """Cut the texts into words, align them and keep the links that can be exchanged."""
        known: dict[str, str] = {}

        def words(text: int, language: str) -> list[str]:
            cut = (texts[text][start:stop] for start, stop in split(texts[text], language))
            return [known.setdefault(word, word) for word in cut]

        rows = [
            (words(source, languages[0]), words(target, languages[1]))
            for source, target in zip(*(side.tolist() for side in pairs), strict=True)
        ]
        links = aligner.align(rows)
        del rows
        places: list[tuple[int, int, int, int]] = []
        starts = [0]
        for source, target, row in zip(pairs[0].tolist(), pairs[1].tolist(), links, strict=True):
            if row:
                one = _cores(texts[source], languages[0])
                other = _cores(texts[target], languages[1])
                for left, right in units(row):
                    first = (one[left[0]][0], one[left[-1]][1])
                    second = (other[right[0]][0], other[right[-1]][1])
                    # A word does not mean the same as a comma.
                    if is_word(texts[source], first) == is_word(texts[target], second):
                        places.append((*first, *second))
            starts.append(len(places))
        table = np.array(places, np.int32).reshape(-1, 4)
        return cls.joined([cls(*pairs, np.array(starts, np.int64), table)])

    def write(self, path: Path) -> None:
        """Write all or nothing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(f".{os.getpid()}.partial")  # several processes may write it
        with half.open("wb") as file:
            np.savez(
                file, source=self.source, target=self.target, starts=self.starts, places=self.places
            )
        os.replace(half, path)  # noqa: PTH105

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """What `write` wrote; None if there is nothing that can be read."""
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                return cls(file["source"], file["target"], file["starts"], file["places"])
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
            return None


def units(links: Links) -> list[tuple[list[int], list[int]]]:
    """Words that are linked, as (source words, target words) that have no link to any other word.

    One word to one word, as the intersection of both directions gives, or one word to neighbours
    that are all linked to it alone. What is left is ambiguous and left out: it could not be
    exchanged.
    """
    if len({left for left, _ in links}) == len({right for _, right in links}) == len(links):
        return [([left], [right]) for left, right in links]
    found: list[tuple[list[int], list[int]]] = []
    waiting = set(links)
    while waiting:
        lefts, rights = map(set, zip(min(waiting), strict=True))
        chosen: set[tuple[int, int]] = set()
        while more := {a for a in waiting - chosen if a[0] in lefts or a[1] in rights}:
            chosen |= more
            lefts |= {left for left, _ in more}
            rights |= {right for _, right in more}
        waiting -= chosen
        left, right = sorted(lefts), sorted(rights)
        together = left[-1] - left[0] < len(left) and right[-1] - right[0] < len(right)
        if together and min(len(left), len(right)) == 1:
            found.append((left, right))
    return found


def fingerprint(parts: Sequence[str], texts: Sequence[str], pairs: tuple[Ids, Ids]) -> str:
    """A name for the links of these pairs, made in this way."""
    digest = hashlib.sha256("\0".join(parts).encode())
    for side in pairs:
        digest.update(b"\1")
        for text in side.tolist():
            digest.update(texts[text].encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:32]


def _cores(text: str, language: str) -> list[Span]:
    return [core(text, span) for span in split(text, language)]
