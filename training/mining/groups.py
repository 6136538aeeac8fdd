"""The groups of a table written out again, with the negatives that were found for them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from training.config.batches import TextRole
from training.corpus import NOTHING, Corpus, GroupTable
from training.groups import Group, Links


def mined_groups(
    corpus: Corpus, table: GroupTable, negatives: Mapping[int, Sequence[int]]
) -> Iterator[Group]:
    """The groups of a table with their new negatives, all of them, for negatives are named by id."""
    links: dict[int, dict[tuple[str, str], Links]] = defaultdict(dict)
    for (group, one, other), pairs in table.links.items():
        links[group][one, other] = pairs
    for group, name in enumerate(table.ids):
        texts = {
            role: {
                corpus.languages[language]: corpus.texts[numbers[group, language]]
                for language in np.flatnonzero(numbers[group] != NOTHING).tolist()
            }
            for role, numbers in table.texts.items()
        }
        yield Group(
            id=name,
            texts={role: by_language for role, by_language in texts.items() if by_language},
            source=table.sources[group] if table.sources else table.name,
            negatives=tuple(table.ids[negative] for negative in negatives.get(group, ())),
            links=links[group],
            taught=_taught(corpus, table, group),
        )


def _taught(corpus: Corpus, table: GroupTable, group: int) -> dict[TextRole, tuple[str, ...]]:
    """The English texts of the targets, where they are not just the group's own."""
    found: dict[TextRole, tuple[str, ...]] = {}
    for role, targets in table.targets.items():
        if targets[group] != NOTHING:
            texts = tuple(corpus.targets[targets[group]])
            if texts != (table.texts[role][group, 0],):
                found[role] = tuple(corpus.texts[text] for text in texts)
    return found
