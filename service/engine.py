"""Engine: one loaded bundle, alive; texts in, vectors out, and the event loop never waits for either.

Why chunks: a request of ten thousand texts is tokenised a slice at a time, each slice queueing for a
tokenizer thread behind the slices of others, so that a single query passes within milliseconds.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter
from typing import Self

import anyio
import anyio.to_thread

from service.batcher import BatchLimits, MicroBatcher
from service.bundle import Bundle
from service.encoder import Encoder
from service.errors import InvalidInput, TooLarge
from service.manifest import Precision
from service.metrics import Metrics
from service.onnx_session import Device
from service.proving import prove
from service.types import Embedded, Role, Tokens

CHUNK_TEXTS = 64
CHUNK_CHARACTERS = 32_768
"""What one thread tokenises at a time: a few milliseconds in any script."""


class Engine:
    """What the rest of the service knows of a model. Open it with `async with Engine.open(…)`."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        device: Device,
        batcher: MicroBatcher,
        pool: ThreadPoolExecutor,
        metrics: Metrics,
    ) -> None:
        manifest = encoder.bundle.manifest
        self.name = manifest.name
        self.version = manifest.version
        self.space = encoder.space
        self.precision = encoder.precision
        self.device = device
        self.dimension = encoder.dimension
        self.dimensions: Sequence[int] = manifest.dimensions
        self.max_tokens = encoder.max_tokens
        self.tokenizer = encoder.tokenizer
        """Without truncation and padding, for counting and splitting; never change it."""
        self._encoder = encoder
        self._batcher = batcher
        self._pool = pool
        self._metrics = metrics

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        bundle: Bundle,
        *,
        precision: Precision = "fp32",
        device: Device = "cpu",
        threads: int,
        tokenizer_threads: int,
        limits: BatchLimits,
        metrics: Metrics,
    ) -> AsyncIterator[Self]:
        """Loads a bundle, runs the largest batch once and the probes; at the end frees its memory.

        Raises:
            BundleInvalid: a file cannot be loaded, or the probes are not reproduced here.
            ConfigurationError: the bundle lacks the precision, or the machine the device.
            EngineFailure: the largest batch does not fit the device.
        """
        start = perf_counter()
        encoder = await anyio.to_thread.run_sync(
            partial(Encoder.open, bundle, precision=precision, device=device, threads=threads)
        )
        pool = ThreadPoolExecutor(tokenizer_threads, thread_name_prefix="isogloss-tokenize")
        try:
            largest = max(limits.max_batch_tokens, limits.max_passage_batch_tokens)
            await anyio.to_thread.run_sync(partial(prove, encoder, batch_tokens=largest))
            # A GPU waits for its next batch while the host pads it: there a second worker pads.
            workers = 2 if device == "cuda" else 1
            async with MicroBatcher(
                *[encoder.infer] * workers,
                dimension=encoder.dimension,
                limits=limits,
                metrics=metrics,
            ) as batcher:
                metrics.model_load_duration_seconds.observe(perf_counter() - start)
                yield cls(encoder, device=device, batcher=batcher, pool=pool, metrics=metrics)
        finally:
            pool.shutdown(wait=False)
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(encoder.close)

    @property
    def healthy(self) -> bool:
        """Open, with every worker at work."""
        return self._batcher.healthy

    @property
    def queried(self) -> bool:
        """Whether queries wait, or came within the last second: what can wait then should."""
        return self._batcher.queried

    async def embed(
        self,
        texts: Sequence[str],
        role: Role,
        *,
        deadline: float | None = None,
        truncate: bool = True,
    ) -> Embedded:
        """The vectors of the texts, in their order; a text beyond `max_tokens` is cut, or refused.

        `deadline` is a time on the event loop's clock.

        Raises:
            InvalidInput: a text that cannot be embedded; `pointer` is `/inputs/3` for text 3.
            TooLarge: with `truncate=False`, a text that is too long.
            Overloaded, DeadlineExceeded, EngineFailure, NotReady: see `MicroBatcher.submit`.
        """
        start = perf_counter()
        tokens = await self._tokenize(texts, role, truncate=truncate)
        self._metrics.stage_duration_seconds.labels("tokenize").observe(perf_counter() - start)
        vectors = await self._batcher.submit(tokens, lane=role, deadline=deadline)
        lengths = [len(one) for one in tokens]
        truncated = [one.truncated for one in tokens]
        self._metrics.texts.labels(role).inc(len(texts))
        self._metrics.tokens.labels(role).inc(sum(lengths))
        self._metrics.truncated_texts.labels(role).inc(sum(truncated))
        return Embedded(vectors, lengths, truncated)

    async def _tokenize(self, texts: Sequence[str], role: Role, *, truncate: bool) -> list[Tokens]:
        loop = asyncio.get_running_loop()
        tokens: list[Tokens] = []
        for chunk in _chunks(texts):
            self._batcher.ensure_room(len(texts), lane=role)  # it may fill, or close, in between
            first = len(tokens)
            work = partial(self._tokenize_chunk, chunk, role, first=first, truncate=truncate)
            tokens += await loop.run_in_executor(self._pool, work)
        return tokens

    def _tokenize_chunk(
        self, texts: Sequence[str], role: Role, *, first: int, truncate: bool
    ) -> list[Tokens]:
        try:
            tokens = self._encoder.tokenize(texts, role)
        except InvalidInput as error:
            number = first + int(error.pointer.removeprefix("/"))
            raise InvalidInput(error.detail, pointer=f"/inputs/{number}") from error
        for number, one in enumerate(tokens):
            if one.truncated and not truncate:
                prompt = self._encoder.bundle.manifest.prompts[role]
                (whole,) = self.tokenizer.encode_batch_fast([prompt + texts[number]])
                raise TooLarge(
                    f"The text has {len(whole)} tokens with its prompt, and {self.name} reads "
                    f"{self.max_tokens}: shorten it, or allow it to be cut (truncate).",
                    pointer=f"/inputs/{first + number}",
                )
        return tokens


def _chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    start = characters = 0
    for number, text in enumerate(texts):
        if number - start == CHUNK_TEXTS or (
            number > start and characters + len(text) > CHUNK_CHARACTERS
        ):
            yield texts[start:number]
            start, characters = number, 0
        characters += len(text)
    if start < len(texts):
        yield texts[start:]
