"""Swap for minutes, killing at random moments, and compare every answer with what clients were told.

    python -m tests.e2e.swap_soak --minutes 10

Two encoders of unrelated spaces take turns; what is under way is aborted, taken back or ended at random,
while documents are written, replaced and deleted. Each life of the service ends by SIGKILL, every
third after one of its index host.
"""

import argparse
import itertools
import random
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from service.catalog import UNDER_WAY, Catalog
from tests.e2e import kills
from tests.e2e.answers import Examiner
from tests.e2e.kills import WRITERS, Ledger
from tests.e2e.process import ServiceProcess
from tests.tiny_bundle import build_tiny_bundle

VERSIONS = ("1", "2")
LIFE_S = (0.5, 10.0)
PAUSE_S = 0.02
STEER_S = (0.2, 1.5)
READY_S = 120
REST_S = 180
QUERIES = ("music garden", "a winter letter", "money for the horse")
STILL = {f"still-{n}": f"{kills.WORDS[n % 10]} {kills.WORDS[n // 4]} {n}" for n in range(40)}
"""Nobody edits these. A hit's text is read after it was found, so an edit may come between."""
STILL_LANGUAGE = "de"


@dataclass
class Soak:
    """What was done and seen."""

    kills: int = 0
    swaps: int = 0
    asked: dict[str, int] = field(default_factory=dict)
    answers: int = 0
    refused: int = 0
    acknowledged: int = 0
    alive: int = 0
    violations: list[str] = field(default_factory=list)

    def note(self, what: str) -> None:
        self.asked[what] = self.asked.get(what, 0) + 1


def steer(url: str, soak: Soak, rng: random.Random, stop: threading.Event) -> None:
    """Ask for something that the state of things allows, again and again, until the service is gone."""
    with httpx.Client(base_url=url, timeout=60, verify=False) as client:
        while not stop.wait(rng.uniform(*STEER_S)):
            try:
                seen = client.get("/migrations").json()["migrations"]
                asked, path, body = choice(seen, rng)
                answer = client.post(path, json=body)
            except httpx.TransportError:
                return
            if answer.status_code == 202:
                soak.note(asked)
            elif answer.status_code not in {409, 503}:  # overtaken, or not yet
                soak.violations.append(f"{path}: {answer.status_code} {answer.text}")


def choice(seen: list[dict], rng: random.Random) -> tuple[str, str, dict]:
    """What is asked for next: a word, a path and a body."""
    newest = next((each for each in seen if each["state"] in UNDER_WAY), None)
    if newest is not None:
        step = rng.choices(["abort", "pause", "resume", "cut-over"], [1, 1, 6, 12])[0]
        return step, f"/migrations/{newest['generation']}/{step}", {}
    [live] = [each for each in seen if each["live"]]
    if any(each["state"] == "soaking" for each in seen):
        step = rng.choices(["rollback", "finish"], [2, 1])[0]
        return step, f"/migrations/{live['generation']}/{step}", {}
    [other] = {*VERSIONS} - {live["version"]}
    body = {"hold": rng.random() < 0.2, "soak_s": rng.choice([1, 600])}
    return "activate", f"/models/tiny/{other}/activate", body


def search(url: str, soak: Soak, examiner: Examiner, stop: threading.Event) -> None:
    """Ask all the time; each answer is from one encoder, and none is an error of the service's own."""
    with httpx.Client(base_url=url, timeout=60, verify=False) as client:
        for query in itertools.cycle(QUERIES):
            if stop.wait(PAUSE_S):
                return
            try:
                body = {"query": query, "limit": len(STILL), "languages": [STILL_LANGUAGE]}
                answer = client.post("/search", json=body)
            except httpx.TransportError:
                return
            if answer.status_code == 200:
                soak.answers += 1
                found = answer.json()
                soak.violations += examiner.faults(query, found)
                if {hit["document"] for hit in found["hits"]} != STILL.keys():
                    soak.violations.append(f"search: {len(found['hits'])} of {len(STILL)} hits")
            elif answer.status_code == 503:  # the index host was killed
                soak.refused += 1
            else:
                soak.violations.append(f"search: {answer.status_code} {answer.text}")


def begin(service: ServiceProcess, ledger: Ledger) -> None:
    """The documents that stay."""
    documents = [
        {"id": identifier, "text": text, "language": STILL_LANGUAGE}
        for identifier, text in STILL.items()
    ]
    service.start(within_s=READY_S)
    httpx.post(f"{service.url}/documents", json={"documents": documents}).raise_for_status()
    service.stop(within_s=READY_S)
    ledger.known = dict(STILL)


