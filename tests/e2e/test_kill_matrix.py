"""A migration killed before and after each of its steps: it goes on, and nothing is lost or mixed.

A chain is one catalog that lives through many processes. Each is told where to end; the next one
finds exactly what that step had written, answers as if nothing had happened, and goes on to where it
is to end itself. The chains run beside each other, before the first test.
"""

import json
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from service.catalog import FINISHED, UNDER_WAY, Catalog
from tests.e2e import kills
from tests.e2e.answers import Examiner
from tests.e2e.fatal_service import GO_ON, SIDES, STEPS, said
from tests.e2e.kills import Ledger
from tests.e2e.process import ServiceProcess
from tests.tiny_bundle import build_tiny_bundle, claim

pytestmark = pytest.mark.slow

FIXED = {f"d{n}": f"{kills.WORDS[n % 8]} {kills.WORDS[n // 8 % 8]} {n}" for n in range(32)}
"""Documents that stay as they are; the golden queries ask for them."""
DEATH_S = 120
PAUSE_S = 0.05
SETTINGS = {
    "pod_id": "e2e",  # it has its leases back at once
    "threads": "1",
    "flush_interval_s": "0.5",
    "gate_samples_per_language": "8",
    "gate_latency_ratio": "1000",  # other processes run beside it
    "laggards_s": "1",
}

Act = Callable[["Operator"], None]


@dataclass(frozen=True)
class Death:
    """Where a process ends, what makes it come there, and what the catalog holds then."""

    point: str
    epoch: int
    states: str
    """Of all generations, in their order."""
    act: Act | None = None


def both(step: str, before: tuple[int, str], after: tuple[int, str] | None = None, act=None):
    """The two deaths of a step; what is done for the first is done again for the second."""
    return [
        Death(f"{step}:{side}", *held, act)
        for side, held in zip(SIDES, (before, after or before), strict=True)
    ]


