"""CLEAR: English retrieval, the same backwards into another language, and both made alike.

arXiv 2604.05821, after the authors' code (dltmddbs100/CLEAR, loss.py). The English query must pick
its English passage (forward); the English passage must pick the query in the other language
(reverse); and a KL term makes both softmax distributions of a row alike, column by column. The
English passage is the bridge, so nothing but queries need be translated; no term stops a gradient.
*Unlike that code* the means are those of the whole batch with a gradient cache too, where the code
multiplies the gradient by the number of chunks; and candidates that are no negatives are masked,
in the same columns of both distributions.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from training.batch import Facts, Outputs, View
from training.config.methods import Clear
from training.losses import cosines, kl_rows, nce
from training.methods.candidates import false_negatives, numbered, stacked
from training.methods.pooled import pooled_needs, pooled_rows


class ClearMethod:
    """`query`, `positive`, `negative*` in English; `cross_query`, `cross_negative*` in another."""

    def __init__(self, settings: Clear, _encoder: object, _pieces: object) -> None:
        self.settings = settings
        self.head = nn.Identity()
        self.vectors = frozenset(
            {"query", "positive", "negative*", "cross_query", "cross_negative*"}
        )

    def needs(self, views: frozenset[str]) -> dict[str, frozenset[str]]:
        return pooled_needs("clear", views, self._read(views))

    def rows(self, outputs: Mapping[str, Outputs], views: Mapping[str, View]) -> dict[str, Tensor]:
        return pooled_rows(outputs, self._read(views))

    def loss(self, rows: Mapping[str, Tensor], facts: Facts) -> dict[str, Tensor]:
        """`forward`, `reverse` and `kl`, each with its weight: (1 - alpha - beta), alpha, beta."""
        passages, queries = _slots(rows)
        forward = cosines(rows["query"], stacked(rows, passages)) / self.settings.temperature
        reverse = cosines(rows["positive"], stacked(rows, queries)) / self.settings.temperature
        mask = false_negatives(
            facts, anchor="query", positive=passages[0], others=passages[1:]
        ) | false_negatives(facts, anchor="positive", positive=queries[0], others=queries[1:])
        alpha, beta = self.settings.alpha, self.settings.beta
        return {
            "forward": (1 - alpha - beta) * nce(forward, mask=mask).mean(),
            "reverse": alpha * nce(reverse, mask=mask).mean(),
            "kl": beta * self._divergence(forward, reverse, mask),
        }

    def _divergence(self, forward: Tensor, reverse: Tensor, mask: Tensor) -> Tensor:
        log_forward = torch.log_softmax(forward.masked_fill(mask, float("-inf")), dim=-1)
        log_reverse = torch.log_softmax(reverse.masked_fill(mask, float("-inf")), dim=-1)
        if self.settings.kl == "reverse_forward":
            return kl_rows(log_reverse, log_forward).mean()
        return kl_rows(log_forward, log_reverse).mean()

    @staticmethod
    def _read(views: Collection[str]) -> list[str]:
        passages, queries = _slots(views)
        return ["query", *passages, *queries]


def _slots(names: Collection[str]) -> tuple[list[str], list[str]]:
    """The views of the passages and of the queries that are compared slot by slot."""
    passages, queries = numbered(names, "negative"), numbered(names, "cross_negative")
    if len(passages) != len(queries):
        raise ValueError(
            f"clear compares passages and queries column by column and needs as many negatives of"
            f" both; the batch has {len(passages)} negative* and {len(queries)} cross_negative*"
        )
    return ["positive", *passages], ["cross_query", *queries]
