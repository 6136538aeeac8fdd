"""Server-sent events: a value and each that follows it, as long as client and service are there.

Why not the framework's own: a stream that waits would hold up the end of the service, so this one
looks up now and then whether the service is stopping.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeVar

import orjson

from service.errors import ServiceError

EVENTS: Final = "text/event-stream"
UNBUFFERED: Final[Mapping[str, str]] = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
KEEP_ALIVE_S: Final = 15.0
DRAIN_LOOK_S: Final = 0.5

T = TypeVar("T")


async def event_stream(
    watched: AsyncIterator[T],
    *,
    name: str,
    write: Callable[[T], bytes],
    stopping: Callable[[], bool],
    problem: Callable[[ServiceError], dict[str, Any]],
    keep_alive_s: float = KEEP_ALIVE_S,
) -> AsyncIterator[bytes]:
    """An event of this name for each value, written as one line of JSON; then `end` or `problem`.

    Comments in between keep the connection open. A stream that ends without a last word was cut off:
    the service stops, or has failed.
    """
    loop = asyncio.get_running_loop()
    number, written = 0, loop.time()
    coming = asyncio.create_task(_next(watched))
    try:
        while not stopping():
            patience = min(DRAIN_LOOK_S, max(0.0, written + keep_alive_s - loop.time()))
            await asyncio.wait({coming}, timeout=patience)
            if coming.done():
                try:
                    value = coming.result()
                except ServiceError as error:
                    yield _event("problem", orjson.dumps(problem(error)))
                    return
                if value is None:
                    yield _event("end", b"{}")
                    return
                coming = asyncio.create_task(_next(watched))
                number, written = number + 1, loop.time()
                yield _event(name, write(value), number)
            elif loop.time() - written >= keep_alive_s:
                written = loop.time()
                yield b": still here\n\n"
    finally:
        coming.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await coming


async def _next(watched: AsyncIterator[T]) -> T | None:
    return await anext(watched, None)


def _event(name: str, data: bytes, number: int | None = None) -> bytes:
    """One event; its data is one line, because JSON escapes every line break."""
    head = f"event: {name}\n" + (f"id: {number}\n" if number is not None else "")
    return b"%bdata: %b\n\n" % (head.encode(), data)
