"""Parallel text in two files, line by line translations of each other (Moses, OPUS)."""

from collections.abc import Iterator
from itertools import zip_longest

from training.config.data import Moses
from training.groups import Group
from training.readers.files import File, lines
from training.readers.ledger import DataInvalid, Ledger


def read(one: File, other: File, settings: Moses, ledger: Ledger) -> Iterator[Group]:
    """A group a line.

    Raises:
        DataInvalid: one file has more lines than the other, so that nothing can be trusted.
    """
    ends = [0, 0]
    for left, right in zip_longest(lines(one), lines(other)):
        ends = [left[0] if left else ends[0], right[0] if right else ends[1]]
        if left is None or right is None:
            continue
        ledger.read += 1
        place = f"{one.name}:{left[0]}"
        sides = left[1].strip(), right[1].strip()
        if all(sides):
            texts = dict(zip(settings.languages, sides, strict=True))
            yield Group(place, {"sentence": texts}, settings.source or one.stem)
        else:
            ledger.bad(place, "an empty side")
    if ends[0] != ends[1]:
        raise DataInvalid(
            f"{one.path} has {ends[0]} lines and {other.path} has {ends[1]}:"
            " they are no translations of each other line by line"
        )
