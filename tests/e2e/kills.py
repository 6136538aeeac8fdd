"""Kill a service at random moments during mixed writes, and compare what is left with what it said.

The test runs a few kills; the whole measurement of 50 is `python -m tests.e2e.kills --kills 50`.
"""

import argparse
import random
import signal
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.e2e.process import ServiceProcess
from tests.tiny_bundle import build_tiny_bundle

WRITERS = 3
IDS_PER_WRITER = 120
WORDS = [
    "river",
    "mountain",
    "bread",
    "window",
    "music",
    "winter",
    "garden",
    "letter",
    "money",
    "horse",
]


@dataclass
class Ledger:
    """What one writer was told: the acknowledged text of each id (None: deleted), and the open question."""

    known: dict[str, str | None] = field(default_factory=dict)
    open: dict[str, str | None] = field(default_factory=dict)
    acknowledged: int = 0

    def allows(self, identifier: str, found: str | None) -> bool:
        if found == self.known.get(identifier):
            return True
        return identifier in self.open and found == self.open[identifier]


def write(
    url: str,
    writer: int,
    ledger: Ledger,
    rng: random.Random,
    stop: threading.Event,
    pause_s: float = 0.0,
) -> None:
    """Put, replace and delete until the service is gone."""
    with httpx.Client(base_url=url, timeout=30, verify=False) as client:
        while not stop.is_set():
            ids = [f"{writer}-{n}" for n in rng.sample(range(IDS_PER_WRITER), rng.randint(1, 12))]
            wait = rng.choice(["stored", "visible"])
            delete = rng.random() < 0.4
            texts = [" ".join(rng.choices(WORDS, k=6)) + f" {rng.random()}" for _ in ids]
            ledger.open = dict.fromkeys(ids) if delete else dict(zip(ids, texts, strict=True))
            try:
                if delete:
                    body = {"ids": ids, "wait": wait}
                    answer = client.post("/documents/delete", json=body)
                else:
                    documents = [
                        {"id": i, "text": t, "language": "en"} for i, t in ledger.open.items()
                    ]
                    answer = client.post("/documents", json={"documents": documents, "wait": wait})
            except httpx.TransportError:
                return
            if answer.is_success:
                ledger.known |= ledger.open
                ledger.acknowledged += 1
            ledger.open = {}
            stop.wait(pause_s)


def settled(client: httpx.Client, within_s: float = 60) -> None:
    until = time.monotonic() + within_s
    while client.get("/collections/default").json()["lag"]:
        assert time.monotonic() < until, "the index does not catch up"
        time.sleep(0.02)


def violations(url: str, ledgers: list[Ledger]) -> list[str]:
    """Lost or resurrected documents, by id in the catalog and by search in the index."""
    found: list[str] = []
    live: dict[str, str] = {}
    with httpx.Client(base_url=url, timeout=30, verify=False) as client:
        for ledger in ledgers:
            for identifier in {*ledger.known, *ledger.open}:
                answer = client.get(f"/documents/{identifier}")
                text = answer.json()["text"] if answer.status_code == 200 else None
                if not ledger.allows(identifier, text):
                    found.append(
                        f"{identifier}: {text!r}, but told {ledger.known.get(identifier)!r}"
                    )
                ledger.known[identifier] = text
                if text is not None:
                    live[identifier] = text
            ledger.open = {}
        settled(client)
        answer = client.post("/search", json={"query": "river bread", "limit": 1000})
        hits = {hit["document"]: hit["text"] for hit in answer.json()["hits"]}
    found += [f"{i}: lost from the index" for i in live.keys() - hits.keys()]
    found += [f"{i}: deleted, but found" for i in hits.keys() - live.keys()]
    found += [f"{i}: stale in the index" for i in live.keys() & hits.keys() if live[i] != hits[i]]
    return found


def run(folder: Path, *, kills: int, seed: int) -> tuple[int, int, list[str]]:
    """Returns acknowledged writes, documents alive at the end, and violations."""
    rng = random.Random(seed)
    build_tiny_bundle(folder / "models" / "tiny" / "1")
    service = ServiceProcess(data=folder / "data", models=folder / "models", bundle="tiny")
    ledgers = [Ledger() for _ in range(WRITERS)]
    found: list[str] = []
    for kill in range(kills):
        service.start()
        found += violations(service.url, ledgers)
        stop = threading.Event()
        writers = [
            threading.Thread(
                target=write, args=(service.url, n, ledger, random.Random(rng.random()), stop)
            )
            for n, ledger in enumerate(ledgers)
        ]
        for writer in writers:
            writer.start()
        time.sleep(rng.uniform(0.05, 1.5))
        if kill % 3 == 0:
            service.kill_index_host()
            time.sleep(rng.uniform(0, 0.5))
        service.kill()
        stop.set()
        for writer in writers:
            writer.join()
    service.start()
    found += violations(service.url, ledgers)
    assert service.stop() in (0, -signal.SIGTERM)
    alive = sum(text is not None for ledger in ledgers for text in ledger.known.values())
    return sum(ledger.acknowledged for ledger in ledgers), alive, found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=50)
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        acknowledged, alive, found = run(Path(folder), kills=chosen.kills, seed=chosen.seed)
        print(
            f"{chosen.kills} kills in {time.monotonic() - begun:.0f} s: {acknowledged} acknowledged"
            f" writes, {alive} documents alive, {len(found)} violations"
        )
        for violation in found:
            print(" ", violation)


if __name__ == "__main__":
    main()
