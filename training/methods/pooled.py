"""What the methods on one vector a text read of the encoder: the pooled vectors, by view.

They are handed over as they are; the losses normalise, after Matryoshka may have cut.
"""

from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

from training.batch import Outputs

POOLED = frozenset({"pooled"})


def pooled_needs(
    method: str, views: Collection[str], names: Iterable[str]
) -> dict[str, frozenset[str]]:
    """The pooled vectors of these views.

    Raises:
        ValueError: the batch lacks one of them.
    """
    needs = dict.fromkeys(names, POOLED)
    if missing := needs.keys() - views:
        raise ValueError(
            f"{method} needs the views {', '.join(sorted(missing))}, and the batch has"
            f" {', '.join(sorted(views))}"
        )
    return needs


def pooled_rows(outputs: Mapping[str, Outputs], names: Iterable[str]) -> dict[str, Tensor]:
    """The pooled vectors of these views, [rows, width] each.

    Raises:
        ValueError: the encoder was not asked for one of them.
    """
    found: dict[str, Tensor] = {}
    for name in names:
        pooled = outputs[name].pooled
        if pooled is None:
            raise ValueError(f"the encoder was not asked for the pooled vectors of {name!r}")
        found[name] = pooled
    return found
