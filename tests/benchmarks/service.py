"""The service under load: what HTTP costs, how fast a search is, what bulk indexing does to queries.

    python -m tests.benchmarks.service --data FOLDER [--documents 100000] [--soak-s 600]

FOLDER holds `parallel/en-xx.tsv.gz`; its foreign sides are the documents, its English sides the
queries. Every number is a ratio to a baseline of the same run, or stands beside one.
"""

import argparse
import gzip
import itertools
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np

from service.encoder import Encoder
from service.onnx_session import cpu_limit
from service.registry import Registry
from tests.e2e.process import ServiceProcess

REQUEST_TEXTS = 128
CLIENTS = 4
BATCH_TOKENS = 512
ROUNDS = 5
WARM_QUERIES = 50


def sentences(data: Path) -> Iterator[tuple[str, str, str]]:
    """(language, English, foreign) in turns over the languages, each foreign sentence once."""
    files = sorted((data / "parallel").glob("en-*.tsv.gz"))
    streams = [_rows(path) for path in files]
    seen: set[str] = set()
    while streams:
        for stream in list(streams):
            row = next(stream, None)
            if row is None:
                streams.remove(stream)
            elif row[2] not in seen:
                seen.add(row[2])
                yield row


def _rows(path: Path) -> Iterator[tuple[str, str, str]]:
    language = path.name.removeprefix("en-").removesuffix(".tsv.gz")
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        next(stream)
        for line in stream:
            english, foreign, _source = line.rstrip("\n").split("\t")
            yield language, english, foreign


def percentile(seconds: Sequence[float], share: float) -> float:
    return 1000 * float(np.percentile(seconds, share))


def bare_loop(encoder: Encoder, texts: Sequence[str]) -> float:
    """Texts per second of the best that one could write by hand: all known, sorted, full batches."""
    begun = time.perf_counter()
    tokens = encoder.tokenize(texts, "passage")
    tokens.sort(key=len)
    batch: list = []
    for one in tokens:
        if batch and (len(batch) + 1) * len(one) > BATCH_TOKENS:
            encoder.infer(batch)
            batch = []
        batch.append(one)
    encoder.infer(batch)
    return len(texts) / (time.perf_counter() - begun)


def over_http(url: str, texts: Sequence[str]) -> float:
    """Texts per second of clients that keep the service busy and read every vector."""
    starts = range(0, len(texts), REQUEST_TEXTS)
    requests = [texts[start : start + REQUEST_TEXTS] for start in starts]
    with httpx.Client(base_url=url, timeout=120) as client:

        def ask(part: Sequence[str]) -> int:
            body = {"inputs": list(part), "role": "passage", "encoding_format": "msgpack"}
            answer = client.post("/embed", json=body)
            answer.raise_for_status()
            return len(answer.content)

        begun = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(ask, requests))
    return len(texts) / (time.perf_counter() - begun)


def throughput(service: ServiceProcess, encoder: Encoder, texts: Sequence[str]) -> None:
    print(
        f"\n## Embedding over HTTP ({len(texts):,} texts, {REQUEST_TEXTS} a request, {CLIENTS} clients)"
    )
    over_http(service.url, texts[:2000])
    bare_loop(encoder, texts[:2000])
    ratios = []
    for _ in range(ROUNDS):  # in turns, so that a noisy neighbour disturbs both
        bare, http = bare_loop(encoder, texts), over_http(service.url, texts)
        ratios.append(http / bare)
        print(f"bare loop {bare:7.0f}/s   http {http:7.0f}/s   ratio {http / bare:.2f}")
    print(f"median ratio {statistics.median(ratios):.2f} (target 0.85)")


def load(url: str, documents: Sequence[tuple[str, str, str]], *, first: int = 0) -> float:
    """Store documents; returns documents per second until searches see them all."""
    begun = time.perf_counter()
    with httpx.Client(base_url=url, timeout=300) as client:
        for start in range(0, len(documents), 2000):
            lines = "".join(
                json.dumps({"id": f"{first + start + n}", "text": foreign, "language": language})
                + "\n"
                for n, (language, _, foreign) in enumerate(documents[start : start + 2000])
            )
            answer = client.post("/documents/bulk?wait=stored", content=lines.encode())
            answer.raise_for_status()
        stored = len(documents) / (time.perf_counter() - begun)
        while client.get("/collections/default").json()["lag"]:
            time.sleep(0.2)
    print(
        f"stored {stored:,.0f} documents/s; searchable {len(documents) / (time.perf_counter() - begun):,.0f}/s"
    )
    return stored


