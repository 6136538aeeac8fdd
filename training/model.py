"""A sentence encoder in torch: backbone, masked mean, L2 normalisation; student and teacher alike."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere
from transformers import BertConfig, BertModel, PreTrainedModel

from training.batch import Outputs, View
from training.config.recipe import Backbone
from training.losses import masked_mean

Pooling: TypeAlias = Literal["mean", "cls"]
Device: TypeAlias = Literal["auto", "cpu", "cuda"]


class DeviceMissing(ValueError):
    """The device that was asked for is not there."""


class ModelMissing(ValueError):
    """A model specification leads nowhere; the message says what was looked for."""


class SentenceEncoder(nn.Module):
    """Token ids to unit vectors, [batch, sequence] to [batch, dimension]."""

    def __init__(self, backbone: PreTrainedModel, *, pooling: Pooling = "mean") -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.body = True
        """Whether the layers run; without them the embeddings are pooled as they are."""

    @property
    def width(self) -> int:
        """Length of a vector."""
        return int(self.backbone.config.hidden_size)

    @property
    def layers(self) -> int:
        return int(self.backbone.config.num_hidden_layers)

    def encode(self, view: View, wanted: Collection[str]) -> Outputs:
        """What is wanted of a view (names of `Outputs`, `attention:N` for layer N), no more.

        Attention probabilities need the slow kernel, which is taken for that call alone. Noise in
        the view's extras is added to the output of the embedding layer.
        """
        layer = next((int(name.split(":")[1]) for name in wanted if ":" in name), None)
        caught: dict[str, Tensor] = {}
        embeddings = self.backbone.get_submodule("embeddings")

        def catch(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            noise = view.extra.get("noise")
            caught["embedded"] = output if noise is None else output + noise.to(output.dtype)
            return caught["embedded"]

        hook = embeddings.register_forward_hook(catch)
        try:
            states = self._states(view, hidden="first" in wanted, attention=layer is not None)
        finally:
            hook.remove()
        return Outputs(
            mask=view.mask,
            pooled=self._pool(states["last"], view.mask) if "pooled" in wanted else None,
            first=states["hidden"][1] if "first" in wanted else None,
            last=states["last"] if "last" in wanted else None,
            embedded=caught["embedded"] if "embedded" in wanted else None,
            attention=None if layer is None else states["attention"][layer],
        )

    def pooled(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Vectors before normalisation, float32."""
        found = self.encode(View(input_ids, attention_mask), {"pooled"}).pooled
        if found is None:
            raise AssertionError("pooled was asked for")
        return found

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return F.normalize(self.pooled(input_ids, attention_mask), dim=-1)

    def _states(self, view: View, *, hidden: bool, attention: bool) -> dict[str, Any]:
        if not self.body:
            embedded = self.backbone.get_submodule("embeddings")(input_ids=view.ids)
            return {"last": embedded, "hidden": (embedded, embedded)}
        kernel = self.backbone.config._attn_implementation  # noqa: SLF001
        if attention:
            self.backbone.set_attn_implementation("eager")
        try:
            found = self.backbone(
                input_ids=view.ids,
                attention_mask=view.mask,
                output_hidden_states=hidden,
                output_attentions=attention,
            )
        finally:
            if attention:
                self.backbone.set_attn_implementation(kernel)
        return {
            "last": found.last_hidden_state,
            "hidden": found.hidden_states if hidden else (),
            "attention": found.attentions if attention else (),
        }

    def _pool(self, states: Tensor, mask: Tensor) -> Tensor:
        return masked_mean(states, mask) if self.pooling == "mean" else states[:, 0].float()


def new_student(shape: Backbone, *, vocabulary_size: int, padding_id: int) -> SentenceEncoder:
    """A student with random embeddings (torch's global generator), whose layers pass them on.

    Each layer begins as the identity, because what it adds to its input is multiplied by zero:
    so a body that is put on trained embeddings starts from what they know.
    """
    backbone = BertModel(
        BertConfig(
            vocab_size=vocabulary_size,
            pad_token_id=padding_id,
            hidden_size=shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=shape.feed_forward,
            max_position_embeddings=shape.max_tokens,
            hidden_dropout_prob=shape.dropout,
            attention_probs_dropout_prob=shape.dropout,
            type_vocab_size=1,
        ),
        add_pooling_layer=False,
    )
    for name, parameter in backbone.named_parameters():
        if name.endswith("output.dense.weight"):
            nn.init.zeros_(parameter)
    return SentenceEncoder(backbone)


def choose_device(wanted: Device) -> torch.device:
    """The device that was asked for.

    Raises:
        DeviceMissing: CUDA was asked for and is not there.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise DeviceMissing("device cuda: torch sees no CUDA device; use cpu or auto")
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")


@torch.inference_mode()
def embed(
    model: SentenceEncoder,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    padding_id: int,
    batch_tokens: int | None = None,
    precision: torch.dtype = torch.float32,
    progress: Callable[[int], None] = lambda _: None,
) -> NDArray[np.float32]:
    """Unit vectors of the texts, in their order; the tokenizer must truncate by itself.

    `batch_tokens` bounds a padded batch: by default 4,096 on a CPU, where larger ones are slower,
    and 32,768 on a device. `progress` is told how many texts each batch finished.
    """
    device = next(model.parameters()).device
    if batch_tokens is None:
        batch_tokens = 4_096 if device.type == "cpu" else 32_768
    ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]
    order = sorted(range(len(ids)), key=lambda text: len(ids[text]))
    vectors: NDArray[np.float32] | None = None
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * len(ids[order[stop]]) <= batch_tokens:
            stop += 1
        chosen = order[start:stop]
        padded = np.full((len(chosen), len(ids[chosen[-1]])), padding_id, dtype=np.int64)
        mask = np.zeros_like(padded)
        for row, text in enumerate(chosen):
            padded[row, : len(ids[text])] = ids[text]
            mask[row, : len(ids[text])] = 1
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            batch = model(torch.from_numpy(padded).to(device), torch.from_numpy(mask).to(device))
        if vectors is None:
            vectors = np.empty((len(ids), batch.shape[1]), dtype=np.float32)
        vectors[chosen] = batch.float().cpu().numpy()
        progress(len(chosen))
        start = stop
    if vectors is None:
        raise ValueError("there is no text to embed")
    return vectors
