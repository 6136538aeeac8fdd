"""One life of the index host: a child process that is started, asked, and gone.

Several requests are in flight at a time and each is answered by its number. When the process ends,
for whatever reason, all of them fail with `IndexUnavailable`; starting another life is the
business of `edge`.
"""

import asyncio
import itertools
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import service
from service.errors import (
    ConfigurationError,
    IndexCorrupt,
    IndexUnavailable,
    InvalidInput,
    NotFound,
    ServiceError,
    StorageFull,
)
from service.vectors.wire import Frames, frame

CHUNK_BYTES = 1 << 20
START_S = 30.0
CLOSE_S = 30.0
ERRORS: Mapping[str, type[ServiceError]] = {
    error.code: error
    for error in (
        ConfigurationError,
        IndexCorrupt,
        IndexUnavailable,
        InvalidInput,
        NotFound,
        StorageFull,
    )
}


class NotOpen(Exception):
    """This life of the host has not opened the index."""


class HostGone(IndexUnavailable):
    """The host ended while it was asked."""


class HostProcess:
    """A running host; made by `start`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._patience_s: dict[int, float] = {}
        self._heard_at_s = 0.0
        self._listening: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, folder: Path, *, lock_wait_s: float, free_bytes_min: int) -> Self:
        """Start a host on an absolute folder; `ConfigurationError` if another one has it."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "service.vectors.edge_host", str(folder)),
                *(str(theirs.fileno()), str(lock_wait_s), str(free_bytes_min)),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # ^C in a terminal is the parent's alone
                cwd=Path(service.__path__[0]).parent,
            )
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=CHUNK_BYTES)
        host = cls(process, reader, writer)
        greeting = host._expect(0)
        host._listening = asyncio.create_task(host._listen(), name="index host answers")
        try:
            async with asyncio.timeout(START_S + lock_wait_s):
                await greeting
        except BaseException:
            await host.kill()
            raise
        return host

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._listening is not None and not self._listening.done()

    async def ask(self, operation: str, *, timeout_s: float, **arguments: Any) -> Any:
        """The host's answer, or the error that it names; `NotOpen`, `IndexUnavailable`.

        A host that has said nothing at all for `timeout_s` hangs, and is killed; unless another
        caller has more patience, because the host replays a log, and all wait for that.
        """
        if not self.alive:
            raise IndexUnavailable("the index host is not running")
        number, asked_at_s = next(self._numbers), asyncio.get_running_loop().time()
        answer = self._expect(number)
        self._patience_s[number] = timeout_s
        try:
            self._writer.write(frame([number, operation, arguments]))
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError as error:
            if self._heard_at_s <= asked_at_s and max(self._patience_s.values()) <= timeout_s:
                self._signal_death()
            raise IndexUnavailable(
                f"the index host did not answer {operation!r} within {timeout_s:g} s"
            ) from error
        finally:
            self._pending.pop(number, None)
            self._patience_s.pop(number, None)

    async def gone(self) -> int:
        """Wait for the end of the process; its exit status."""
        if self._listening is not None:
            await asyncio.wait([self._listening])
        return await self._process.wait()

    async def close(self) -> None:
        """Let it finish what it has, close its shards and end."""
        self._writer.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.gone()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """End it now. What it acknowledged is in its log."""
        self._signal_death()
        self._writer.close()
        await self.gone()

    def _signal_death(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()

    def _expect(self, number: int) -> asyncio.Future[Any]:
        answer = asyncio.get_running_loop().create_future()
        self._pending[number] = answer
        return answer

    async def _listen(self) -> None:
        frames, loop = Frames(), asyncio.get_running_loop()
        with suppress(ConnectionError):
            while chunk := await self._reader.read(CHUNK_BYTES):
                self._heard_at_s = loop.time()
                for number, code, result in frames.feed(chunk):
                    answer = self._pending.pop(number, None)
                    if answer is None or answer.done():
                        continue  # the caller was cancelled
                    if code is None:
                        answer.set_result(result)
                    else:
                        answer.set_exception(
                            ERRORS[code](result) if code in ERRORS else NotOpen(result)
                        )
        self._writer.close()
        for answer in self._pending.values():
            if not answer.done():
                answer.set_exception(HostGone("the index host ended while it was asked"))
