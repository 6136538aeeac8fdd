"""Migrations in memory: they go as far as a test lets them, and keep what they were asked."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import anyio

from service.candidate import Proof
from service.errors import BundleInvalid, Conflict, EpochMismatch, InvalidInput, NotFound
from service.types import (
    CollectionProgress,
    GateCheck,
    GateReport,
    Migration,
    MigrationOptions,
    PodState,
)

UNDER_WAY = ("registered", "building", "indexing", "catching_up", "verifying", "ready")
FINISHED = ("retired", "failed", "aborted")

CHECKS = (
    GateCheck(
        "counts", ok=True, detail="900 of 900", overridable=False, measures={"passages": 900}
    ),
    GateCheck(
        "recall",
        ok=True,
        detail="0.91 and 0.90 before",
        overridable=True,
        measures={"de-en": {"new": 0.91, "old": 0.90}, "en-ja": {"new": 0.72, "old": 0.70}},
    ),
    GateCheck("latency", ok=False, detail="p95 31 ms, 20 ms before", overridable=True, measures={}),
)


def report(*, checks=CHECKS[:2], passed=True, overridden=(), reason=""):
    return GateReport(passed, checks, overridden, reason, "2026-01-31T10:00:09Z", 4.5)


def migration(generation=2, **changed) -> Migration:
    """One that has just begun, with whatever a test wants otherwise."""
    begun = Migration(
        generation=generation,
        bundle="tiny",
        version="2",
        precision="fp32",
        space="5" * 32,
        state="registered",
        paused=False,
        live=False,
        epoch=3,
        created="2026-01-31T10:00:00Z",
        changed="2026-01-31T10:00:00Z",
        error="",
        options=MigrationOptions(),
        collections=(CollectionProgress("default", "building", 120, 900, ""),),
        applied=120,
        total=900,
        passages_per_s=60.0,
        remaining_s=13.0,
        asking=False,
        compatible=None,
        report=None,
        shadow=None,
        soak_until=None,
        pods=(PodState("pod-1", 0.5, 3, loaded=True, refused=""),),
    )
    return replace(begun, **changed)


class MemoryMigrations:
    """The facade that the surface speaks to.

    `script` is what becomes of a migration while it is watched: fields that change, step by step.
    A script that ends before the migration is at rest leaves the watcher waiting. `asked_again` is
    what becomes of it each time that it is asked for.
    """

    def __init__(self, *rows: Migration) -> None:
        self.rows = {row.generation: row for row in rows}
        self.epoch = 3
        self.bundles = {("tiny", "1"), ("tiny", "2"), ("broken", "1")}
        self.failure: Exception | None = None
        self.script: list[dict[str, Any] | Exception] = []
        self.asked_again: list[dict[str, Any] | Exception] = []
        self.asked: list[dict[str, Any]] = []
        self.known: dict[str, int] = {}
        self.after_step: dict[str, dict[str, Any]] = {}
        self.unwatched = anyio.Event()

    async def activate(self, name, version, *, precision, options, idempotency_key, epoch, actor):
        self._fail()
        self.asked.append(
            {
                "bundle": f"{name}/{version}",
                "precision": precision,
                "options": options,
                "key": idempotency_key,
                "epoch": epoch,
                "actor": actor,
            }
        )
        self._bundle(name, version)
        if idempotency_key in self.known:
            return self.rows[self.known[idempotency_key]]
        self._expect(epoch)
        if unknown := set(options.override) - {check.name for check in CHECKS}:
            raise InvalidInput(f"there is no check {unknown.pop()!r}", pointer="/override/0")
        for row in self.rows.values():
            if row.state in UNDER_WAY:
                raise Conflict(f"migration {row.generation} is {row.state}; abort it first")
        number = max(self.rows, default=1) + 1
        made = migration(
            number, bundle=name, version=version, precision=precision or "fp32", options=options
        )
        self.rows[number] = made
        if idempotency_key is not None:
            self.known[idempotency_key] = number
        return made

    async def list(self):
        self._fail()
        return [self.rows[number] for number in sorted(self.rows, reverse=True)]

    async def get(self, generation):
        self._fail()
        if generation not in self.rows:
            raise NotFound(f"there is no generation {generation}")
        if self.asked_again:
            self._change(generation, self.asked_again.pop(0))
        return self.rows[generation]

    async def step(self, generation, step, *, epoch, actor):
        row = await self.get(generation)
        self.asked.append({"step": step, "generation": generation, "epoch": epoch, "actor": actor})
        self._expect(epoch)
        before = {
            "pause": UNDER_WAY,
            "resume": UNDER_WAY,
            "abort": UNDER_WAY,
            "cut-over": ("ready",),
            "rollback": ("active",),
            "finish": ("active",),
        }[step]
        if row.state not in before:
            raise Conflict(f"{step}: generation {generation} is {row.state}, not {before[-1]}")
        self.rows[generation] = replace(row, **self.after_step.get(step, {}))
        return self.rows[generation]

    async def watch(self, generation):
        try:
            yield self.rows[generation]
            for change in self.script:
                self._change(generation, change)
                yield self.rows[generation]
            if not self._at_rest(generation):
                await anyio.sleep_forever()
        finally:
            self.unwatched.set()

    async def verify(self, name, version) -> Sequence[Proof]:
        self._fail()
        self._bundle(name, version)
        return [Proof("fp32", "5" * 32, memory_bytes=210 * 2**20, seconds=1.5)]

    async def remove(self, name, version):
        self._fail()
        self._bundle(name, version)
        for row in self.rows.values():
            if (row.bundle, row.version) == (name, version) and row.state not in FINISHED:
                raise Conflict(f"generation {row.generation} uses {name}/{version}")
        self.bundles.remove((name, version))

    def _change(self, generation, change):
        if isinstance(change, Exception):
            raise change
        self.rows[generation] = replace(self.rows[generation], **change)

    def _at_rest(self, generation):
        row = self.rows[generation]
        return row.state in FINISHED or (row.live and row.soak_until is None)

    def _bundle(self, name, version):
        if (name, version) not in self.bundles:
            raise NotFound(f"no bundle {name}/{version}")
        if name == "broken":
            raise BundleInvalid(f"{name}/{version}: model.onnx: wrong SHA-256")

    def _expect(self, epoch):
        if epoch not in (None, self.epoch):
            raise EpochMismatch(f"the route is at epoch {self.epoch}, not {epoch}")

    def _fail(self):
        if self.failure is not None:
            raise self.failure
