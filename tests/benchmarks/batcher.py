"""What the micro-batcher costs: concurrent submitters against a bare loop with ideal batches.

    python -m tests.benchmarks.batcher [--bundle DIR] [--texts FILE]

Baseline: the same texts, tokens, session and threads in one plain loop over batches that were sorted
by length and cut to the same budget beforehand, so it knows everything in advance. Both are run in
turns in one process. The second figure is what the batcher itself costs the host per text, with an
encoder that costs nothing.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from service.batcher import BatchLimits, MicroBatcher
from service.bundle import Bundle
from service.encoder import Encoder
from service.metrics import Metrics
from service.onnx_session import cpu_limit
from service.types import Tokens
from tests.tiny_bundle import build_tiny_bundle


def main() -> None:
    options = parse_options()
    with tempfile.TemporaryDirectory() as folder:
        bundle = Bundle.open(options.bundle) if options.bundle else build_tiny_bundle(Path(folder))
        encoder = Encoder.open(bundle, precision=options.precision, threads=options.threads)
        texts = read_texts(options) if options.texts else made_texts(options.count)
        tokens = distinct(encoder.tokenize(texts, "passage"))
        free = np.zeros((options.batch_tokens, encoder.dimension), np.float32)
        rounds = []
        for _ in range(options.rounds):
            bare = run_bare(encoder.infer, tokens, options)
            batched = asyncio.run(run_batched(encoder.infer, encoder, tokens, options))
            host = asyncio.run(
                run_batched(lambda batch: free[: len(batch)], encoder, tokens, options)
            )
            rounds.append((bare, batched, host))
        print(json.dumps(report(options, bundle, tokens, rounds), indent=2))
        encoder.close()


def run_bare(infer, tokens: Sequence[Tokens], options) -> float:
    batches = list(ideal_batches(tokens, options.batch_tokens))
    start = perf_counter()
    for batch in batches:
        infer(batch)
    return perf_counter() - start


async def run_batched(infer, encoder: Encoder, tokens: Sequence[Tokens], options) -> float:
    """`concurrency` clients, each with one request of `request_texts` texts at a time."""
    size = options.request_texts
    requests = iter([tokens[start : start + size] for start in range(0, len(tokens), size)])
    limits = BatchLimits(
        max_batch_tokens=options.batch_tokens, max_passage_batch_tokens=options.batch_tokens
    )
    async with MicroBatcher(
        infer, dimension=encoder.dimension, limits=limits, metrics=Metrics()
    ) as batcher:

        async def client() -> None:
            for request in requests:
                await batcher.submit(request, lane="passage")

        start = perf_counter()
        await asyncio.gather(*(client() for _ in range(options.concurrency)))
        return perf_counter() - start


def ideal_batches(tokens: Sequence[Tokens], budget: int) -> Iterator[list[Tokens]]:
    batch: list[Tokens] = []
    for text in sorted(tokens, key=len, reverse=True):
        if batch and len(batch[0]) * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(text)
    yield batch


def distinct(tokens: Sequence[Tokens]) -> list[Tokens]:
    """Identical texts would run once in the batcher and twice in the loop."""
    return list({one.ids.tobytes(): one for one in tokens}.values())


def read_texts(options) -> list[str]:
    lines = options.texts.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip()][: options.count]


def made_texts(count: int) -> list[str]:
    """Of lengths as prose has them: log-normal, a median of 40 characters."""
    dice = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz     "))
    lengths = np.clip(dice.lognormal(np.log(40), 0.6, count), 4, 400).astype(int)
    return ["".join(dice.choice(letters, length)) for length in lengths]


def report(options, bundle, tokens, rounds) -> dict[str, object]:
    ratios = [bare / batched for bare, batched, _ in rounds]
    bare, batched, host = map(statistics.median, zip(*rounds, strict=True))
    return {
        "bundle": f"{bundle.manifest.name}/{bundle.manifest.version}",
        "precision": options.precision,
        "threads": options.threads,
        "texts": len(tokens),
        "tokens": sum(map(len, tokens)),
        "batch_tokens": options.batch_tokens,
        "concurrency": options.concurrency,
        "request_texts": options.request_texts,
        "bare_texts_per_second": round(len(tokens) / bare, 1),
        "batched_texts_per_second": round(len(tokens) / batched, 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "host_microseconds_per_text": round(1e6 * host / len(tokens), 2),
    }


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="a bundle's folder; else a tiny one is built")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--texts", type=Path, help="a text a line; else made up")
    parser.add_argument("--count", type=int, default=5000, help="at most so many texts")
    parser.add_argument("--threads", type=int, default=cpu_limit())
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--request-texts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
