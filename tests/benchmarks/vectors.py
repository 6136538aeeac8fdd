"""How fast the embedded index is, beside brute force in numpy on the same vectors and machine.

    python -m tests.benchmarks.vectors [--points 100000] [--dimensions 256 384]

Times are what a caller in the service sees: through the socket, with the filter translated. The
vectors are random unit vectors, the hardest case for an 8-bit store; real text is kinder.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import numpy as np

from service.filters import AllOf, Equals, Not, Range
from service.metrics import Metrics
from service.vectors.backend import IndexSpec, Point, Query
from service.vectors.edge import EdgeBackend

LANGUAGES = ["en"] * 50 + ["de"] * 20 + ["fr"] * 29 + ["sw"]
BATCH = 512
K = 10
CASES = {
    "no filter": {},
    "limit 100": {"limit": 100},
    "language = sw (1 %)": {"where": Equals("language", "sw")},
    "language = de (20 %)": {"where": Equals("language", "de")},
    "language = en (50 %)": {"where": Equals("language", "en")},
    "not language = en (50 %)": {"where": Not(Equals("language", "en"))},
    "year in a decade (8 %)": {"where": Range("year", gte=1950, lt=1960)},
    "en and year (25 %)": {"where": AllOf([Equals("language", "en"), Range("year", gte=1960)])},
    "by document": {"group_by": "document"},
    "by language": {"group_by": "language", "limit": 3},
}


def unit_rows(rng, rows, dimension):
    vectors = rng.normal(size=(rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def spread(seconds):
    return "p50 {:6.2f} ms   p95 {:6.2f} ms   p99 {:6.2f} ms".format(
        *np.percentile(np.array(seconds) * 1e3, [50, 95, 99])
    )


def points(vectors, start):
    return [
        Point(
            start + at,
            vector,
            start + at,
            (start + at) // 5,
            LANGUAGES[(start + at) % 100],
            {"year": 1900 + (start + at) % 120},
        )
        for at, vector in enumerate(vectors)
    ]


async def timed(index, queries, repeat):
    seconds = []
    for at in range(repeat):
        begun = time.perf_counter()
        await index.search([queries[at % len(queries)]])
        seconds.append(time.perf_counter() - begun)
    return seconds


async def idle_and_busy(index, vectors, queries):
    """Query times alone, and while the index takes in another fifth of the points."""
    idle = await timed(index, queries, 400)
    extra = vectors[: len(vectors) // 5]

    async def load():
        for start in range(0, len(extra), BATCH):
            await index.apply(points(extra[start : start + BATCH], 10**9 + start), [])

    loading, busy = asyncio.create_task(load()), []
    while not loading.done():
        busy += await timed(index, queries, 1)
    await loading
    return idle, busy


def brute(vectors, query):
    begun = time.perf_counter()
    scores = vectors @ query
    best = np.argpartition(-scores, K)[:K]
    best = best[np.argsort(-scores[best])]
    return set(best.tolist()), time.perf_counter() - begun


def resident(pid):
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


async def measure(count, dimension, folder):
    rng = np.random.default_rng(0)
    vectors, asked = unit_rows(rng, count, dimension), unit_rows(rng, 200, dimension)
    print(f"\n{count:,} vectors of {dimension} dimensions, k = {K}")
    async with EdgeBackend.start(folder, metrics=Metrics()) as backend:
        index = await backend.create(IndexSpec("bench", "space", dimension, {"year": "integer"}))
        begun = time.perf_counter()
        for start in range(0, count, BATCH):
            await index.apply(points(vectors[start : start + BATCH], start), [])
        rate = count / (time.perf_counter() - begun)
        begun = time.perf_counter()
        await index.flush()
        flushed = time.perf_counter() - begun
        print(f"  upsert {rate:,.0f} points/s   flush {flushed * 1e3:.0f} ms")
        truth = [brute(vectors, query) for query in asked[:60]]
        found = await index.search([Query(query, K) for query in asked[:60]])
        hits = sum(len(best & {m.id for m in f}) for (best, _), f in zip(truth, found, strict=True))
        numpy_s = [seconds for _, seconds in truth]
        for name, options in CASES.items():
            queries = [Query(query, **{"limit": K, **options}) for query in asked]
            seconds = await timed(index, queries, 200)
            ratio = np.median(seconds) / np.median(numpy_s)
            print(f"  {name:26} {spread(seconds)}   {ratio:.2f} of numpy")
        print(f"  {'numpy, no filter':26} {spread(numpy_s)}   recall@{K} {hits / (60 * K):.3f}")
        idle, busy = await idle_and_busy(index, vectors, [Query(query, K) for query in asked])
        print(f"  {'idle':26} {spread(idle)}\n  {'while indexing':26} {spread(busy)}")
        print(f"  host {resident(backend.pid):.0f} MiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[256, 384])
    given = parser.parse_args()
    for dimension in given.dimensions:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(measure(given.points, dimension, Path(folder)))


if __name__ == "__main__":
    main()