def searches(
    url: str, queries: Sequence[str], *, pause_s: float = 0.02
) -> tuple[list[float], list[float]]:
    """Seconds of each search as the client sees it, and of its index and catalog part alone."""
    whole, inner = [], []
    with httpx.Client(base_url=url, timeout=60) as client:
        for query in queries:
            begun = time.perf_counter()
            answer = client.post("/search", json={"query": query})
            whole.append(time.perf_counter() - begun)
            answer.raise_for_status()
            stages = dict(
                part.split(";dur=") for part in answer.headers["server-timing"].split(", ")
            )
            inner.append((float(stages["search"]) + float(stages["hydrate"])) / 1000)
            time.sleep(pause_s)
    return whole[WARM_QUERIES:], inner[WARM_QUERIES:]


def show(name: str, seconds: Sequence[float]) -> None:
    marks = ", ".join(f"p{p} {percentile(seconds, p):.1f} ms" for p in (50, 95, 99))
    print(f"{name}: {marks}  ({len(seconds)} searches)")


def resident(pid: int) -> tuple[float, float]:
    """Resident megabytes of the service, and of its index host (whose files are mapped)."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return _resident(str(pid)), sum(map(_resident, children))


def _resident(process: str) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def soak(service: ServiceProcess, rows: Sequence[tuple[str, str, str]], seconds: float) -> None:
    """Searches, replacements and embeddings of mixed length; memory must not grow."""
    print(f"\n## Soak of {seconds:.0f} s")
    stop = threading.Event()

    def write() -> None:
        with httpx.Client(base_url=service.url, timeout=60) as client:
            for turn in itertools.count():
                if stop.is_set():
                    return
                part = [rows[(turn * 20 + n) % 5000] for n in range(20)]
                documents = [
                    {"id": str(n), "text": f"{foreign} {turn}", "language": language}
                    for n, (language, _, foreign) in enumerate(part)
                ]
                client.post("/documents", json={"documents": documents}).raise_for_status()
                long = " ".join(row[2] for row in part) * (1 + turn % 5)
                client.post("/embed", json={"inputs": [long, part[0][1]]}).raise_for_status()

    writer = threading.Thread(target=write)
    writer.start()
    until, samples = time.monotonic() + seconds, []
    begun = time.monotonic()
    queries = itertools.cycle(row[1] for row in rows[:2000])
    while time.monotonic() < until:
        searches(service.url, [next(queries) for _ in range(100)])
        samples.append((time.monotonic() - begun, resident(service.pid)))
    stop.set()
    writer.join()
    late = [sample for sample in samples if sample[0] > seconds / 3]
    for name, place in (("service", 0), ("index host", 1)):
        first, last = samples[0][1][place], samples[-1][1][place]
        minutes, megabytes = zip(*((at / 60, both[place]) for at, both in late), strict=True)
        slope = np.polyfit(minutes, megabytes, 1)[0]
        print(
            f"{name}: first {first:.0f} MB, last {last:.0f} MB,"
            f" {slope:+.2f} MB/min after the first third"
        )


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--data", type=Path, required=True, help="folder with parallel/en-xx.tsv.gz"
    )
    options.add_argument("--models", type=Path, default=Path("models"))
    options.add_argument("--bundle", default="starter")
    options.add_argument("--documents", type=int, default=100_000)
    options.add_argument("--texts", type=int, default=8_000, help="texts of the throughput part")
    options.add_argument("--queries", type=int, default=600)
    options.add_argument("--soak-s", type=float, default=0)
    chosen = options.parse_args()
    more = chosen.documents // 5
    rows = list(itertools.islice(sentences(chosen.data), chosen.documents + more))
    queries = [english for _, english, _ in rows[:: max(1, len(rows) // chosen.queries)]]
    threads = cpu_limit()
    print(f"{threads} threads, bundle {chosen.bundle}, {len(rows):,} sentences")
    encoder = Encoder.open(Registry(chosen.models).find(chosen.bundle), threads=threads)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        with ServiceProcess(
            data=data, models=chosen.models.resolve(), bundle=chosen.bundle
        ) as service:
            throughput(service, encoder, [row[2] for row in rows[: chosen.texts]])
            print(f"\n## Indexing {chosen.documents:,} sentences")
            load(service.url, rows[: chosen.documents])
            print("\n## Searching them")
            whole, inner = searches(service.url, queries)
            show("whole request      ", whole)
            show("without embedding  ", inner)
            print(f"p50 without embedding: {percentile(inner, 50):.1f} ms (target 5)")
            print(f"\n## Queries while {more:,} more are indexed")
            loading = threading.Thread(
                target=load,
                args=(service.url, rows[chosen.documents :]),
                kwargs={"first": chosen.documents},
            )
            loading.start()
            busy: list[float] = []
            while loading.is_alive():
                busy += searches(service.url, queries[:150])[0]
            loading.join()
            show("idle", whole)
            show("busy", busy)
            print(f"p99 busy / idle: {percentile(busy, 99) / percentile(whole, 99):.2f} (target 2)")
            if chosen.soak_s:
                soak(service, rows, chosen.soak_s)


if __name__ == "__main__":
    main()
