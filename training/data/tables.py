"""Drafts become dense tables: texts and languages that nothing uses are gone, ids are numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.types import Role
from training.config.batches import TextRole
from training.corpus import NOTHING, GroupTable, Ids
from training.data.drafts import WIDTH, Draft, DraftSet, Texts, cell
from training.groups import PROMPTED, ROLES
from training.readers import Ledger


@dataclass(slots=True)
class Targets:
    """What the teacher is asked: one or several English texts each, each question once a prompt."""

    _numbers: dict[tuple[Role, tuple[int, ...]], int] = field(default_factory=dict)

    def number(self, role: TextRole, texts: tuple[int, ...]) -> int:
        return self._numbers.setdefault((PROMPTED[role], texts), len(self._numbers))

    @property
    def texts(self) -> list[tuple[int, ...]]:
        return [texts for _, texts in self._numbers]


@dataclass(frozen=True, slots=True)
class Renumbered:
    """The texts and languages that are used, and their new numbers."""

    texts: Ids
    """Old number of each new text, ascending."""
    languages: NDArray[np.int32]
    """New number of each old language, NOTHING for those without a text."""
    names: list[str]
    """By new number."""


def renumber(sets: Sequence[DraftSet], texts: Texts) -> Renumbered:
    """Look what the drafts use; English keeps number 0 even if it has no text."""
    used = np.zeros(len(texts.texts), dtype=np.bool_)
    for draft in (draft for one in sets for draft in one.drafts if draft.cells):
        used[list(draft.cells.values())] = True
        for taught in draft.taught.values():
            used[list(taught)] = True
    language = np.frombuffer(texts.language, dtype=np.int32)
    spoken = np.zeros(len(texts.languages), dtype=np.bool_)
    spoken[language[used]] = True
    spoken[0] = True
    numbers = np.where(spoken, np.cumsum(spoken) - 1, NOTHING).astype(np.int32)
    names = [name for name, there in zip(texts.languages, spoken, strict=True) if there]
    return Renumbered(np.flatnonzero(used), numbers, names)


def table(
    drafts: DraftSet, texts: Texts, ledger: Ledger, *, numbers: Renumbered, targets: Targets
) -> GroupTable:
    """One set as arrays; a negative that is no group of the set is a malformed row.

    `targets` is filled with *old* numbers of texts.
    """
    kept = [(number, draft) for number, draft in enumerate(drafts.drafts) if draft.cells]
    place = np.full(len(drafts.drafts), NOTHING, dtype=np.int32)
    place[[number for number, _ in kept]] = np.arange(len(kept))
    alive = [draft for _, draft in kept]
    names, known = list(texts.languages), list(texts.sources)
    sources = {number: known[source] for number, source, _ in reversed(drafts.rows)}
    return GroupTable(
        name=drafts.name,
        ids=[draft.id for draft in alive],
        texts=_cells(alive, numbers),
        negatives=_dense([_resolved(drafts, draft, texts, ledger) for draft in alive], place),
        targets=_targets(alive, targets),
        links={
            (group, names[one], names[other]): links
            for group, draft in enumerate(alive)
            for (one, other), links in draft.links.items()
            if {cell("sentence", one), cell("sentence", other)} <= draft.cells.keys()
        },
        sources=[sources.get(number, drafts.name) for number, _ in kept],
    )


def _cells(alive: list[Draft], numbers: Renumbered) -> dict[TextRole, NDArray[np.int32]]:
    where = np.array([(g, c) for g, draft in enumerate(alive) for c in draft.cells], np.int64)
    text = np.array([t for draft in alive for t in draft.cells.values()], np.int64)
    new = np.searchsorted(numbers.texts, text)
    role, language = np.divmod(where[:, 1], WIDTH)
    tables: dict[TextRole, NDArray[np.int32]] = {}
    for number, name in enumerate(ROLES):
        mine = role == number
        if mine.any():
            dense = np.full((len(alive), len(numbers.names)), NOTHING, dtype=np.int32)
            dense[where[mine, 0], numbers.languages[language[mine]]] = new[mine]
            tables[name] = dense
    return tables


def _targets(alive: list[Draft], targets: Targets) -> dict[TextRole, NDArray[np.int32]]:
    found: dict[TextRole, NDArray[np.int32]] = {}
    for role in ROLES:
        first = cell(role, 0)
        column = np.full(len(alive), NOTHING, dtype=np.int32)
        there = False
        for group, draft in enumerate(alive):
            if any(first <= c < first + WIDTH for c in draft.cells):
                there = True
                own = (draft.cells[first],) if first in draft.cells else ()
                if taught := draft.taught.get(role, own):
                    column[group] = targets.number(role, taught)
        if there:
            found[role] = column
    return found


def _dense(rows: list[list[int]], place: NDArray[np.int32]) -> NDArray[np.int32]:
    """Lists of drafts as rows of group numbers, each group once."""
    unique = [list(dict.fromkeys(int(place[number]) for number in row)) for row in rows]
    dense = np.full((len(rows), max(map(len, unique), default=0)), NOTHING, dtype=np.int32)
    for group, row in enumerate(unique):
        dense[group, : len(row)] = row
    return dense


def _resolved(drafts: DraftSet, draft: Draft, texts: Texts, ledger: Ledger) -> list[int]:
    """The drafts that are hard negatives of one, but for those with its own passage."""
    found = []
    own = _passages(draft, texts)
    for name in draft.negatives:
        number = drafts.numbers.get(name)
        if number is None and drafts.whole:
            ledger.bad(f"{drafts.name}: group {draft.id!r}", f"no group {name!r} for its negatives")
        elif number is None or number == NOTHING or not drafts.drafts[number].cells:
            ledger.left_out["negatives that were left out themselves"] += 1
        elif drafts.drafts[number] is draft or own & _passages(drafts.drafts[number], texts):
            ledger.left_out["negatives with the passage of the positive"] += 1
        else:
            found.append(number)
    return found


def _passages(draft: Draft, texts: Texts) -> set[int]:
    first = cell("passage", 0)
    return {texts.keys[t] for c, t in draft.cells.items() if first <= c < first + WIDTH}
