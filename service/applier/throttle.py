"""How much of the machine the embedding of a candidate may take while another generation answers.

While queries come, passages are embedded in small pieces, and each piece is followed by a rest as
long as it took: the candidate has half of the machine at most, and all of it when nobody asks. A
rate, where one is set, bounds it on top of that.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from service.applier.batch import Embed
from service.errors import InvalidInput
from service.types import Matrix

PIECE_PASSAGES = 8
SLICE_S = 0.1
"""The longest sleep: a pause, a new rate or the end of the queries is noticed after so long."""


class Paused(Exception):
    """Embedding is held; what was asked for is to be asked for again."""


class Throttle:
    """Slows an embedding function down, or holds it; everything may be changed while it runs."""

    def __init__(
        self,
        passages_per_s: float | None,
        busy: Callable[[], bool],
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._busy = busy
        self._clock = clock
        self._sleep = sleep
        self._rate = _checked(passages_per_s)
        self._paused = False
        self._waived = 0
        self._paid_s = 0.0  # when the rate allows the next piece
        self._rested_s = 0.0  # when the rest after the last piece is over

    @property
    def passages_per_s(self) -> float | None:
        """The most passages in a second; None for as many as there can be."""
        return self._rate

    @passages_per_s.setter
    def passages_per_s(self, rate: float | None) -> None:
        if rate != self._rate:
            self._rate = _checked(rate)
            self._paid_s = 0.0

    @property
    def paused(self) -> bool:
        """Whether nothing is embedded for now."""
        return self._paused

    def pause(self) -> None:
        """Embed nothing more after the piece that is under way."""
        self._paused = True

    def resume(self) -> None:
        """Go on."""
        self._paused = False

    @contextmanager
    def waived(self) -> Iterator[None]:
        """Neither rate nor rest for as long as somebody waits for the last passages; a pause holds."""
        self._waived += 1
        try:
            yield
        finally:
            self._waived -= 1

    def around(self, embed: Embed) -> Embed:
        """The same function, slowed down; it raises `Paused` while nothing may be embedded."""

        async def slowed(texts: Sequence[str]) -> Matrix:
            pieces: list[Matrix] = []
            done = 0
            while not pieces or done < len(texts):
                await self._admitted()
                size = self._size(len(texts) - done)
                begun_s = self._clock()
                pieces.append(await embed(texts[done : done + size]))
                self._account(size, begun_s)
                done += size
            return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

        return slowed

    async def _admitted(self) -> None:
        while True:
            if self._paused:
                raise Paused
            wait_s = 0.0 if self._waived else self._wait_s()
            if wait_s <= 0:
                return
            await self._sleep(min(wait_s, SLICE_S))

    def _wait_s(self) -> float:
        until_s = max(self._paid_s, self._rested_s if self._busy() else 0.0)
        return until_s - self._clock()

    def _size(self, left: int) -> int:
        if self._waived:
            return left
        size = min(left, PIECE_PASSAGES) if self._busy() else left
        return size if self._rate is None else int(min(size, max(1.0, self._rate)))

    def _account(self, size: int, begun_s: float) -> None:
        now_s = self._clock()
        self._rested_s = now_s + (now_s - begun_s)
        if self._rate is not None:
            self._paid_s = max(self._paid_s, begun_s) + size / self._rate


def _checked(rate: float | None) -> float | None:
    if rate is not None and not rate > 0:
        raise InvalidInput(f"passages_per_s={rate:g}: it must be above 0; pause what is to stop")
    return rate
