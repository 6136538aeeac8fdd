"""Groups while they are collected: distinct texts by number, and translations of one text merged.

Several files translate the same English sentences. Groups of a set whose English texts are the
same become one, so that any two of their languages can meet; a second, different translation into
a language begins another group, and equal keys of their English tell the losses that these two are
no negatives of each other.
"""

from array import array
from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b

from training.config.batches import ENGLISH, TextRole
from training.config.data import Data
from training.corpus import NOTHING
from training.groups import ROLES, Group, Links, normalised

WIDTH = 1 << 16
"""More than there are languages: a cell is role * WIDTH + language."""
ROLE_NUMBER = {role: number for number, role in enumerate(ROLES)}


def cell(role: TextRole, language: int) -> int:
    """The number of the text of a role in a language within a draft."""
    return ROLE_NUMBER[role] * WIDTH + language


class Texts:
    """Distinct texts of each language, with the key and the first source of each."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.language = array("i")
        self.keys = array("q")
        self.source = array("i")
        self.languages: dict[str, int] = {ENGLISH: 0}
        self.sources: dict[str, int] = {}
        self._numbers: list[dict[str, int]] = [{}]

    def number(self, text: str, language: str, source: str) -> int:
        code = self.languages.setdefault(language, len(self.languages))
        while code >= len(self._numbers):  # the recipe's languages are there before their texts
            self._numbers.append({})
        known = self._numbers[code].get(text)
        if known is not None:
            return known
        number = self._numbers[code][text] = len(self.texts)
        self.texts.append(text)
        self.language.append(code)
        self.keys.append(_key(text))
        self.source.append(self.source_number(source))
        return number

    def source_number(self, source: str) -> int:
        return self.sources.setdefault(source, len(self.sources))


def _key(text: str) -> int:
    digest = blake2b(normalised(text).encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)


@dataclass(slots=True)
class Draft:
    """A group by numbers of texts; without cells it was left out."""

    id: str
    cells: dict[int, int]
    negatives: tuple[str, ...] = ()
    links: dict[tuple[int, int], Links] = field(default_factory=dict)
    """By the two languages of the sentences."""
    taught: dict[TextRole, tuple[int, ...]] = field(default_factory=dict)


class DraftSet:
    """The groups of one data set."""

    def __init__(
        self,
        name: str,
        texts: Texts,
        options: Data,
        left_out: Counter[str],
        *,
        whole: bool = True,
    ) -> None:
        self.name = name
        self.whole = whole
        """Whether all rows of its files are read, so that an id nobody has is a mistake."""
        self.drafts: list[Draft] = []
        self.rows: list[tuple[int, int, int]] = []
        """Of each row that was read: its draft, its source, and the text that it brought along, its
        first one that is not English if there is one."""
        self.numbers: dict[str, int] = {}
        """Draft by id, also of groups that were merged into it; NOTHING for those left out."""
        self.options = options
        self._texts, self._left_out = texts, left_out
        self._kept = frozenset({ENGLISH, *options.languages}) if options.languages else None
        self._by_key: dict[int, list[int]] = {}

    def add(self, group: Group) -> None:
        """Take a group in, as far as the recipe's filters let it."""
        cells = self._cells(group)
        before = sum(len(texts) for texts in group.texts.values())
        if not cells or (len(cells) == 1 and before > 1):
            self._left_out["groups of which nothing or one text was left"] += 1
            self.numbers.setdefault(group.id, NOTHING)
            return
        number = self._place(group, cells)
        if self.numbers.setdefault(group.id, number) == NOTHING:
            self.numbers[group.id] = number
        brought = next((text for c, text in cells.items() if c % WIDTH), next(iter(cells.values())))
        self.rows.append((number, self._texts.source_number(group.source), brought))

    def append(self, draft: Draft) -> None:
        """Take a group in that was made of others."""
        self.numbers[draft.id] = len(self.drafts)
        self.drafts.append(draft)

    def _cells(self, group: Group) -> dict[int, int]:
        cells = {}
        for role, by_language in group.texts.items():
            for language, whole in by_language.items():
                text = whole.strip()
                if self._kept is not None and language not in self._kept:
                    self._left_out["data.languages"] += 1
                    continue
                if len(text) > self.options.max_characters and role == "passage":
                    # The encoder would cut it anyway; half a sentence is no translation, though.
                    text = text[: self.options.max_characters]
                if len(text) < self.options.min_characters:
                    self._left_out["data.min_characters"] += 1
                elif len(text) > self.options.max_characters:
                    self._left_out["data.max_characters"] += 1
                else:
                    number = self._texts.number(text, language, group.source)
                    cells[cell(role, self._texts.languages[language])] = number
        return cells

    def _place(self, group: Group, cells: dict[int, int]) -> int:
        taught = {
            role: tuple(self._texts.number(text, ENGLISH, group.source) for text in texts)
            for role, texts in group.taught.items()
            if texts
        }
        key = self._merge_key(cells)
        homes = self._by_key.setdefault(key, []) if key is not None else []
        for number in homes:
            if self._accepts(self.drafts[number], cells, taught):
                self._merge(self.drafts[number], group, cells)
                return number
        name = group.id
        if name in self.numbers:  # ids must stay unique, for groups are written out again
            name = f"{group.id}~{len(self.drafts)}"
        draft = Draft(name, cells, group.negatives, taught=taught)
        self._link(draft, group, cells)
        homes.append(len(self.drafts))
        self.drafts.append(draft)
        return len(self.drafts) - 1

    def _merge_key(self, cells: dict[int, int]) -> int | None:
        roles = sorted({c // WIDTH for c in cells})
        if any(role * WIDTH not in cells for role in roles):
            return None  # a role without its English text
        return hash(tuple((role, self._texts.keys[cells[role * WIDTH]]) for role in roles))

    def _accepts(
        self, draft: Draft, cells: dict[int, int], taught: dict[TextRole, tuple[int, ...]]
    ) -> bool:
        keys = self._texts.keys
        return draft.taught == taught and all(
            c not in draft.cells or keys[draft.cells[c]] == keys[text] for c, text in cells.items()
        )

    def _merge(self, draft: Draft, group: Group, cells: dict[int, int]) -> None:
        if cells.keys() <= draft.cells.keys():
            self._left_out["duplicates"] += 1
        draft.cells |= {c: text for c, text in cells.items() if c not in draft.cells}
        draft.negatives += tuple(name for name in group.negatives if name not in draft.negatives)
        self._link(draft, group, cells)

    def _link(self, draft: Draft, group: Group, cells: dict[int, int]) -> None:
        """Keep links whose very texts, and not just equal ones, are those of the draft."""
        for (one, other), links in group.links.items():
            numbers = self._texts.languages.get(one), self._texts.languages.get(other)
            if numbers[0] is None or numbers[1] is None:
                continue
            ends = cell("sentence", numbers[0]), cell("sentence", numbers[1])
            if all(end in cells and draft.cells[end] == cells[end] for end in ends):
                draft.links[numbers[0], numbers[1]] = links
