"""The proof of a bundle in a process of its own, before the service opens it itself.

Why a process: a graph is a program from elsewhere. One that crashes the runtime, never ends or eats
the memory must be refused, and the live generation must not notice.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import structlog

import service
from service.bundle import Bundle
from service.errors import BundleInvalid, ConfigurationError, Unavailable
from service.manifest import Precision
from service.onnx_session import Device

CHUNK_BYTES = 1 << 16
TAIL_BYTES = 4096
DETAIL_CHARACTERS = 500
MEGABYTE = 1_000_000

KEPT_VARIABLES = ("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
"""Which device it is proven on, and where its driver lies. Everything else may be a secret."""

NICENESS = 10
"""So far below the queries of the live encoder."""

SHORTAGES = ("Failed to allocate memory", "bad_alloc", "memory allocation of", "pthread_create")
"""How ONNX Runtime, C++, the tokenizer and the threads of all of them say that memory is short."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Proof:
    """One precision of a bundle works here: what it took at most, beside Python and the libraries."""

    precision: Precision
    space: str
    memory_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Run:
    """How a child ended: no status if its time was up first; the ends of what it wrote."""

    status: int | None
    answer: str
    noise: str


async def prove(
    bundle: Bundle,
    precision: Precision,
    *,
    device: Device,
    threads: int,
    batch_tokens: int,
    timeout_s: float,
    memory_bytes: int | None,
) -> Proof:
    """Open the bundle in a child, run a batch of `batch_tokens` there, and reproduce the probes.

    The child may take `memory_bytes` beside Python and the libraries, or all there is if None.
    Cancelling ends it.

    Raises:
        BundleInvalid: the bundle fails, and why: a file, a probe, a crash, its time, its memory.
        ConfigurationError: the machine lacks the device.
        Unavailable: no process could be started.
    """
    manifest = bundle.manifest
    name = f"{manifest.name}/{manifest.version}"
    if precision not in manifest.precisions:
        raise BundleInvalid(f"{name}: has no {precision}, only {', '.join(manifest.precisions)}")
    task = {
        "parent": os.getpid(),
        "folder": str(bundle.folder.resolve()),
        "precision": precision,
        "device": device,
        "threads": threads,
        "batch_tokens": batch_tokens,
        "timeout_s": timeout_s,
        "memory_bytes": memory_bytes,
    }
    run = await _run(task, environment=_environment(threads), timeout_s=timeout_s)
    answer = _answer(run)
    # Clients see names, not where things lie.
    detail = str(answer.get("detail", "")).replace(f"{task['folder']}/", "")
    detail = detail.removeprefix(f"{name} ({precision}): ")
    if answer.get("code") == ConfigurationError.code:
        raise ConfigurationError(detail)
    reason = _reason(run, answer, detail, task)
    if not reason and answer["space"] != manifest.space[precision]:
        reason = "was changed while it was proven"
    if reason:
        said = f"{name}: {' '.join(reason.split())}"[:DETAIL_CHARACTERS]
        log.warning(
            "candidate refused", precision=precision, reason=said, detail=detail, stderr=run.noise
        )
        raise BundleInvalid(said)
    proof = Proof(precision, answer["space"], answer["memory_bytes"], answer["seconds"])
    log.info(
        "candidate proven",
        bundle=name,
        precision=precision,
        device=device,
        memory_bytes=proof.memory_bytes,
        seconds=round(proof.seconds, 3),
    )
    return proof


async def _run(task: Mapping[str, Any], *, environment: dict[str, str], timeout_s: float) -> _Run:
    """One life of the child; it is gone on return, however that comes about."""
    answer, noise = bytearray(), bytearray()
    with anyio.CancelScope(shield=True):  # half started, nobody could end it
        process = await _start(task, environment)
    status = None
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(_tail(process.stdout, answer), _tail(process.stderr, noise))
                status = await process.wait()
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)
    return _Run(status, answer.decode(errors="replace"), noise.decode(errors="replace"))


async def _start(
    task: Mapping[str, Any], environment: dict[str, str]
) -> asyncio.subprocess.Process:
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service.candidate_child", json.dumps(task)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # ^C is the parent's alone, and what it starts dies with it
            cwd=Path(service.__path__[0]).parent,
            env=environment,
        )
    except OSError as error:
        raise Unavailable(f"no process could be started for a candidate: {error}") from error
    _lower(process.pid)
    return process


def _lower(process: int) -> None:
    """Put a process below the queries, before it reads its libraries: the best part of its time.

    Linux shares the processors between sessions before it looks at the processes of one, unless it
    is told not to; so the session is lowered as well.
    """
    with suppress(ProcessLookupError):
        os.setpriority(os.PRIO_PROCESS, process, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
    with suppress(OSError):  # not Linux, or without this scheduling
        Path(f"/proc/{process}/autogroup").write_text(str(NICENESS))


async def _tail(stream: asyncio.StreamReader | None, into: bytearray) -> None:
    """Read to the end, so that the child never waits; keep what fits."""
    while stream and (chunk := await stream.read(CHUNK_BYTES)):
        into += chunk
        del into[:-TAIL_BYTES]


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    await process.communicate()  # closes the pipes


def _environment(threads: int) -> dict[str, str]:
    """The parent's libraries and device, and none of its secrets."""
    own = {name: os.environ.get(name) for name in KEPT_VARIABLES}  # noqa: TID251 - not settings
    return {name: value for name, value in own.items() if value is not None} | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OPENBLAS_NUM_THREADS": "1",  # NumPy multiplies nothing here
        "RAYON_NUM_THREADS": str(threads),  # the tokenizer's; it would count the host's cores
    }


def _answer(run: _Run) -> dict[str, Any]:
    """What the child said of itself; nothing if it never came to that."""
    try:
        return dict(json.loads(run.answer))
    except ValueError:
        return {}


def _reason(run: _Run, answer: Mapping[str, Any], detail: str, task: Mapping[str, Any]) -> str:
    """Why the bundle is refused; empty if it is not."""
    if run.status is None or run.status == -signal.SIGXCPU:
        return f"took longer than {task['timeout_s']:g} s to prove (ISOGLOSS_PROOF_TIMEOUT_S)"
    limit, said = task["memory_bytes"], detail or run.noise
    # On CUDA it is the device that was short, and that is not what was limited.
    limited = limit is not None and task["device"] == "cpu"
    if detail or run.status or not answer:
        if limited and any(shortage in said for shortage in SHORTAGES):
            return _shortage(limit)
        return detail or f"the encoder ended with {_status(run.status)}; the log has its last words"
    if limit is not None and answer["memory_bytes"] > limit:
        return _shortage(limit)
    return ""


def _shortage(limit: int) -> str:
    return (
        f"needs more than the {limit // MEGABYTE} MB of memory that it may take beside Python "
        "and the libraries: give the service more, or take another precision"
    )


def _status(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
