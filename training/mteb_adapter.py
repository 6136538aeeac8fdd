"""The mteb benchmark on anything that `training.embedders` opens: mteb's prompt type is our role.

mteb's own clients send prompts by task name; here the model's own query and passage prompts are
used, as in service. What mteb embeds without a prompt type (similarity, classification, clustering)
is a passage.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import mteb
import torch
from mteb.models.model_meta import ModelMeta
from mteb.types import Array, PromptType
from torch import Tensor

from service.types import Matrix, Role
from training.embedders import Embedder


class TaskUnknown(ValueError):
    """mteb has no task of this name."""


class MtebEncoder:
    """mteb's `EncoderProtocol` over an opened model."""

    def __init__(self, embedder: Embedder, *, revision: str = "local") -> None:
        self._embedder = embedder
        # mteb wants `owner/model`, which a bundle's name/version and a hub id are.
        is_so = embedder.name.count("/") == 1
        name = embedder.name if is_so else f"local/{embedder.name.replace('/', '_')}"
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={"name": name, "revision": revision}
        )

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        prompt_type: PromptType | None = None,
        **_: Any,
    ) -> Matrix:
        """Vectors of every text of the batches, in their order."""
        role: Role = "query" if prompt_type == PromptType.query else "passage"
        texts = [text for batch in inputs for text in batch["text"]]
        return self._embedder(texts, role)

    def similarity(self, embeddings1: Array, embeddings2: Array) -> Tensor:
        """Cosines of every vector with every other one, [first, second]."""
        return torch.as_tensor(embeddings1) @ torch.as_tensor(embeddings2).T

    def similarity_pairwise(self, embeddings1: Array, embeddings2: Array) -> Tensor:
        """The cosine of each vector with its partner, [pairs]."""
        return (torch.as_tensor(embeddings1) * torch.as_tensor(embeddings2)).sum(-1)


def run_tasks(embedder: Embedder, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """The main score of each task by subset, in percent; mteb downloads the task's data.

    Raises:
        TaskUnknown: mteb has no such task.
    """
    try:
        tasks = [mteb.get_task(name) for name in names]
    except KeyError as error:
        raise TaskUnknown(f"mteb {mteb.__version__} has no task {error}") from error
    return run(embedder, tasks)


def run(embedder: Embedder, tasks: Sequence[Any]) -> dict[str, dict[str, float]]:
    """The same for tasks that were made by hand."""
    found = mteb.evaluate(MtebEncoder(embedder), tasks, cache=None, show_progress_bar=False)
    return {
        result.task_name: {
            f"{split} {score['hf_subset']}": round(100 * float(score["main_score"]), 4)
            for split, scores in result.scores.items()
            for score in scores
        }
        for result in found.task_results
    }
