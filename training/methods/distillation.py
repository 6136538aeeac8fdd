"""Distillation: every side of a row must land where the teacher puts its English text.

Reimers and Gurevych 2020 (arXiv 2004.09813): a student learns from parallel text that both the
sentence and its translation have the English teacher's vector. Where the targets come from is in
`training.methods.teacher`.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from training.batch import Facts, Outputs, View
from training.config.methods import Distillation
from training.losses import cosine_distance, cosines, kl_rows, nce, squared_distance
from training.methods.pooled import pooled_needs, pooled_rows

SIDES = ("query", "positive", "cross_query")
TARGET = "_target"


class DistillationMethod:
    """`query`, `positive` and `cross_query`, as far as the batch has them with their `target`.

    A row whose target is all zero has no teacher vector, and counts for nothing.
    """

    def __init__(self, settings: Distillation, _encoder: object, _pieces: object) -> None:
        self.settings = settings
        self.head = nn.Identity()
        self.vectors = frozenset(name + end for name in SIDES for end in ("", TARGET))

    def needs(self, views: frozenset[str]) -> dict[str, frozenset[str]]:
        return pooled_needs("distillation", views, self._read(views))

    def rows(self, outputs: Mapping[str, Outputs], views: Mapping[str, View]) -> dict[str, Tensor]:
        taught = [name for name in self._read(views) if "target" in views[name].extra]
        if not taught:
            raise ValueError(
                "distillation needs teacher vectors, and none of the views"
                f" {', '.join(sorted(views))} has a target"
            )
        targets = {name + TARGET: views[name].extra["target"] for name in taught}
        return {**pooled_rows(outputs, taught), **targets}

    def loss(self, rows: Mapping[str, Tensor], facts: Facts) -> dict[str, Tensor]:  # noqa: ARG002 - the protocol's
        """`cosine` and `mse` (as chosen), `relation`, `contrast`: means over the rows of all sides."""
        sides = [self._side(rows[name], rows[name + TARGET]) for name in SIDES if name in rows]
        return {name: torch.stack([side[name] for side in sides]).mean() for name in sides[0]}

    def _side(self, student: Tensor, target: Tensor) -> dict[str, Tensor]:
        target = target.detach()
        taught = target.abs().sum(1) > 0
        student, target = student[taught], target[taught]
        rows = max(1, len(student))
        parts: dict[str, Tensor] = {}
        if self.settings.distance in {"cosine", "cosine_and_mse"}:
            parts["cosine"] = cosine_distance(student, target).sum() / rows
        if self.settings.distance in {"mse", "cosine_and_mse"}:
            parts["mse"] = squared_distance(student, target).sum() / rows
        if self.settings.relation_weight:
            # The student's row of similarities to the teacher's vectors must be the teacher's own.
            ours = torch.log_softmax(cosines(student, target) / self.settings.temperature, dim=-1)
            own = torch.log_softmax(cosines(target, target) / self.settings.temperature, dim=-1)
            parts["relation"] = self.settings.relation_weight * kl_rows(own, ours).sum() / rows
        if self.settings.contrast_weight:
            contrast = nce(cosines(student, target) / self.settings.temperature)
            parts["contrast"] = self.settings.contrast_weight * contrast.sum() / rows
        return parts

    @staticmethod
    def _read(views: Collection[str]) -> list[str]:
        return ["query", *(name for name in SIDES[1:] if name in views)]
