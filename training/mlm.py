"""The masked-language-model head: what piece stands at a position, by the encoder's own embeddings.

    p(v | r) = softmax(E g(r) + b)_v,    g = layer norm of gelu of a linear layer

(Devlin et al. 2019). E is the encoder's input embedding table, tied; the head owns g and b alone.
A start model that was saved with its own such head (mBERT, XLM-R, ModernBERT, DistilBERT) gives
it its weights; retrieval models have lost theirs, and get a fresh one.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere
from transformers import PreTrainedModel

from training.losses import NO_LABEL

_LAYOUTS: tuple[dict[str, str], ...] = (
    {
        "dense": "cls.predictions.transform.dense",
        "norm": "cls.predictions.transform.LayerNorm",
        "bias": "cls.predictions.bias",
    },
    {"dense": "lm_head.dense", "norm": "lm_head.layer_norm", "bias": "lm_head.bias"},
    {"dense": "head.dense", "norm": "head.norm", "bias": "decoder.bias"},
    {"dense": "vocab_transform", "norm": "vocab_layer_norm", "bias": "vocab_projector.bias"},
)
"""Where BERT, (XLM-)RoBERTa, ModernBERT and DistilBERT keep the three parts."""
_INDEX = "model.safetensors.index.json"
_CARRIED = "mlm_head.safetensors"
"""A head beside an encoder that was saved without it."""


class MlmHead(nn.Module):
    """Hidden states to scores of all pieces."""

    def __init__(self, width: int, embedding: int, pieces: int, *, eps: float = 1e-12) -> None:
        super().__init__()
        self.dense = nn.Linear(width, embedding)
        self.norm = nn.LayerNorm(embedding, eps=eps)
        self.bias = nn.Parameter(torch.zeros(pieces))
        self.pretrained = False
        """Whether the weights are the start model's own."""

    @classmethod
    def of(cls, backbone: PreTrainedModel) -> Self:
        """A head for this backbone, with the weights that lie beside its own if there are any."""
        table = embedding_table(backbone)
        config = backbone.config
        eps = getattr(config, "layer_norm_eps", getattr(config, "norm_eps", 1e-12))
        head = cls(int(config.hidden_size), table.shape[1], table.shape[0], eps=float(eps))
        folder = backbone.name_or_path
        found = _saved_head(Path(folder)) if folder and Path(folder).is_dir() else {}
        own = head.state_dict()
        if found and all(found[name].shape == own[name].shape for name in found):
            # ModernBERT's layers have no biases: those that are not there add nothing.
            silent = {name: torch.zeros_like(own[name]) for name in own if name.endswith("bias")}
            head.load_state_dict({**own, **silent, **found})
            head.pretrained = True
        return head

    def forward(self, states: Tensor, table: Tensor) -> Tensor:
        """Scores [positions, pieces] of states [positions, width]; `table` as `embedding_table`."""
        return F.linear(self.norm(F.gelu(self.dense(states))), table, self.bias)

    def cross_entropy_rows(self, states: Tensor, labels: Tensor, table: Tensor) -> Tensor:
        """Of each row, the summed cross-entropy of the positions with a label, [rows].

        `states` is [rows, length, width], `labels` [rows, length]. Only these positions meet the
        vocabulary: all of them would take its size times the length in memory.
        """
        row, place = (labels != NO_LABEL).nonzero(as_tuple=True)
        scores = self(states[row, place], table).float()
        each = F.cross_entropy(scores, labels[row, place], reduction="none")
        return torch.zeros(len(labels), device=each.device).index_add(0, row, each)


def carry_head(source: Path, target: Path) -> None:
    """Put the head of a transformers folder, if it has one, beside an encoder saved elsewhere.

    An encoder is saved without it, and a run trains on what it has saved itself.
    """
    if found := _saved_head(source):
        save_file(found, target / _CARRIED)


def embedding_table(backbone: PreTrainedModel) -> Tensor:
    """The input embeddings, [pieces, embedding width]."""
    weight = backbone.get_input_embeddings().weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"{type(backbone).__name__} has no table of input embeddings")
    return weight


def _saved_head(folder: Path) -> dict[str, Tensor]:
    """The head's weights in a transformers folder by this module's names; {} if it has none.

    A layout that is not among the known ones, and an activation other than gelu, count as none.
    """
    if (folder / _CARRIED).is_file():
        return load_file(folder / _CARRIED)
    config = folder / "config.json"
    saved = json.loads(config.read_text("utf-8")) if config.is_file() else {}
    names = saved.get("architectures") or []
    gelu = saved.get("hidden_act", saved.get("activation", "gelu")) == "gelu"
    if not (gelu and any(str(name).endswith("ForMaskedLM") for name in names)):
        return {}
    files = _files(folder)
    for layout in _LAYOUTS:
        places = {
            "dense.weight": f"{layout['dense']}.weight",
            "dense.bias": f"{layout['dense']}.bias",
            "norm.weight": f"{layout['norm']}.weight",
            "norm.bias": f"{layout['norm']}.bias",
            "bias": layout["bias"],
        }
        if places["dense.weight"] in files and places["norm.weight"] in files:
            found = {}
            for name, place in places.items():
                if place in files:
                    with safe_open(files[place], framework="pt") as file:
                        found[name] = file.get_tensor(place).float()
            return found
    return {}


def _files(folder: Path) -> Mapping[str, Path]:
    """The safetensors file of every weight."""
    if (folder / _INDEX).is_file():
        index = json.loads((folder / _INDEX).read_text("utf-8"))["weight_map"]
        return {name: folder / file for name, file in index.items()}
    whole = folder / "model.safetensors"
    if not whole.is_file():
        return {}
    with safe_open(whole, framework="pt") as file:
        return dict.fromkeys(file.keys(), whole)
