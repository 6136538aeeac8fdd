"""The index host: the child process that owns the embedded shards and answers over a socket.

    python -m service.vectors.edge_host FOLDER SOCKET LOCK_WAIT_S FREE_BYTES_MIN

Why a process: the engine never releases Python's lock, so that in the service every write would
stop every request. Why one thread: the engine gains nothing from more. The host drains its socket
before each piece of work and takes questions before writes, which come in small frames, so that a
query waits for one of them at most; after `QUESTIONS_PER_WRITE` of them one write has its turn.
What takes longer, to make an index or to drop one, is done in steps, each of which is such a turn.

It dies with its parent (end of file, or the kernel's signal), and ignores ^C and SIGTERM: both
reach a whole process group, and the parent still needs it while it drains.
"""

import ctypes
import fcntl
import os
import select
import shutil
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from service.errors import (
    ConfigurationError,
    IndexUnavailable,
    NotFound,
    ServiceError,
    StorageFull,
)
from service.vectors.backend import IndexSpec
from service.vectors.edge_shard import DESCRIPTION, Search, Shard, sync, translated
from service.vectors.wire import NOT_OPEN, Frames, Message, frame

CHUNK_BYTES = 1 << 20
QUESTIONS = frozenset({"search", "count", "ping"})
QUESTIONS_PER_WRITE = 16
IDLE_S = 1.0
UNFLUSHED_MAX = 50_000
"""Points after which the log is cut even under load: replaying them takes about a second."""
PR_SET_PDEATHSIG = 1

Steps: TypeAlias = Generator[None, None, None]
"""Work that lets questions in wherever it yields."""


class NotOpen(Exception):
    """An operation on an index that this life of the host has not opened."""


class Shelf:
    """The folder of indexes, and those of them that are open."""

    def __init__(self, folder: Path, *, free_bytes_min: int) -> None:
        self._folder = folder
        self._free_bytes_min = free_bytes_min
        self._open: dict[str, Shard] = {}
        self.operations: Mapping[str, Callable[..., Any]] = {
            "ping": lambda: None,
            "list": self.names,
            "open": self.open,
            "drop": self.drop,
            "apply": self.apply,
            "search": lambda name, queries: self[name].search([Search(*q) for q in queries]),
            "scan": lambda name, after, page: self[name].scan(after=after, page=page),
            "count": lambda name, where: self[name].count(where),
        }

    def clear(self) -> None:
        """Delete what a host left that died while it made an index or dropped one: nobody lists it."""
        for shard in self._folder.glob("*/shard"):
            if not (shard.parent / DESCRIPTION).exists():
                shutil.rmtree(shard.parent, ignore_errors=True)

    def __getitem__(self, name: str) -> Shard:
        try:
            return self._open[name]
        except KeyError as error:
            raise NotOpen(name) from error

    def names(self) -> Sequence[str]:
        """The names of the indexes that are whole."""
        return sorted(path.parent.name for path in self._folder.glob(f"*/{DESCRIPTION}"))

    def open(
        self, *, name: str, space: str, dimension: int, fields: dict[str, Any], create: bool
    ) -> Steps:
        """Open an index, or make it if it is missing and `create` is true; idempotent."""
        spec = IndexSpec(name, space, dimension, fields)
        if name in self._open:
            if self._open[name].spec == spec:
                return
            self._open.pop(name).close()
        try:
            self._open[name] = Shard.load(self._folder / name, spec)
        except NotFound:
            if not create:
                raise
            self._need_space()
            self._open[name] = yield from Shard.create(self._folder / name, spec)

    def drop(self, name: str) -> Steps:
        """Destroy an index; from the first step on it is no longer listed."""
        folder = self._folder / name
        (folder / DESCRIPTION).unlink(missing_ok=True)
        if name in self._open:
            self._open.pop(name).close()
        yield
        shutil.rmtree(folder, ignore_errors=True)
        sync(self._folder)

    def apply(
        self,
        *,
        name: str,
        ids: Sequence[int],
        vectors: bytes,
        payloads: Sequence[dict[str, Any]],
        deletes: list[int],
    ) -> None:
        """Write and delete points, if the disk has room."""
        shard = self[name]
        self._need_space()
        shard.apply(ids, vectors, payloads=payloads, deletes=deletes)
        if shard.unflushed >= UNFLUSHED_MAX:
            shard.flush()

    def flush(self) -> None:
        """Cut the logs of the shards that were written to."""
        for shard in self._open.values():
            if shard.unflushed:
                shard.flush()

    def close(self) -> None:
        """Close every shard."""
        while self._open:
            self._open.popitem()[1].close()

    def _need_space(self) -> None:
        """Shards are memory maps: a full disk is not an error there but the end of the process."""
        disk = os.statvfs(self._folder)
        free = disk.f_bavail * disk.f_frsize
        if free < self._free_bytes_min:
            raise StorageFull(
                f"{free} bytes are left on the disk of {self._folder} (ISOGLOSS_DATA_DIR);"
                f" the index keeps {self._free_bytes_min} free",
                retry_after_s=30,
            )


