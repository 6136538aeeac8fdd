"""What an applier knows about one collection: its index, and how far the index has come."""

import asyncio
from dataclasses import dataclass, field
from secrets import SystemRandom
from typing import Literal, TypeAlias

from service.catalog import Collection, Cursor, Failure
from service.vectors.backend import VectorIndex

RETRY_MIN_S, RETRY_MAX_S = 0.1, 15.0

Need: TypeAlias = Literal["open", "batch", "verify"]


@dataclass(eq=False)
class Shelf:
    """One collection in one generation. `applied` is visible to searches, `durable` survives a crash.

    `read` is as far as passages were read; it runs ahead of `applied` by the batch under way, and
    falls back to it when that batch fails: it is then read again, with what changed meanwhile.

    `ours` is an index that this process fills. It is `checked` when it was compared with the catalog
    since then; searches are answered while it is `verified`, which outlives a change of hands. Of
    an index that another process fills, the catalog knows all this: `proof` is what it says.
    """

    collection: Collection
    name: str
    durable: int = 0
    index: VectorIndex | None = None
    ours: bool = False
    broken: str | None = None
    verified: bool = False
    checked: bool = False
    proof: bool = False
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
        if self.index is None or not self.ours:
            return "open"
        if head > self.read:
            return "batch"
        if not self.checked and self.read == self.applied:
            return "verify"
        return None

    def take_over(self, found: Cursor) -> None:
        """This process fills the index from now on: it is to be opened again, and compared."""
        self.ours, self.checked, self.broken, self.busy = False, False, None, False
        self.durable, self.proof = found.applied_rev, found.verified
        self.recovered()

    def opened(self, index: VectorIndex, applied: int) -> None:
        """The index is open, ours, and holds everything up to `applied`."""
        self.index, self.ours, self.broken = index, True, None
        self.durable, self.checked = applied, False
        self._forget()

    def give_up(self) -> None:
        """Another process fills the index from now on: what is not durable is its to apply again."""
        self.ours, self.checked, self.broken = False, False, None
        self.verified = self.verified and self.proof
        self._forget()
        self.recovered()

    def opened_to_read(self, index: VectorIndex) -> None:
        """The index is open; another process fills it."""
        self.index = index
        self.verified = self.proof
        self.wake()

    def follow(self, found: Cursor) -> None:
        """What the catalog says of an index that another process fills."""
        before = (self.applied, self.verified)
        if found.applied_rev < self.applied:
            self.index = None  # it is made anew, and so opened again
        if found.verified and not self.proof:
            self.retry_at = 0.0
        self.durable, self.proof = found.applied_rev, found.verified
        self.verified = self.proof and self.index is not None
        self._forget()
        if (self.applied, self.verified) != before:
            self.wake()

    def advance(self, applied: int, count: int, *, flush_by: float) -> None:
        """A batch of `count` passages was applied; wakes those who wait for it."""
        self.applied = applied
        self.read = max(self.read, applied)
        self.unflushed += count
        self.flush_by = min(self.flush_by, flush_by)
        self.wake()

    def proven(self) -> None:
        """The index was found equal to the catalog; from now on searches are answered from it."""
        self.verified = self.checked = True
        self.wake()

    def suspect(self) -> None:
        """Something is wrong with the index: no search until it was compared, or opened, again."""
        self.verified = self.checked = False
        if not self.ours:
            self.index = None

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
        self.verified = self.checked = False
        self.read = self.applied

    def _forget(self) -> None:
        """Begin again at what is durable."""
        self.applied = self.read = self.durable
        self.unflushed, self.flush_by, self.tombstones = 0, float("inf"), 0
        self.failures.clear()
