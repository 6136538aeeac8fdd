"""What the tests of the methods on pooled vectors share: rows and facts made by hand."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from training.batch import Facts, Outputs, View

EYE = torch.eye(2)
TILTED = torch.tensor([[0.8, 0.6], [0.6, 0.8]])
NEAR = torch.tensor([[0.96, 0.28], [0.28, 0.96]])


def all_different(names: Sequence[str], count: int) -> Facts:
    """Rows of `count` groups without any false negative; all views of a row are of its group,
    but hard negatives, which are of groups of their own."""
    groups, keys = {}, {}
    for number, name in enumerate(names):
        keys[name] = torch.arange(count) + 1000 * (number + 1)
        groups[name] = keys[name] if "negative" in name else torch.arange(count)
    return Facts(groups, keys)


def changed(
    facts: Facts,
    *,
    groups: Mapping[str, Sequence[int]] = {},
    keys: Mapping[str, Sequence[int]] = {},
) -> Facts:
    return Facts(
        {**facts.groups, **{name: torch.tensor(value) for name, value in groups.items()}},
        {**facts.keys, **{name: torch.tensor(value) for name, value in keys.items()}},
    )


def as_views(rows: Mapping[str, Tensor]) -> dict[str, View]:
    """Views with as many rows, whose texts nobody reads."""
    return {
        name: View(torch.zeros(len(value), 1, dtype=torch.int64), torch.ones(len(value), 1))
        for name, value in rows.items()
    }


def as_outputs(rows: Mapping[str, Tensor]) -> dict[str, Outputs]:
    return {name: Outputs(torch.ones(len(value), 1), pooled=value) for name, value in rows.items()}


def losses(method, rows: Mapping[str, Tensor], facts: Facts | None = None) -> dict[str, Tensor]:
    """Through both phases of a method."""
    views = as_views(rows)
    assert method.needs(frozenset(views)) == dict.fromkeys(rows, frozenset({"pooled"}))
    read = method.rows(as_outputs(rows), views)
    count = len(next(iter(rows.values())))
    return method.loss(read, facts or all_different(list(rows), count))


def total(method, rows: Mapping[str, Tensor], facts: Facts | None = None) -> Tensor:
    return torch.stack(list(losses(method, rows, facts).values())).sum()


def random_rows(
    names: Sequence[str], count: int, width: int = 5, *, seed: int = 0
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(count, width, generator=generator) for name in names}
