"""A sentence encoder in torch: backbone, masked mean, L2 normalisation; student and teacher alike."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from training.config import Backbone
from training.losses import masked_mean

PACKAGE = "package:"
Device: TypeAlias = Literal["auto", "cpu", "cuda"]


class DeviceMissing(ValueError):
    """The device that was asked for is not there."""


class ModelMissing(ValueError):
    """A model specification leads nowhere; the message says what was looked for."""


class SentenceEncoder(nn.Module):
    """Token ids to unit vectors, [batch, sequence] to [batch, dimension]."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.body = True
        """Whether the layers run; without them the embeddings are pooled as they are."""

    def pooled(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Mean vectors before normalisation, float32."""
        if self.body:
            states = self.backbone(input_ids=input_ids, attention_mask=attention_mask)
            return masked_mean(states.last_hidden_state, attention_mask)
        embeddings = self.backbone.get_submodule("embeddings")
        return masked_mean(embeddings(input_ids=input_ids), attention_mask)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return F.normalize(self.pooled(input_ids, attention_mask), dim=-1)


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


def load_encoder(folder: Path) -> SentenceEncoder:
    """A backbone from a transformers folder, in float32, ready to encode."""
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float32)
    return SentenceEncoder(model).eval()


def choose_device(wanted: Device) -> torch.device:
    """The device that was asked for.

    Raises:
        DeviceMissing: CUDA was asked for and is not there.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise DeviceMissing("device cuda: torch sees no CUDA device; use cpu or auto")
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")


def locate(spec: str) -> Path:
    """The folder of a model: `package:NAME/FOLDER`, a local path, or a hub id.

    Raises:
        ModelMissing: nothing is there, and the hub does not answer either.
    """
    if spec.startswith(PACKAGE):
        name, _, inner = spec.removeprefix(PACKAGE).partition("/")
        package = find_spec(name)
        if package is None or package.origin is None:
            raise ModelMissing(f"{spec}: package {name!r} is not installed; name a folder instead")
        folder = Path(package.origin).parent / inner
    else:
        folder = Path(spec)
        if not folder.exists():
            folder = _from_hub(spec)
    if not (folder / "config.json").is_file():
        raise ModelMissing(f"{spec}: {folder} holds no config.json")
    return folder


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The folder's tokenizer, without the truncation and padding that its file may carry.

    Raises:
        ModelMissing: it has no `tokenizer.json`.
    """
    if not (folder / "tokenizer.json").is_file():
        raise ModelMissing(f"{folder} holds no tokenizer.json")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelMissing(f"{folder}: {type(tokenizer).__name__} is no fast tokenizer")
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


@torch.inference_mode()
def embed(
    model: SentenceEncoder,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    padding_id: int,
    batch_tokens: int = 32_768,
    precision: torch.dtype = torch.float32,
    progress: Callable[[int], None] = lambda _: None,
) -> NDArray[np.float32]:
    """Unit vectors of the texts, in their order; the tokenizer must truncate by itself.

    `progress` is told how many texts each batch finished.
    """
    device = next(model.parameters()).device
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


def _from_hub(spec: str) -> Path:
    try:
        return Path(snapshot_download(spec))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelMissing(f"{spec}: no such folder, and not on the hub: {error}") from error
