"""What an applier knows about one collection: its index, and how far the index has come."""

import asyncio
from dataclasses import dataclass, field
from secrets import SystemRandom
from typing import Literal, TypeAlias

from service.catalog import Collection, Failure
from service.vectors.backend import VectorIndex

RETRY_MIN_S, RETRY_MAX_S = 0.1, 15.0

Need: TypeAlias = Literal["open", "batch", "verify"]


@dataclass(eq=False)
class Shelf:
    """One collection in one generation. `applied` is visible to searches, `durable` survives a crash.

    `read` is as far as passages were read; it runs ahead of `applied` by the batch under way, and
    falls back to it when that batch fails: it is then read again, with what changed meanwhile.
    """

    collection: Collection
    name: str
    durable: int
    index: VectorIndex | None = None
    broken: str | None = None
    verified: bool = False
    busy: bool = False
    applied: int = 0
    read: int = 0
    unflushed: int = 0
    flush_by: float = float("inf")
    tombstones: int = 0
    failures: list[Failure] = field(default_factory=list)
    retry_at: float = 0.0
    delay_s: float = 0.0
    error: str | None = None
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    def need(self, head: int, now: float) -> Need | None:
        """What is to be done next, given the last revision of the collection."""
        if self.busy or now < self.retry_at:
            return None
        if self.index is None:
            return "open"
        if head > self.read:
            return "batch"
        if not self.verified and self.read == self.applied:
            return "verify"
        return None

    def opened(self, index: VectorIndex, applied: int) -> None:
        """The index is open and holds everything up to `applied`."""
        self.index, self.broken, self.verified = index, None, False
        self.applied = self.read = self.durable = applied
        self.unflushed, self.flush_by, self.tombstones = 0, float("inf"), 0
        self.failures.clear()

    def advance(self, applied: int, count: int, *, flush_by: float) -> None:
        """A batch of `count` passages was applied; wakes those who wait for it."""
        self.applied = applied
        self.read = max(self.read, applied)
        self.unflushed += count
        self.flush_by = min(self.flush_by, flush_by)
        self.wake()

    def proven(self) -> None:
        """The index was found equal to the catalog; from now on searches are answered from it."""
        self.verified = True
        self.wake()

    def shows(self, revision: int) -> bool:
        """Whether a search now would see everything up to the revision."""
        return self.verified and self.applied >= revision

    def flushed(self) -> None:
        """What was applied is safe, and the catalog knows it."""
        self.durable, self.unflushed, self.flush_by = self.applied, 0, float("inf")
        self.tombstones = 0
        self.failures.clear()

    def wake(self) -> None:
        """Let everybody who waits for this shelf look again."""
        moved, self.moved = self.moved, asyncio.Event()
        moved.set()

    def put_off(self, error: str, now: float) -> None:
        """Something failed: forget what was read ahead, and leave the shelf alone for a while."""
        self.delay_s = min(RETRY_MAX_S, max(RETRY_MIN_S, 2 * self.delay_s))
        self.retry_at = now + self.delay_s * SystemRandom().uniform(0.5, 1.0)
        self.read = self.applied
        self.error = error

    def recovered(self) -> None:
        """The last attempt succeeded."""
        self.delay_s, self.retry_at, self.error = 0.0, 0.0, None

    def condemn(self, reason: str) -> None:
        """The index is missing, damaged or wrong: it is to be made anew."""
        self.index, self.broken = None, reason
        self.read = self.applied
