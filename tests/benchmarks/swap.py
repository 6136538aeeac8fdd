"""Swaps under load: whether every request is answered, from one encoder each, and what it costs them.

    python -m tests.benchmarks.swap [--documents 5000] [--swaps 20] [--bundle DIR] [--data FOLDER]

Two bundles of equal dimension and unrelated spaces take turns, each swap followed by a rollback and a
way back, while clients search and write at a fixed rate. Without `--bundle` they are tiny and random;
with it, the second is the same encoder with its dimensions in another order, so both are equally
good and no score of the one fits the other. A search is timed from when it was due. What it was
answered is kept, and every score computed again when all is over, so that the clients are light.
"""

import argparse
import gc
import itertools
import json
import random
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
from onnx import helper, numpy_helper

from service.bundle import Bundle, write_bundle
from service.manifest import Declaration
from service.probes import Probes
from tests.benchmarks.service import load, percentile, resident, sentences
from tests.e2e.answers import Examiner
from tests.e2e.kills import WORDS
from tests.e2e.process import ServiceProcess
from tests.tiny_bundle import build_tiny_bundle

SEARCHERS, SEARCHES_PER_S = 4, 20.0
WRITES_PER_S, WRITTEN_AT_ONCE, KEPT_WRITES = 4.0, 5, 100
HITS = 5
QUERIES = 200
STEADY_S = 20.0
LOOK_S = 0.1
SWAP_S = 1800.0
RSS_EVERY = 10