class Operator:
    """Whoever steers the service over HTTP; a service that dies meanwhile has an excuse."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=60, verify=False)

    def close(self) -> None:
        self._client.close()

    def post(self, path: str, **body) -> None:
        answer = self._client.post(path, json=body)
        assert answer.status_code == 202, f"{path}: {answer.status_code} {answer.text}"

    def migrations(self) -> list[dict]:
        return self._client.get("/migrations").json()["migrations"]

    def until(self, holds: Callable[[list[dict]], bool]) -> list[dict]:
        end = time.monotonic() + DEATH_S
        while not holds(seen := self.migrations()):
            assert time.monotonic() < end, f"in vain: {seen}"
            time.sleep(0.05)
        return seen


def activate(version: str, **options) -> Act:
    """Begin a migration, unless one goes on already."""

    def act(operator: Operator) -> None:
        if not any(each["state"] in UNDER_WAY for each in operator.migrations()):
            operator.post(f"/models/tiny/{version}/activate", **options)

    return act


def abort(operator: Operator) -> None:
    activate("2", hold=True)(operator)
    operator.until(lambda seen: seen[0]["state"] == "ready")
    operator.post("/migrations/2/abort")


def finish(operator: Operator) -> None:
    operator.post("/migrations/2/finish")


def roll_back(operator: Operator) -> None:
    """Back, and the next time forth again."""
    operator.until(both_open)
    operator.post("/migrations/2/rollback")


def both_open(seen: list[dict]) -> bool:
    held = [each for each in seen if each["state"] in {"active", "soaking"}]
    return len(held) == 2 and all(each["pods"][0]["loaded"] for each in held)


def is_settled(seen: list[dict]) -> bool:
    """Nothing is under way or to be ended, and what was live before is open again."""
    states = {each["state"] for each in seen}
    if states & {*UNDER_WAY, "retiring"}:
        return False
    return both_open(seen) if "soaking" in states else True


CHAINS: dict[str, Sequence[Death]] = {
    "filling": [
        *both("register", (1, "active"), (1, "active registered"), activate("2")),
        *both("choose", (1, "active registered")),
        *both("to_building", (1, "active registered"), (1, "active building")),
        *both("create", (1, "active building")),
        *both("apply", (1, "active building")),
        *both("prove", (1, "active building")),
        *both("flush", (1, "active building")),
        *both("advance", (1, "active building")),
        *both("to_indexing", (1, "active building"), (1, "active indexing")),
        Death("pointer:before", 2, "soaking active"),
    ],
    "going live": [
        *both("to_catching_up", (1, "active indexing"), (1, "active catching_up"), activate("2")),
        *both("to_verifying", (1, "active catching_up"), (1, "active verifying")),
        *both("judge", (1, "active verifying")),
        *both("to_ready", (1, "active verifying"), (1, "active ready")),
        *both("close_gate", (1, "active ready")),
        *both("cut_over", (1, "active ready"), (2, "soaking active")),
        *both("retire", (2, "soaking active"), (2, "retiring active"), finish),
        *both("drop", (2, "retiring active")),
        *both("to_retired", (2, "retiring active"), (2, "retired active")),
    ],
    "going back": [
        Death("pointer:after", 2, "soaking active", activate("2")),
        *both("close_gate", (2, "soaking active"), act=roll_back),
        *both("open_gate", (2, "soaking active"), act=roll_back),
        *both("cut_over", (2, "soaking active"), (3, "active soaking"), roll_back),
        Death("pointer:before", 4, "soaking active", roll_back),
        Death("pointer:after", 5, "active soaking", roll_back),
    ],
    "queries first": [
        *both("find_compatible", (1, "active building"), act=activate("near")),
        *both("ask", (1, "active building"), (2, "active building")),
        Death("judge:before", 2, "active verifying"),
        *both("cut_over", (2, "active ready"), (3, "soaking active")),
    ],
    "giving up": [
        *both("to_aborted", (1, "active ready"), (1, "active aborted"), abort),
        *both("drop", (1, "active aborted")),
        *both(
            "to_failed",
            (1, "active aborted verifying"),
            (1, "active aborted failed"),
            activate("bad"),
        ),
        *both("drop", (1, "active aborted failed")),
    ],
}
POINTS = [
    (chain, number, f"{chain} {number}: {death.point}")
    for chain, deaths in CHAINS.items()
    for number, death in enumerate(deaths)
]


class Chain:
    """One catalog, its processes, and what their clients were told."""

    def __init__(self, folder: Path, models: Path, *, seed: int) -> None:
        self.service = ServiceProcess(
            data=folder / "data",
            models=models,
            bundle="tiny/1",
            forked=True,
            gate_golden=str(models / "golden.jsonl"),
            **SETTINGS,
        )
        self._examiner = Examiner(models)
        self._written = Ledger()
        self._ledgers = [Ledger(known=dict(FIXED)), self._written]
        self._rng = random.Random(seed)

    def begin(self) -> None:
        """The first process, in which nothing happens but that documents are stored."""
        self.service.start(within_s=DEATH_S)
        with httpx.Client(base_url=self.service.url, timeout=60) as client:
            for documents in (FIXED, {f"0-{n}": f"horse money {n}" for n in range(28)}):
                body = [{"id": i, "text": t, "language": "en"} for i, t in documents.items()]
                client.post("/documents", json={"documents": body}).raise_for_status()
        self._written.known = documents
        self.service.stop(within_s=DEATH_S)

    def live(self, death: Death) -> list[str]:
        """One process, from what the one before left to its own end; what is wrong with it."""
        reached = self.service.log.count(said(death.point))
        self.service.start(point=death.point, within_s=DEATH_S)
        found = self._examiner.examine(self.service.url, self._ledgers)
        operator = Operator(self.service.url)
        with self._writing():
            self.service.signal(GO_ON)
            try:
                if death.act is not None:
                    death.act(operator)
            except httpx.TransportError:
                pass  # it died before it could answer
            finally:
                operator.close()
            status = self.service.ended(within_s=DEATH_S)
        if status != -signal.SIGKILL or self.service.log.count(said(death.point)) != reached + 1:
            found.append(f"it did not reach {death.point}, but ended with {status}")
        return found + self._persisted(death.epoch, death.states)

    def end(self, epoch: int, states: str) -> list[str]:
        """The last process, which may go on to the end; what is wrong with what it leaves."""
        self.service.start(within_s=DEATH_S)
        found = self._examiner.examine(self.service.url, self._ledgers)
        operator = Operator(self.service.url)
        try:
            with self._writing():
                operator.until(is_settled)
            found += self._examiner.examine(self.service.url, self._ledgers)
            if "soaking" in states:  # the other one must answer as well as this one
                for _ in range(2):
                    roll_back(operator)
                    epoch += 1
                    found += self._examiner.examine(self.service.url, self._ledgers)
            seen = operator.until(is_in_step)
            kept = {f"g{each['generation']}-c1" for each in seen if each["state"] not in FINISHED}
            until(lambda: self._indexes() == kept)
        finally:
            operator.close()
        self.service.stop(within_s=DEATH_S)
        return found + self._persisted(epoch, states) + self._at_the_head()

    @contextmanager
    def _writing(self):
        stop, rng = threading.Event(), random.Random(self._rng.random())
        arguments = (self.service.url, 0, self._written, rng, stop, PAUSE_S)
        writer = threading.Thread(target=kills.write, args=arguments)
        writer.start()
        try:
            yield
        finally:
            stop.set()
            writer.join()

    def _catalog(self) -> Catalog:
        return Catalog(f"sqlite:///{self.service.data / 'catalog.sqlite'}")

    def _persisted(self, epoch: int, states: str) -> list[str]:
        with self._catalog() as catalog:
            route, records = catalog.generations.snapshot()
        held = [record.state for record in records]
        found = []
        if (route.epoch, " ".join(held)) != (epoch, states):
            found.append(f"epoch {route.epoch}, {held}; expected {epoch}, {states}")
        active = [record.id for record in records if record.state == "active"]
        soaking = [record.id for record in records if record.state == "soaking"]
        if [route.active] != active or [route.previous] != (soaking or [None]):
            found.append(f"{route}, but active is {active} and soaking {soaking}")
        return found

    def _at_the_head(self) -> list[str]:
        """Every generation that is kept holds all of the catalog, and was proven to."""
        with self._catalog() as catalog:
            heads = catalog.passages.heads()
            kept = [each for each in catalog.generations.list() if each.state not in FINISHED]
            positions = {each.id: catalog.generations.positions(each.indexes) for each in kept}
        return [
            f"generation {number}, collection {collection}: {at} of {heads[collection]}"
            for number, collections in positions.items()
            for collection, at in collections.items()
            if at.applied_rev < heads[collection] or not at.verified
        ]

    def _indexes(self) -> set[str]:
        return {path.name for path in (self.service.data / "index").glob("g*")}


def is_in_step(seen: list[dict]) -> bool:
    collections = [each for row in seen for each in row["collections"]]
    return all(each["state"] == "current" for each in collections)


def until(holds: Callable[[], bool], within_s: float = 60) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.05)


def run(name: str, folder: Path, models: Path) -> dict[str, list[str]]:
    """What was wrong with each process of a chain."""
    deaths = CHAINS[name]
    found: dict[str, list[str]] = {}
    chain = Chain(folder, models, seed=len(name))
    try:
        chain.begin()
        for number, death in enumerate(deaths):
            found[f"{number}"] = chain.live(death)
        states = deaths[-1].states
        found["end"] = chain.end(deaths[-1].epoch, states)
    except Exception as error:  # noqa: BLE001 - the test of the process that it befell tells
        at = "end" if len(found) == len(deaths) else f"{len(found)}"
        found[at] = [f"{error!r}\n{chain.service.log[-3000:]}"]
    finally:
        chain.service.kill()
    return found


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("matrix")
    models = folder / "models"
    first = build_tiny_bundle(models / "tiny" / "1", version="1", seed=0)
    build_tiny_bundle(
        models / "tiny" / "near", version="near", drift=0.001, compatible_with=[claim(first)]
    )
    build_tiny_bundle(models / "tiny" / "2", version="2", seed=7)
    build_tiny_bundle(
        models / "tiny" / "bad", version="bad", prompts={"query": "so much noise " * 4}
    )
    golden = [
        {"query": text, "language": "en", "collection": "default", "relevant": [identifier]}
        for identifier, text in FIXED.items()
    ]
    (models / "golden.jsonl").write_text("\n".join(map(json.dumps, golden)))
    for name in CHAINS:
        (folder / name).mkdir()
    with ThreadPoolExecutor(len(CHAINS)) as pool:
        chains = {name: pool.submit(run, name, folder / name, models) for name in CHAINS}
        return {name: chain.result() for name, chain in chains.items()}


@pytest.mark.parametrize(
    ("chain", "number"), [pytest.param(*rest, id=name) for *rest, name in POINTS]
)
def test_a_process_that_is_killed_at_a_step_leaves_what_the_next_one_goes_on_with(
    matrix, chain, number
):
    found = matrix[chain].get(f"{number}", ["the chain broke before"])
    assert found == [], "\n".join(found)


@pytest.mark.parametrize("chain", CHAINS)
def test_after_all_its_deaths_a_service_comes_to_rest_with_everything_in_its_place(matrix, chain):
    found = matrix[chain].get("end", ["the chain broke before"])
    assert found == [], "\n".join(found)


def test_every_step_is_killed_on_both_sides():
    reached = {death.point for deaths in CHAINS.values() for death in deaths}
    assert reached == {f"{step}:{side}" for step in STEPS for side in SIDES}
