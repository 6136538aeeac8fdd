"""Opens anything that embeds: a bundle, a run, a Sentence Transformers folder, a hub id, a service.

A bundle runs as the service runs it, through `service.encoder`. Texts are batched by length, so
that little is padding.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, Self, get_args

import numpy as np
import torch

from service.bundle import Bundle
from service.encoder import Encoder
from service.errors import ServiceError
from service.manifest import Precision
from service.types import Matrix, Role
from training.batch import View
from training.checkpoint import Weights
from training.model import Device, choose_device
from training.pretrained import Pretrained, open_pretrained, open_run
from training.remote import ServiceEmbedder
from training.sentence_folder import Pooling

SENTENCES_AT_ONCE = 32
BATCH_TOKENS = 16_384
"""Tokens of a batch, padding included."""
TORCH_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class EmbedderInvalid(ValueError):
    """A model cannot be opened in the way that was asked; the message names value and knob."""


class Embedder(Protocol):
    """Texts to unit vectors, float32, [texts, dimension], in the order of the texts."""

    @property
    def name(self) -> str:
        """What the model is called in results."""

    @property
    def facts(self) -> Mapping[str, object]:
        """What shapes its vectors: prompts, length limit, precision, space."""

    def __call__(self, texts: Sequence[str], role: Role) -> Matrix: ...

    def close(self) -> None:
        """Give memory and connections back."""


class BundleEmbedder:
    """A bundle in one of its precisions, on ONNX Runtime."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        manifest = encoder.bundle.manifest
        self.name = f"{manifest.name}/{manifest.version}"
        self.precision = encoder.precision
        self.facts: Mapping[str, object] = {
            "kind": "bundle",
            "precision": self.precision,
            "space": encoder.space,
            "prompts": dict(manifest.prompts),
            "max_tokens": manifest.max_tokens,
        }

    @classmethod
    def open(cls, folder: Path, *, precision: str | None, device: Device, threads: int) -> Self:
        """Load the graph, by default the fullest; a CUDA device is used where it is asked for.

        Raises:
            EmbedderInvalid: no valid bundle, or it lacks the precision, or the machine the device.
        """
        known = {one: one for one in get_args(Precision)}
        if precision is not None and precision not in known:
            raise EmbedderInvalid(
                f"precision {precision}: a bundle may have {', '.join(get_args(Precision))}"
            )
        try:
            encoder = Encoder.open(
                Bundle.open(folder),
                precision=None if precision is None else known[precision],
                device="cuda" if device == "cuda" else "cpu",
                threads=threads,
            )
        except ServiceError as error:
            raise EmbedderInvalid(f"{folder}: {error.detail}") from error
        return cls(encoder)

    def __call__(self, texts: Sequence[str], role: Role) -> Matrix:
        try:
            tokens = self._encoder.tokenize(texts, role)
            vectors = np.empty((len(tokens), self._encoder.dimension), dtype=np.float32)
            for rows in batches([len(one) for one in tokens]):
                vectors[rows] = self._encoder.infer([tokens[row] for row in rows])
        except ServiceError as error:
            raise EmbedderInvalid(f"{self.name}: {error.detail}") from error
        return vectors

    def close(self) -> None:
        self._encoder.close()


