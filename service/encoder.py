"""Texts to tokens to vectors: one precision of one bundle, loaded; synchronous and pure.

Why truncation is done here and not by the tokenizer: `tokenizer.json` often carries limits of its own
(128 tokens where the model has 512), and the chunker needs the same tokenizer without any.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Self, get_args
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from service.bundle import Bundle
from service.errors import BundleInvalid, ConfigurationError, EngineFailure, InvalidInput
from service.manifest import PROBES, TOKENIZER, Precision
from service.onnx_session import Device, OnnxSession, open_session
from service.types import Matrix, Role, Tokens

FIRST_CAP = 8
"""Characters per token that are tokenised first: more than prose has in any script."""

LAST_CAP = 64
"""Characters per token beyond which a text is cut whatever it is (a flood of spaces, say)."""

MARGIN = 128
"""Tokens that must follow the last kept one before a cut text counts as long enough: what stands at
the cut itself may be tokenised otherwise, and no tokenizer looks further ahead than a word."""

PROBE_COSINE: dict[Precision, float] = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.999}
PROBE_NORM_TOLERANCE = 1e-3
PROBE_BATCH = 16
PADDING_TOKENS = ("<pad>", "[PAD]", "<|pad|>", "<|padding|>")


@dataclass(frozen=True, slots=True, weakref_slot=True)
class _Pieces:
    """A tokenizer without limits of its own, the id that pads, and how many special tokens end a text."""

    tokenizer: Tokenizer
    padding: int
    tail: int


_open: WeakValueDictionary[str, _Pieces] = WeakValueDictionary()
"""By the hash of the file. A fine-tuned encoder keeps the pieces of the one before: it is not read
again, during which nothing else runs (25 ms a megabyte), nor held twice."""


class Encoder:
    """A bundle that can embed. Open it with `Encoder.open`; calls may come from several threads."""

    def __init__(
        self, bundle: Bundle, *, precision: Precision, pieces: "_Pieces", session: OnnxSession
    ) -> None:
        self.bundle = bundle
        self.precision = precision
        self.tokenizer = pieces.tokenizer
        """Without truncation and padding, for counting; never change it."""
        self._session = session
        self._pieces = pieces

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        *,
        precision: Precision | None = None,
        device: Device = "cpu",
        threads: int,
    ) -> Self:
        """Load the tokenizer and the graph of one precision, by default the bundle's fullest.

        Raises:
            BundleInvalid: a file cannot be loaded, or a prompt leaves no room for text.
            ConfigurationError: the bundle lacks the precision, or the machine the device.
        """
        manifest = bundle.manifest
        precision = precision or manifest.fullest
        if precision not in manifest.precisions:
            raise ConfigurationError(
                f"ISOGLOSS_PRECISION is {precision}, but {manifest.name}/{manifest.version} "
                f"has only {', '.join(manifest.precisions)}"
            )
        pieces = _pieces_of(bundle)
        graph = bundle.path(manifest.precisions[precision])
        session = open_session(graph, device=device, threads=threads)
        encoder = cls(bundle, precision=precision, pieces=pieces, session=session)
        for role in manifest.prompts:
            if encoder.room(role) < 1:
                raise BundleInvalid(
                    f"prompt of {role} leaves no room in {manifest.max_tokens} tokens"
                )
        return encoder

    @property
    def dimension(self) -> int:
        return self.bundle.manifest.dimension

    @property
    def space(self) -> str:
        return self.bundle.manifest.space[self.precision]

    @property
    def max_tokens(self) -> int:
        return self.bundle.manifest.max_tokens

    def room(self, role: Role) -> int:
        """Tokens of text that fit beside the prompt and the special tokens."""
        return self.max_tokens - len(self.tokenizer.encode(self._prompt(role)).ids)

    def tokenize(self, texts: Sequence[str], role: Role) -> list[Tokens]:
        """The tokens of each text with its role's prompt, cut at `max_tokens`; special ones stay.

        Raises:
            InvalidInput: a text that is not Unicode, holds NUL, or has no token at all.
        """
        for number, text in enumerate(texts):
            _check_text(text, number)
        first, last = (cap * (self.max_tokens + MARGIN) for cap in (FIRST_CAP, LAST_CAP))
        encoded = self._encode([text[:first] for text in texts], role)
        short = [
            number
            for number, ids in enumerate(encoded)
            if len(texts[number]) > first and len(ids) < self.max_tokens + MARGIN
        ]
        longer = self._encode([texts[number][:last] for number in short], role)
        for number, ids in zip(short, longer, strict=True):
            encoded[number] = ids
        tokens = []
        for number, (text, ids) in enumerate(zip(texts, encoded, strict=True)):
            if not len(ids):
                raise InvalidInput("the text has no token", pointer=f"/{number}")
            truncated = len(ids) > self.max_tokens or len(text) > last
            tokens.append(Tokens(self._cut(ids), truncated))
        return tokens

    def infer(self, tokens: Sequence[Tokens]) -> Matrix:
        """The unit vectors [texts, dimension]; row i is text i, whatever it was batched with.

        Raises:
            EngineFailure: the device failed. Whether a vector is finite, the batcher judges: only
                the text that it belongs to fails.
        """
        if not tokens:
            return np.zeros((0, self.dimension), dtype=np.float32)
        shape = len(tokens), max(map(len, tokens))
        ids = np.full(shape, self._pieces.padding, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for row, one in enumerate(tokens):
            ids[row, : len(one)] = one.ids
            mask[row, : len(one)] = 1
        vectors = self._session(ids, mask)
        if vectors.shape != (len(tokens), self.dimension):
            raise EngineFailure(
                f"{self._name}: {len(tokens)} texts gave vectors of shape {vectors.shape}"
            )
        return vectors

    def verify_probes(self) -> None:
        """Embed the bundle's probes; `BundleInvalid` unless they are what its maker saw."""
        probes = self.bundle.probes()
        if not probes.texts:
            raise BundleInvalid(f"{PROBES}: no texts")
        actual = np.zeros((len(probes.texts), self.dimension), dtype=np.float32)
        try:
            for role in get_args(Role):
                rows = [row for row, own in enumerate(probes.roles) if own == role]
                tokens = self.tokenize([probes.texts[row] for row in rows], role)
                # By length, or most of the work were padding: every start waits for it.
                order = sorted(range(len(rows)), key=lambda place: len(tokens[place]))
                for start in range(0, len(order), PROBE_BATCH):
                    chosen = order[start : start + PROBE_BATCH]
                    actual[[rows[k] for k in chosen]] = self.infer([tokens[k] for k in chosen])
        except (EngineFailure, InvalidInput) as error:
            raise BundleInvalid(f"{PROBES}: {error.detail}") from error
        norms = np.linalg.norm(actual, axis=1)
        if (worst := float(np.abs(norms - 1).max())) > PROBE_NORM_TOLERANCE:
            raise BundleInvalid(
                f"{PROBES}: {self.precision} vectors are off unit norm by {worst:.3g}"
            )
        expected = probes.vectors[self.precision]
        # NaN must not pass, so the comparison asks for what is right, not for what is wrong.
        right = np.einsum("nd,nd->n", actual, expected) >= PROBE_COSINE[self.precision]
        if not right.all():
            row = int(np.argmin(right))
            raise BundleInvalid(
                f"{PROBES}: text {row} ({probes.languages[row]}) has cosine "
                f"{actual[row] @ expected[row]:.5f} with its {self.precision} vector, "
                f"needs {PROBE_COSINE[self.precision]}"
            )

    def close(self) -> None:
        """Give the weights back; whatever is inferred afterwards fails."""
        self._session.close()

    @property
    def _name(self) -> str:
        return f"{self.bundle.manifest.name}/{self.bundle.manifest.version} ({self.precision})"

    def _prompt(self, role: Role) -> str:
        return self.bundle.manifest.prompts[role]

    def _encode(self, texts: Sequence[str], role: Role) -> list[NDArray[np.int64]]:
        """All tokens of each text. `encode_batch` lets other threads run, `encode` does not."""
        prompt = self._prompt(role)
        try:
            encodings = self.tokenizer.encode_batch_fast([prompt + text for text in texts])
        except Exception as error:  # the library raises nothing narrower
            raise EngineFailure(f"{self._name}: {TOKENIZER}: {error}") from error
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def _cut(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """At most `max_tokens`, the special tokens at the end kept."""
        if len(ids) <= self.max_tokens:
            return ids
        tail = self._pieces.tail
        return np.concatenate([ids[: self.max_tokens - tail], ids[len(ids) - tail :]])


def cut(vectors: Matrix, dimension: int) -> Matrix:
    """The first dimensions of each vector, of unit length again."""
    if not 1 <= dimension <= vectors.shape[1]:
        raise InvalidInput(f"dimensions is {dimension}, the vectors have {vectors.shape[1]}")
    kept = vectors[:, :dimension]
    norms = np.linalg.norm(kept, axis=1, keepdims=True)
    return np.ascontiguousarray(kept / np.maximum(norms, np.finfo(np.float32).tiny))


def _check_text(text: str, number: int) -> None:
    if "\0" in text:
        raise InvalidInput("the text holds a NUL character", pointer=f"/{number}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        detail = f"the text holds a lone surrogate at character {error.start}"
        raise InvalidInput(detail, pointer=f"/{number}") from error


def _pieces_of(bundle: Bundle) -> _Pieces:
    known = _open.get(bundle.manifest.files[TOKENIZER])
    if known is not None:
        return known
    try:
        tokenizer = Tokenizer.from_file(str(bundle.path(TOKENIZER)))
    except Exception as error:  # the library raises nothing narrower
        raise BundleInvalid(f"{TOKENIZER}: {error}") from error
    padding = _padding_id(tokenizer)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    pieces = _Pieces(tokenizer, padding, _special_tokens_at_the_end(tokenizer))
    _open[bundle.manifest.files[TOKENIZER]] = pieces
    return pieces


def _padding_id(tokenizer: Tokenizer) -> int:
    """The masked id; models that number positions by it (XLM-R) need the one they were trained with."""
    if tokenizer.padding is not None:
        return int(tokenizer.padding["pad_id"])
    known = (tokenizer.token_to_id(token) for token in PADDING_TOKENS)
    return next((number for number in known if number is not None), 0)


def _special_tokens_at_the_end(tokenizer: Tokenizer) -> int:
    flags = tokenizer.encode("a").special_tokens_mask
    return len(list(takewhile(bool, reversed(flags))))
