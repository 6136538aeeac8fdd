"""Two bundles side by side: how soon a fresh service answers, a query alone, passages in bulk.

    python -m tests.benchmarks.encoder --data FOLDER --bundle models/starter/1.0.0 --against OTHER

FOLDER holds `qa/` and `parallel/`. Queries are questions, passages English paragraphs. Both bundles take turns in
every round, each in its fullest precision, with the same threads; ratios are to the other bundle.
"""

import argparse
import gzip
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from service.bundle import Bundle
from service.encoder import Encoder
from service.onnx_session import cpu_limit
from tests.benchmarks.service import bare_loop, percentile
from tests.e2e.process import ServiceProcess

ROUNDS = 5
QUERIES = 200
PASSAGES = 400


def main() -> None:
    options = parse_options()
    queries, passages = texts(options.data)
    folders = [options.bundle, *([options.against] if options.against else [])]
    encoders = [Encoder.open(Bundle.open(each), threads=cpu_limit()) for each in folders]
    for encoder in encoders:
        manifest = encoder.bundle.manifest
        megabytes = sum(file.stat().st_size for file in encoder.bundle.folder.rglob("*")) / 1e6
        print(f"{manifest.name}/{manifest.version} {encoder.precision}: {megabytes:.1f} MB")
    measure("a query alone, p50 in ms", [lambda e=e: alone(e, queries) for e in encoders])
    measure("passages a second", [lambda e=e: bare_loop(e, passages) for e in encoders])
    seconds = [cold_start(options.bundle) for _ in range(ROUNDS)]
    print(f"from nothing to the first answer: {', '.join(f'{each:.2f}' for each in seconds)} s")


def measure(what, sides) -> None:
    """A line a round, the sides in turns, and the median of their ratio."""
    for side in sides:
        side()
    ratios = []
    for _ in range(ROUNDS):
        found = [side() for side in sides]
        ratio = f"   ratio {found[0] / found[1]:.2f}" if len(found) > 1 else ""
        ratios += [found[0] / found[1]] if len(found) > 1 else []
        print(f"{what}: {'   '.join(f'{each:8.2f}' for each in found)}{ratio}", flush=True)
    if ratios:
        print(f"{what}: median ratio {statistics.median(ratios):.2f}")


def alone(encoder: Encoder, queries: Sequence[str]) -> float:
    """Milliseconds in the median from a text to its vector, one after the other."""
    seconds = []
    for query in queries:
        begun = time.perf_counter()
        encoder.infer(encoder.tokenize([query], "query"))
        seconds.append(time.perf_counter() - begun)
    return percentile(seconds, 50)


def cold_start(bundle: Path) -> float:
    """Seconds from starting the process, with no data, until it has answered an embedding."""
    with tempfile.TemporaryDirectory() as scratch:
        name = f"{bundle.parent.name}/{bundle.name}"
        begun = time.perf_counter()
        with ServiceProcess(
            data=Path(scratch) / "data", models=bundle.parents[1], bundle=name
        ) as service:
            answer = httpx.post(f"{service.url}/embed", json={"inputs": "¿Dónde está el río?"})
            answer.raise_for_status()
            return time.perf_counter() - begun


def texts(data: Path) -> tuple[list[str], list[str]]:
    """Questions of all languages in turns, and English passages."""
    files = sorted((data / "qa").glob("triples.*.jsonl.gz"))
    each = [_first(file, "question", -(-QUERIES // len(files))) for file in files]
    questions = [text for row in zip(*each, strict=False) for text in row]
    return questions[:QUERIES], _first(data / "qa" / "passages.en.jsonl.gz", "text", PASSAGES)


def _first(file: Path, key: str, count: int) -> list[str]:
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        return [json.loads(line)[key] for line, _ in zip(stream, range(count), strict=False)]


def parse_options() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--bundle", type=Path, required=True)
    options.add_argument("--against", type=Path)
    return options.parse_args()


if __name__ == "__main__":
    main()