@dataclass
class Seen:
    """What the clients saw: when each search was due, how long it took, and what it was answered."""

    searches: list[tuple[float, float]] = field(default_factory=list)
    answers: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    writes: list[tuple[float, float]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


@dataclass
class Swap:
    """One swap, in seconds; `states` says how long it was in each."""

    begun: float
    seconds: float
    states: Mapping[str, float]
    infer: float
    back: float
    forth: float
    ended: float


def shuffled(source: Path, folder: Path, *, version: str) -> Bundle:
    """The encoder of a bundle in fp32, with its dimensions in another order."""
    old = Bundle.open(source).manifest
    left_out = {"bundle.json", *old.precisions.values()} - {old.precisions["fp32"]}
    shutil.copytree(source, folder, ignore=lambda _, names: left_out & {*names})
    order = np.random.default_rng(0).permutation(old.dimension)
    graph_file = folder / old.precisions["fp32"]
    model = onnx.load(graph_file, load_external_data=False)
    [output] = model.graph.output
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["in_order" if name == output.name else name for name in names]
    model.graph.initializer.append(numpy_helper.from_array(order, "order"))
    model.graph.node.append(
        helper.make_node("Gather", ["in_order", "order"], [output.name], axis=1)
    )
    graph_file.write_bytes(model.SerializeToString(deterministic=True))
    probes = Probes.load(folder / "probes.npz")
    vectors = {"fp32": probes.vectors["fp32"][:, order]}
    Probes(probes.texts, probes.roles, probes.languages, vectors).save(folder / "probes.npz")
    declared = {name: getattr(old, name) for name in Declaration.model_fields}
    declared |= {
        "version": version,
        "dimensions": [old.dimension],
        "precisions": {"fp32": old.precisions["fp32"]},
        "compatible_with": [],
    }
    return write_bundle(folder, **declared)


def two_bundles(models: Path, source: Path | None) -> tuple[str, tuple[str, str]]:
    """Their name, and the version of each."""
    if source is None:
        for version, seed in (("1", 1), ("2", 2)):
            folder = models / "tiny" / version
            build_tiny_bundle(folder, version=version, seed=seed, dimension=64)
        return "tiny", ("1", "2")
    manifest = Bundle.open(source).manifest
    shutil.copytree(source, models / manifest.name / manifest.version)
    shuffled(source, models / manifest.name / "shuffled", version="shuffled")
    return manifest.name, (manifest.version, "shuffled")


def texts(count: int, data: Path | None) -> tuple[list[tuple[str, str, str]], list[str]]:
    """(language, query, passage) of so many documents, and the queries that are asked."""
    if data is not None:
        rows = list(itertools.islice(sentences(data), count))
    else:
        rng = random.Random(0)
        rows = [
            ("en", " ".join(rng.choices(WORDS, k=4)), " ".join(rng.choices(WORDS, k=12)) + f" {n}")
            for n in range(count)
        ]
    return rows, [query for _, query, _ in rows[:: max(1, count // QUERIES)]]


def at_rate(per_s: float, stop: threading.Event, phase: float = 0.0) -> Iterator[float]:
    """The moments at which something is due; one that is late comes at once."""
    begun = time.perf_counter()
    for number in itertools.count():
        due = begun + (number + phase) / per_s
        if stop.wait(max(0.0, due - time.perf_counter())):
            return
        yield due


def search(
    url: str, queries: Sequence[str], seen: Seen, stop: threading.Event, number: int
) -> None:
    rate = SEARCHES_PER_S / SEARCHERS
    asked = itertools.cycle(queries[number:] + queries[:number])
    with httpx.Client(base_url=url, timeout=120) as client:
        for due in at_rate(rate, stop, number / SEARCHERS):
            query = next(asked)
            answer = _post(client, "/search", seen, query=query, limit=HITS)
            seen.searches.append((due, time.perf_counter() - due))
            if answer is not None:
                seen.answers.append((query, answer))


def write(
    url: str, rows: Sequence[tuple[str, str, str]], seen: Seen, stop: threading.Event
) -> None:
    """Put documents with the texts of others, and delete those that were put a while ago.

    None is edited: the text of a hit is read after it was found, and would not belong to its score.
    """
    rng = random.Random(0)
    put: deque[list[str]] = deque()
    with httpx.Client(base_url=url, timeout=120) as client:
        for due in at_rate(WRITES_PER_S, stop):
            ids = [f"late-{len(seen.writes)}-{n}" for n in range(WRITTEN_AT_ONCE)]
            if len(put) == KEPT_WRITES:
                _post(client, "/documents/delete", seen, ids=put.popleft(), wait="stored")
            else:
                documents = [
                    {"id": identifier, "text": text, "language": language}
                    for identifier, (language, _, text) in zip(
                        ids, rng.choices(rows, k=WRITTEN_AT_ONCE), strict=True
                    )
                ]
                _post(client, "/documents", seen, documents=documents, wait="stored")
                put.append(ids)
            seen.writes.append((due, time.perf_counter() - due))


def _post(client: httpx.Client, path: str, seen: Seen, **body: Any) -> Mapping[str, Any] | None:
    try:
        answer = client.post(path, json=body)
    except httpx.TransportError as error:
        seen.refused.append(f"{path}: {error!r}")
        return None
    if not answer.is_success:
        seen.refused.append(f"{path}: {answer.status_code} {answer.text}")
        return None
    return answer.json()


@contextmanager
def clients(url: str, rows: Sequence[tuple[str, str, str]], queries: Sequence[str]):
    """What they have seen so far; they end with the block."""
    stop, seen = threading.Event(), Seen()
    threads = [
        threading.Thread(target=search, args=(url, queries, seen, stop, number))
        for number in range(SEARCHERS)
    ]
    threads.append(threading.Thread(target=write, args=(url, rows, seen, stop)))
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


class Operator:
    """Swaps over HTTP, and times what it asks for."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=120)
        self._looked = 0.0

    def close(self) -> None:
        self._client.close()

    def inferred(self) -> float:
        """Seconds of inference so far."""
        name = 'isogloss_stage_duration_seconds_sum{stage="infer"}'
        lines = self._client.get("/metrics").text.splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)

    def swap(self, model: str, version: str) -> Swap:
        """To this version, back to the one before, forth again, and the one before is gone."""
        infer, begun = self.inferred(), time.perf_counter()
        made = self._post(f"/models/{model}/{version}/activate", soak_s=86_400)
        path = f"/migrations/{made['generation']}"
        states: dict[str, float] = {}
        self._looked = begun
        self._until(lambda: self._state(path, states) == "active")
        seconds, infer = time.perf_counter() - begun, self.inferred() - infer
        back, forth = self._roll_back(path), self._roll_back(path)
        self._post(f"{path}/finish")
        self._until(lambda: not self._any("soaking", "retiring"))
        return Swap(begun, seconds, states, infer, back, forth, time.perf_counter())

    def _roll_back(self, path: str) -> float:
        begun = time.perf_counter()
        self._post(f"{path}/rollback")
        return time.perf_counter() - begun

    def _state(self, path: str, states: dict[str, float]) -> str:
        seen = self._client.get(path).json()
        state: str = seen["state"]
        if state in {"failed", "aborted"}:
            raise SystemExit(f"the migration is {state}: {seen['error']}")
        now = time.perf_counter()
        states[state] = states.get(state, 0.0) + now - self._looked
        self._looked = now
        return state

    def _any(self, *states: str) -> bool:
        seen = self._client.get("/migrations").json()["migrations"]
        return any(each["state"] in states for each in seen)

    def _post(self, path: str, **body: Any) -> Mapping[str, Any]:
        answer = self._client.post(path, json=body)
        if answer.status_code != 202:
            raise SystemExit(f"{path}: {answer.status_code} {answer.text}")
        return answer.json()

    @staticmethod
    def _until(holds: Callable[[], bool]) -> None:
        end = time.perf_counter() + SWAP_S
        while not holds():
            if time.perf_counter() > end:
                raise SystemExit(f"it takes longer than {SWAP_S:g} s")
            time.sleep(LOOK_S)


def measured(
    service: ServiceProcess,
    rows: Sequence[tuple[str, str, str]],
    queries: Sequence[str],
    swaps: int,
    model: str,
    versions: Sequence[str],
) -> tuple[Seen, list[Swap], list[tuple[int, float, float]], dict[str, float]]:
    """Everything that was seen, by the clients and from outside; and the rate of inference at rest."""
    memory = [(0, *resident(service.pid))]
    done: list[Swap] = []
    operator = Operator(service.url)
    try:
        gc.collect()
        gc.freeze()
        gc.disable()  # its pauses, here, would be counted as the service's
        with clients(service.url, rows, queries) as seen:
            infer, begun = operator.inferred(), time.perf_counter()
            time.sleep(STEADY_S)
            rest = {"begun": begun, "seconds": time.perf_counter() - begun}
            rest["infer"] = operator.inferred() - infer
            for number in range(1, swaps + 1):
                done.append(operator.swap(model, versions[number % 2]))
                print(f"swap {number}: {done[-1].seconds:.1f} s", flush=True)
                if number % RSS_EVERY == 0 or number == swaps:
                    memory.append((number, *resident(service.pid)))
            time.sleep(STEADY_S)
    finally:
        operator.close()
    return seen, done, memory, rest


def phases(seen: Seen, swaps: Sequence[Swap]) -> Mapping[str, list[float]]:
    """Seconds of the searches that were due before, during and after the swaps, and while going back."""
    found: dict[str, list[float]] = {
        "before": [],
        "swapping": [],
        "back and forth": [],
        "after": [],
    }
    for due, seconds in seen.searches:
        if due < swaps[0].begun:
            name = "before"
        elif due > swaps[-1].ended:
            name = "after"
        else:
            [swap] = [each for each in swaps if each.begun <= due][-1:]
            name = "swapping" if due < swap.begun + swap.seconds else "back and forth"
        found[name].append(seconds)
    return found


def summary(
    seen: Seen,
    swaps: Sequence[Swap],
    memory: Sequence[tuple[int, float, float]],
    rest: Mapping[str, float],
) -> dict[str, Any]:
    idle = rest["infer"] / rest["seconds"]
    embedding = [max(0.0, each.infer - idle * each.seconds) / each.seconds for each in swaps]
    states = sorted({state for each in swaps for state in each.states})
    rollbacks = [seconds for each in swaps for seconds in (each.back, each.forth)]
    return {
        "swaps": len(swaps),
        "rollbacks": len(rollbacks),
        "searches": len(seen.searches),
        "writes": len(seen.writes),
        "not_ok": len(seen.refused),
        "generations_seen": len({answer["generation"] for _, answer in seen.answers}),
        "search_ms": {
            name: {f"p{p}": round(percentile(seconds, p), 1) for p in (50, 99)}
            | {"max": round(1000 * max(seconds), 1), "count": len(seconds)}
            for name, seconds in phases(seen, swaps).items()
            if seconds
        },
        "write_ms": {
            f"p{p}": round(percentile([seconds for _, seconds in seen.writes], p), 1)
            for p in (50, 99, 100)
        },
        "swap_s": _spread([each.seconds for each in swaps]),
        "embedding_share": _spread(embedding),
        "state_s": {
            state: round(float(np.median([each.states.get(state, 0.0) for each in swaps])), 2)
            for state in states
        },
        "rollback_s": _spread(rollbacks),
        "rss_mb": [[number, round(service), round(host)] for number, service, host in memory],
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(float(np.median(values)), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def show(found: Mapping[str, Any]) -> None:
    print("\n| searches | count | p50 ms | p99 ms | max ms |\n|---|---|---|---|---|")
    for name, marks in found["search_ms"].items():
        print(f"| {name} | {marks['count']} | {marks['p50']} | {marks['p99']} | {marks['max']} |")
    print("\n| what | median | least | most |\n|---|---|---|---|")
    for name, unit in (("swap_s", "s"), ("rollback_s", "s"), ("embedding_share", "of the swap")):
        marks = found[name]
        print(f"| {name}, {unit} | {marks['median']} | {marks['min']} | {marks['max']} |")
    print("\n| after swaps | service MB | index host MB |\n|---|---|---|")
    for number, service, host in found["rss_mb"]:
        print(f"| {number} | {service} | {host} |")


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--documents", type=int, default=5000)
    options.add_argument("--swaps", type=int, default=20)
    options.add_argument("--bundle", type=Path, help="folder of a bundle; tiny ones without")
    options.add_argument("--data", type=Path, help="folder with parallel/en-xx.tsv.gz")
    chosen = options.parse_args()
    rows, queries = texts(chosen.documents, chosen.data)
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        model, versions = two_bundles(models, chosen.bundle)
        with ServiceProcess(
            data=Path(folder) / "data",
            models=models,
            bundle=f"{model}/{versions[0]}",
            gate_latency_ratio="1000",  # it would judge the other processes of this machine
        ) as service:
            load(service.url, rows)
            seen, swaps, memory, rest = measured(
                service, rows, queries, chosen.swaps, model, versions
            )
        examiner = Examiner(models)
        faults = [
            fault for query, answer in seen.answers for fault in examiner.faults(query, answer)
        ]
    found = {"documents": len(rows), "bundle": f"{model}/{versions[0]}"}
    found |= summary(seen, swaps, memory, rest) | {"faults": len(faults)}
    print(json.dumps(found))
    show(found)
    for line in [*seen.refused, *faults][:20]:
        print(line)
    if seen.refused or faults:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