class Host:
    """The loop: requests off the socket, one at a time into the shelf, answers back."""

    def __init__(self, connection: socket.socket, shelf: Shelf) -> None:
        self._connection = connection
        self._shelf = shelf
        self._frames = Frames()
        self._questions: deque[Message] = deque()
        self._writes: deque[Message] = deque()
        self._begun: tuple[int, str, Steps] | None = None
        self._streak = 0

    def serve(self) -> None:
        """Answer until the other end is closed."""
        while self._drain():
            answer = self._turn()
            if answer is not None:
                with suppress(ConnectionError):  # the next read meets the end of file
                    self._connection.sendall(frame(answer))

    def _drain(self) -> bool:
        """Queue what has arrived; wait if there is nothing to do. False at the end of file."""
        idle = not self._questions and not self._writes and self._begun is None
        if idle and not select.select([self._connection], [], [], IDLE_S)[0]:
            self._shelf.flush()
            return True
        while True:
            try:
                chunk = self._connection.recv(CHUNK_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return True
            except ConnectionError:
                return False
            if not chunk:
                return False
            for message in self._frames.feed(chunk):
                asked = message[1] in QUESTIONS
                (self._questions if asked else self._writes).append(message)

    def _turn(self) -> Message | None:
        """Do one question, write or step; an answer if there is one by then."""
        if self._questions and (self._streak < QUESTIONS_PER_WRITE or not self._has_writes()):
            self._streak += 1
            return self._answer(*self._questions.popleft())
        self._streak = 0
        if self._begun is not None:
            return self._go_on(*self._begun)
        return self._answer(*self._writes.popleft()) if self._writes else None

    def _has_writes(self) -> bool:
        return self._begun is not None or bool(self._writes)

    def _answer(self, number: int, operation: str, arguments: dict[str, Any]) -> Message | None:
        with _told(number, operation) as answer:
            result = self._shelf.operations[operation](**arguments)
            if isinstance(result, Generator):
                self._begun = number, operation, result
                return None
            answer[2] = result
        return answer

    def _go_on(self, number: int, operation: str, steps: Steps) -> Message | None:
        self._begun = None
        with _told(number, operation) as answer:
            for _ in steps:
                self._begun = number, operation, steps
                return None
        return answer


@contextmanager
def _told(number: int, operation: str) -> Iterator[Message]:
    """The answer to a request; what goes wrong in the block is what it says."""
    answer: Message = [number, None, None]
    try:
        yield answer
    except NotOpen as error:
        answer[1:] = NOT_OPEN, str(error)
    except ServiceError as error:
        answer[1:] = error.code, error.detail
    except Exception as error:  # noqa: BLE001 - the engine raises bare exceptions
        known = translated(error, IndexUnavailable(f"{operation}: {error}"))
        answer[1:] = getattr(known, "code", IndexUnavailable.code), str(known)


def claim(folder: Path, *, wait_s: float) -> int:
    """Lock the folder for this process's life; wait for a host that is just dying."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.perf_counter() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.perf_counter() >= deadline:
                raise ConfigurationError(
                    f"another process serves the index in {folder};"
                    " give each service a data folder of its own with ISOGLOSS_DATA_DIR"
                ) from error
            time.sleep(0.05)
        else:
            return handle


def main(arguments: Sequence[str]) -> None:
    """Lock, greet, serve, close."""
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    folder = Path(arguments[0])
    connection = socket.socket(fileno=int(arguments[1]))
    try:
        claim(folder, wait_s=float(arguments[2]))
    except (ConfigurationError, OSError) as error:
        code = getattr(error, "code", ConfigurationError.code)
        connection.sendall(frame([0, code, str(error)]))
        return
    shelf = Shelf(folder, free_bytes_min=int(arguments[3]))
    shelf.clear()
    connection.sendall(frame([0, None, None]))
    Host(connection, shelf).serve()
    shelf.close()


if __name__ == "__main__":
    main(sys.argv[1:])