class TorchEmbedder:
    """A torch encoder with its tokenizer and prompts, in evaluation mode while it embeds."""

    def __init__(
        self,
        model: Pretrained,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Embed where the encoder is, or on `device`; below float32 by autocast."""
        self._model = model
        self._encoder = model.encoder if device is None else model.encoder.to(device)
        self._dtype = dtype
        self.name = f"{model.name}@{model.revision}" if model.revision else model.name
        self.facts: Mapping[str, object] = {
            "kind": "torch",
            "precision": str(dtype).removeprefix("torch."),
            "pooling": model.encoder.pooling,
            "prompts": dict(model.prompts),
            "max_tokens": model.max_tokens,
            "by_cosine": model.by_cosine,
            **({"weights": model.weights} if model.weights else {}),
        }

    def __call__(self, texts: Sequence[str], role: Role) -> Matrix:
        prompt = self._model.prompts[role]
        return self.alone([prompt + text for text in texts])

    def alone(self, words: Sequence[str]) -> Matrix:
        """Unit vectors of texts without a prompt, [words, width]."""
        tokens = self._model.pieces.encode(words)
        vectors = np.empty((len(tokens), self._encoder.width), dtype=np.float32)
        training = self._encoder.training
        self._encoder.eval()
        try:
            for rows in batches([len(one) for one in tokens]):
                vectors[rows] = self._batch([tokens[row] for row in rows])
        finally:
            self._encoder.train(training)
        return vectors

    @torch.inference_mode()
    def static(self, words: Sequence[str]) -> Matrix:
        """Unit means of the input embeddings of each word's pieces, [words, width]."""
        table = self._encoder.backbone.get_input_embeddings().get_parameter("weight")
        found = np.zeros((len(words), table.shape[1]), dtype=np.float32)
        encodings = self._model.pieces.tokenizer.encode_batch(list(words), add_special_tokens=False)
        for row, encoding in enumerate(encodings):
            if encoding.ids:
                found[row] = _unit_mean(table[encoding.ids])
        return found

    @torch.inference_mode()
    def contextual(self, sentences: Sequence[Sequence[str]]) -> Iterator[Matrix]:
        """For each sentence the unit means of the last states of each word's pieces.

        [words, width] each, zeros for words beyond the length limit.
        """
        pieces = self._model.pieces
        device = next(self._encoder.parameters()).device
        training = self._encoder.training
        self._encoder.eval()
        try:
            for start in range(0, len(sentences), SENTENCES_AT_ONCE):
                part = sentences[start : start + SENTENCES_AT_ONCE]
                encodings = pieces.tokenizer.encode_batch(
                    [list(words) for words in part], is_pretokenized=True
                )
                rows = [encoding.ids[: pieces.max_tokens] for encoding in encodings]
                ids = torch.full((len(rows), max(map(len, rows))), pieces.pad, dtype=torch.int64)
                mask = torch.zeros_like(ids)
                for number, row in enumerate(rows):
                    ids[number, : len(row)] = torch.tensor(row)
                    mask[number, : len(row)] = 1
                found = self._encoder.encode(View(ids.to(device), mask.to(device)), {"last"})
                if found.last is None:
                    raise AssertionError("the last states were asked for")
                for words, encoding, states in zip(part, encodings, found.last, strict=True):
                    yield _of_words(states, encoding.word_ids[: pieces.max_tokens], len(words))
        finally:
            self._encoder.train(training)

    def close(self) -> None:
        """Nothing is held but memory."""

    @torch.inference_mode()
    def _batch(self, tokens: Sequence[np.ndarray]) -> Matrix:
        shape = len(tokens), max(map(len, tokens))
        ids = np.full(shape, self._model.pieces.pad, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for row, one in enumerate(tokens):
            ids[row, : len(one)] = one
            mask[row, : len(one)] = 1
        device = next(self._encoder.parameters()).device
        half = self._dtype != torch.float32
        with torch.autocast(device.type, dtype=self._dtype if half else None, enabled=half):
            vectors = self._encoder(
                torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
            )
        found: Matrix = torch.nn.functional.normalize(vectors.float(), dim=-1).cpu().numpy()
        return found


def open_embedder(
    spec: str,
    *,
    precision: str | None = None,
    threads: int = 1,
    device: Device = "auto",
    weights: Weights = "auto",
    pooling: Pooling | None = None,
    prompts: Mapping[Role, str] | None = None,
    api_key: str | None = None,
) -> Embedder:
    """Open a model by folder, `package:NAME/FOLDER`, hub id, or `http(s)://` address.

    `precision` is the fullest if not given (bundles: fp32, fp16, int8; torch: fp32, bf16, fp16); `weights`
    are a run's, `pooling` and `prompts` of models that do not say their own, `api_key` of a service.

    Raises:
        EmbedderInvalid: an option that this kind of model does not have, or a broken bundle.
        ModelMissing, ModelUnsupported: as `training.pretrained` says.
        ServiceFailed: the address does not answer.
    """
    is_remote = spec.startswith(("http://", "https://"))
    folder = Path(spec)
    is_bundle = not is_remote and (folder / "bundle.json").is_file()
    is_run = not is_remote and (folder / "recipe.json").is_file()
    _refuse(
        spec,
        {
            "--precision": precision is not None and is_remote,
            "--device": device != "auto" and is_remote,
            "--api-key": api_key is not None and not is_remote,
            "--pooling": pooling is not None and (is_remote or is_bundle or is_run),
            "--query-prompt and --passage-prompt": prompts is not None
            and (is_remote or is_bundle or is_run),
            "--weights": weights != "auto" and not is_run,
        },
    )
    if is_remote:
        return ServiceEmbedder.open(spec, api_key=api_key)
    if is_bundle:
        return BundleEmbedder.open(folder, precision=precision, device=device, threads=threads)
    dtype = TORCH_PRECISIONS.get(precision or "fp32")
    if dtype is None:
        raise EmbedderInvalid(
            f"{spec}: precision {precision}: torch has {', '.join(TORCH_PRECISIONS)}; int8 is for"
            " bundles that were exported with it"
        )
    torch.set_num_threads(threads)
    model = (
        open_run(folder, weights)
        if is_run
        else open_pretrained(spec, pooling=pooling, prompts=prompts)
    )
    return TorchEmbedder(model, device=choose_device(device), dtype=dtype)


def batches(lengths: Sequence[int], *, batch_tokens: int = BATCH_TOKENS) -> Iterator[list[int]]:
    """Numbers of texts by falling length, as many at a time as fit the budget when padded.

    The longest come first: what does not fit into memory fails at once.
    """
    order = sorted(range(len(lengths)), key=lambda number: (-lengths[number], number))
    start = 0
    while start < len(order):
        count = max(1, batch_tokens // max(1, lengths[order[start]]))
        yield order[start : start + count]
        start += count


def _of_words(states: torch.Tensor, owners: Sequence[int | None], count: int) -> Matrix:
    """Unit means of the states by the word that owns them, zeros where none does."""
    found = np.zeros((count, states.shape[-1]), dtype=np.float32)
    for word in {owner for owner in owners if owner is not None}:
        own = [place for place, owner in enumerate(owners) if owner == word]
        found[word] = _unit_mean(states[own])
    return found


def _unit_mean(vectors: torch.Tensor) -> Matrix:
    mean = vectors.float().mean(0)
    unit: Matrix = torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()
    return unit


def _refuse(spec: str, wrong: Mapping[str, bool]) -> None:
    if names := [name for name, is_wrong in wrong.items() if is_wrong]:
        raise EmbedderInvalid(f"{spec} has no use for {', '.join(names)}")
