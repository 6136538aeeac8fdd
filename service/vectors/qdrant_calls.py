"""How calls to a Qdrant server fail, and which are repeated.

The client retries nothing and raises whatever its transport does. Here a read fails at once, and a
write, which may always be repeated, is repeated with a growing, jittered pause, or after the pause
that the server names.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc
import httpx
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import (
    ApiException,
    ResponseHandlingException,
    UnexpectedResponse,
)

from service.errors import (
    ConfigurationError,
    IndexUnavailable,
    InvalidInput,
    NotFound,
    ServiceError,
    StorageFull,
)
from service.metrics import Metrics
from service.vectors.calls import measured

T = TypeVar("T")
SERVER = "the Qdrant server at ISOGLOSS_QDRANT_URL"
STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: httpx.codes.BAD_REQUEST,
    grpc.StatusCode.ALREADY_EXISTS: httpx.codes.CONFLICT,
    grpc.StatusCode.NOT_FOUND: httpx.codes.NOT_FOUND,
    grpc.StatusCode.UNAUTHENTICATED: httpx.codes.UNAUTHORIZED,
    grpc.StatusCode.PERMISSION_DENIED: httpx.codes.FORBIDDEN,
}


class Busy(IndexUnavailable):
    """The server is there, and says when to come back."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a call may take, how often and after which pauses a write is repeated.

    `settle_s` is the pause between two looks at an index that is being optimised.
    """

    read_s: int = 3
    write_s: int = 30
    attempts_max: int = 5
    pause_min_s: float = 0.2
    pause_max_s: float = 10.0
    settle_s: float = 1.0


PATIENT = Patience()


class QdrantCalls:
    """Reads and writes, measured, repeated where that helps, their failures translated."""

    def __init__(self, *, metrics: Metrics, patience: Patience) -> None:
        self.patience = patience
        self._metrics = metrics
        self._jitter = random.SystemRandom()

    async def read(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        """One attempt."""
        with measured(self._metrics, operation):
            return await _attempt(operation, call)

    async def write(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        """Up to `attempts_max` attempts; a server that asks for a longer pause than ours has its way."""
        attempt = 0
        with measured(self._metrics, operation):
            while True:
                attempt += 1
                try:
                    return await _attempt(operation, call)
                except IndexUnavailable as error:
                    named_s = error.retry_after_s if isinstance(error, Busy) else 0
                    if attempt >= self.patience.attempts_max or named_s > self.patience.pause_max_s:
                        raise
                grown_s = min(
                    self.patience.pause_min_s * 2 ** (attempt - 1), self.patience.pause_max_s
                )
                await asyncio.sleep(max(named_s, grown_s * self._jitter.uniform(0.5, 1.0)))


async def _attempt(operation: str, call: Callable[[], Awaitable[T]]) -> T:
    try:
        return await call()
    except (ApiException, QdrantException, grpc.RpcError, AssertionError) as error:
        # The client asserts that an answer has a result: a proxy's answer may have none.
        raise _translated(error, operation) from error


def _translated(error: Exception, operation: str) -> ServiceError:
    """The client's error as one of ours; what is not known to be another is unavailability."""
    match error:
        case ResourceExhaustedResponse():
            what = f"{operation} on {SERVER}: {error}"
            return Busy(what, retry_after_s=max(1, error.retry_after_s))
        case UnexpectedResponse():
            pause = error.headers.get("retry-after", "")
            return _by_status(error.status_code or 0, f"{operation} on {SERVER}: {error}", pause)
        case grpc.aio.AioRpcError():
            status = STATUS.get(error.code(), httpx.codes.SERVICE_UNAVAILABLE)
            what = f"{operation} on {SERVER}: {error.code().name} {error.details()}"
            return _by_status(status, what)
        case ResponseHandlingException():
            return IndexUnavailable(f"{operation} on {SERVER}: {error.source!r}")
        case _:
            return IndexUnavailable(f"{operation} on {SERVER}: {error}")


def _by_status(status: int, what: str, pause: str = "") -> ServiceError:
    if "No space left" in what or status == httpx.codes.INSUFFICIENT_STORAGE:
        return StorageFull(what, retry_after_s=30)
    match status:
        case httpx.codes.NOT_FOUND:
            return NotFound(what)
        case httpx.codes.UNAUTHORIZED | httpx.codes.FORBIDDEN:
            return ConfigurationError(f"{what} (is ISOGLOSS_QDRANT_API_KEY right?)")
        case status if httpx.codes.BAD_REQUEST <= status < httpx.codes.TOO_MANY_REQUESTS:
            return InvalidInput(what)
        case _ if pause.isdecimal():
            return Busy(what, retry_after_s=max(1, int(pause)))
        case _:
            return IndexUnavailable(what)