@contextmanager
def clients(url: str, soak: Soak, ledgers: list[Ledger], examiner: Examiner, rng: random.Random):
    """Writers, an operator and a searcher, for as long as it is entered."""
    stop = threading.Event()
    threads = [
        threading.Thread(
            target=kills.write, args=(url, n, ledger, random.Random(rng.random()), stop, PAUSE_S)
        )
        for n, ledger in enumerate(ledgers)
    ]
    threads += [
        threading.Thread(target=steer, args=(url, soak, random.Random(rng.random()), stop)),
        threading.Thread(target=search, args=(url, soak, examiner, stop)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def rows(data: Path) -> tuple[int, list[str]]:
    """The epoch of a service that does not run, and what is wrong with its route."""
    with Catalog(f"sqlite:///{data / 'catalog.sqlite'}") as catalog:
        route, records = catalog.generations.snapshot()
    found = []
    for state, number in (("active", route.active), ("soaking", route.previous)):
        held = [record.id for record in records if record.state == state]
        if held != ([] if number is None else [number]):
            found.append(f"{route}, but {state} are {held}")
    if sum(record.state in UNDER_WAY for record in records) > 1:
        found.append(f"several are under way: {[record.state for record in records]}")
    return route.epoch, found


def come_to_rest(service: ServiceProcess) -> list[str]:
    """End what is under way; the indexes that are left are those of the generations that are kept."""
    with httpx.Client(base_url=service.url, timeout=60) as client:
        until = time.monotonic() + REST_S
        while True:
            seen = client.get("/migrations").json()["migrations"]
            for each in seen:
                if each["state"] in UNDER_WAY:
                    client.post(f"/migrations/{each['generation']}/abort")
            kept = [each for each in seen if each["state"] in {"active", "soaking"}]
            wanted = {f"g{each['generation']}-c1" for each in kept}
            held = {path.name for path in (service.data / "index").glob("g*")}
            in_step = all(
                collection["state"] == "current"
                for each in kept
                for collection in each["collections"]
            )
            if held == wanted and in_step:
                return []
            if time.monotonic() > until:
                return [f"it does not come to rest: indexes {held}, {seen}"]
            time.sleep(0.1)


def run(folder: Path, *, minutes: float, seed: int, lives: int | None = None) -> Soak:
    rng = random.Random(seed)
    for version in VERSIONS:
        build_tiny_bundle(folder / "models" / "tiny" / version, version=version, seed=int(version))
    service = ServiceProcess(
        data=folder / "data",
        models=folder / "models",
        bundle="tiny/1",
        forked=True,
        pod_id="soak",
        threads="1",
        gate_samples_per_language="8",
        gate_latency_ratio="1000",
        laggards_s="1",
    )
    examiner = Examiner(folder / "models")
    ledgers = [Ledger() for _ in range(WRITERS)]
    still = Ledger()
    begin(service, still)
    soak, epoch = Soak(), 1
    until = time.monotonic() + 60 * minutes
    while time.monotonic() < until and soak.kills != lives:
        service.start(within_s=READY_S)
        soak.violations += examiner.examine(service.url, [still, *ledgers])
        with clients(service.url, soak, ledgers, examiner, rng):
            time.sleep(rng.uniform(*LIFE_S))
            if soak.kills % 3 == 2:
                service.kill_index_host()
                time.sleep(rng.uniform(0, 0.5))
            service.kill()
        soak.kills += 1
        before, (epoch, found) = epoch, rows(service.data)
        soak.violations += found
        soak.swaps += epoch - before
        if epoch < before:
            soak.violations.append(f"epoch {epoch} after {before}")
    service.start(within_s=READY_S)
    soak.violations += come_to_rest(service)
    soak.violations += examiner.examine(service.url, [still, *ledgers])
    service.stop(within_s=READY_S)
    soak.acknowledged = sum(ledger.acknowledged for ledger in ledgers)
    soak.alive = sum(text is not None for ledger in ledgers for text in ledger.known.values())
    return soak


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--minutes", type=float, default=10)
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        soak = run(Path(folder), minutes=chosen.minutes, seed=chosen.seed)
    asked = ", ".join(f"{count} {word}" for word, count in sorted(soak.asked.items()))
    print(
        f"{soak.kills} kills in {chosen.minutes:g} min: {soak.swaps} swaps ({asked}),"
        f" {soak.acknowledged} acknowledged writes, {soak.alive} documents alive,"
        f" {soak.answers} answers checked and {soak.refused} refused,"
        f" {len(soak.violations)} violations"
    )
    for violation in soak.violations:
        print(" ", violation)


if __name__ == "__main__":
    main()
