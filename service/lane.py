"""Lane: the texts of one role that wait for the encoder, and the way a batch is cut out of them."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from operator import attrgetter

from service.metrics import Metrics
from service.types import Matrix, Role, Tokens

TINY_TOKENS = 32
"""Up to this length padding is cheaper than another run, so texts share a batch whatever."""


@dataclass(slots=True, eq=False)
class Request:
    """The texts of one caller: rows are filled in place, and one future answers for all."""

    vectors: Matrix
    answer: asyncio.Future[Matrix]
    deadline: float
    unfilled: int
    """Rows that have no vector yet."""
    waiting: int = 0
    """Rows whose text has not begun."""
    texts: list["Text"] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Text:
    """One token sequence, and every row of every request that wants its vector."""

    tokens: Tokens
    key: bytes
    length: int
    since: float
    rows: list[tuple[Request, int]] = field(default_factory=list)


class Lane:
    """One shelf per length, the oldest text first on each. Not thread-safe: its owner locks it."""

    def __init__(self, role: Role, max_batch_tokens: int, *, metrics: Metrics) -> None:
        self.role: Role = role
        self.tokens = self.items = 0
        self.running: dict[bytes, Text] = {}
        self._max_batch_tokens = max_batch_tokens
        self._shelves: dict[int, OrderedDict[bytes, Text]] = {}
        self._first: Text | None = None
        self._shown = (0, 0)
        self._queue_tokens = metrics.queue_tokens.labels(role)
        self._queue_items = metrics.queue_items.labels(role)
        self._oldest_age = metrics.queue_oldest_age_seconds.labels(role)

    def find(self, key: bytes, length: int) -> Text | None:
        """The text with these very tokens that waits or runs."""
        shelf = self._shelves.get(length)
        return (shelf and shelf.get(key)) or self.running.get(key)

    def add(self, text: Text) -> None:
        """Puts a text last on its shelf; `find` has not found it."""
        self._shelves.setdefault(text.length, OrderedDict())[text.key] = text
        self.tokens += text.length
        self.items += 1

    def discard(self, text: Text) -> None:
        """Takes a text away if it still waits."""
        shelf = self._shelves.get(text.length)
        if shelf and shelf.get(text.key) is text:
            del shelf[text.key]
            self._taken(text.length, 1)
            if text is self._first:
                self._first = None

    def cut(self, *, share: int = 1) -> list[Text]:
        """Takes the next batch, the longest text first; the lane is not empty.

        With a `share` of 4, a quarter of the budget is used.

        The backlog, sorted by length, is thought of as cut into full batches, and the batch with
        the oldest text is the next. So nothing starves, and a backlog that does not grow runs in
        exactly the batches of an offline sort, whatever their order. A batch is full when one text
        more would pass the budget of padded tokens (longest x count), or when the next text would
        be more padding than text. A text longer than the budget runs alone.
        """
        oldest, budget = self._oldest(), self._max_batch_tokens // share
        batch: list[tuple[int, int]] = []  # lengths, and how many texts of each
        longest = room = 0
        found = False
        for length in sorted(self._shelves, reverse=True):
            left = len(self._shelves[length])
            while left:
                if not room or (longest > TINY_TOKENS and longest > 2 * length):
                    if found:
                        return self._take(batch)
                    batch, longest, room = [], length, max(1, budget // length)
                count = min(room, left)
                batch.append((length, count))
                room, left = room - count, left - count
                found = found or length == oldest.length  # the oldest is the first of its shelf
        return self._take(batch)

    def show(self, now: float) -> None:
        """Brings the gauges up to date; by difference, since two engines live during a swap."""
        tokens, items = self._shown
        self._queue_tokens.inc(self.tokens - tokens)
        self._queue_items.inc(self.items - items)
        self._oldest_age.set(now - self._oldest().since if self.items else 0)
        self._shown = (self.tokens, self.items)

    def _oldest(self) -> Text:
        """Found once a batch, since a later text is never older."""
        if self._first is None:
            firsts = (next(iter(shelf.values())) for shelf in self._shelves.values())
            self._first = min(firsts, key=attrgetter("since"))
        return self._first

    def _take(self, batch: list[tuple[int, int]]) -> list[Text]:
        texts = []
        for length, count in batch:
            shelf = self._shelves[length]
            texts += [shelf.popitem(last=False)[1] for _ in range(count)]
            self._taken(length, count)
        self._first = None
        return texts

    def _taken(self, length: int, count: int) -> None:
        if not self._shelves[length]:
            del self._shelves[length]
        self.tokens -= length * count
        self.items -= count
