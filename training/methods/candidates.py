"""The candidates among which an anchor must find its positive, and which of them are no negatives.

One list for the whole batch: first the positives of all rows, then the first hard negative of all
rows, then the second (methods that compare two such lists column by column rely on the order).
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from training.batch import Facts
from training.losses import false_negative_mask


def numbered(names: Iterable[str], prefix: str) -> list[str]:
    """The names that are `prefix` and a number, by their number: negative0, negative1, ...

    Raises:
        ValueError: a number is left out, so that views would silently be compared off by one.
    """
    ends = (name.removeprefix(prefix) for name in names if name.startswith(prefix))
    numbers = sorted(int(end) for end in ends if end.isdecimal())
    if numbers != list(range(len(numbers))):
        raise ValueError(f"views {prefix}* are numbered {numbers}, and must be from 0 without gaps")
    return [f"{prefix}{number}" for number in numbers]


def stacked(rows: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """The vectors of all rows of these views, one view after the other, [views x rows, width]."""
    return torch.cat([rows[name] for name in names])


def false_negatives(facts: Facts, *, anchor: str, positive: str, others: Sequence[str]) -> Tensor:
    """True where a candidate is no negative of a row, [rows, (1 + others) x rows].

    The candidates are the views `positive` and `others`. One is no negative if it is of the group
    of the row's anchor or positive (in multi-way parallel text a sentence meets itself), if its
    text is that of the row's positive, or if it is the positive of a row with the same anchor text.
    """
    names = [positive, *others]
    texts = torch.cat([facts.keys[name] for name in names])
    groups = torch.cat([facts.groups[name] for name in names])
    mask = false_negative_mask(facts.keys[positive], texts)
    mask |= false_negative_mask(facts.groups[positive], groups)
    mask |= false_negative_mask(facts.groups[anchor], groups)
    own = len(facts.keys[anchor])
    mask[:, :own] |= false_negative_mask(facts.keys[anchor], facts.keys[anchor])
    return mask
