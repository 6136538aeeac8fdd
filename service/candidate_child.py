"""The candidate's process: it limits itself, does all that the service would, and says how it went.

    python -m service.candidate_child TASK

TASK is the JSON object that `candidate.prove` writes; the answer is one line of JSON. Whatever the
libraries print goes to standard error, so that nothing but this module answers.

Why RLIMIT_DATA for memory and not RLIMIT_AS: ONNX Runtime and glibc reserve addresses (64 MB for
each thread's heap, the whole of a mapped file) that they never touch. The shipped bundle on two
threads touched 170 MB, of which RLIMIT_DATA counted 197 MB and RLIMIT_AS 390 MB; on eight threads,
246 and 820 MB. On CUDA neither this limit nor the one on files is set: what the driver maps and
keeps on the host has not been measured.
"""

import ctypes
import faulthandler
import json
import math
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

from service.bundle import Bundle
from service.encoder import Encoder
from service.errors import ServiceError
from service.memory import data_bytes, peak_bytes, resident_bytes
from service.proving import prove, prove_alone

STACK_BYTES = 8 << 20
"""What RLIMIT_DATA counts for each thread beside its work."""
FIRST_TO_DIE = "1000"
PR_SET_PDEATHSIG = 1


def depend_on(parent: int) -> None:
    """Die with the process that asked, and before it if memory runs out. Both are Linux's."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it went before it could take this process along
        sys.exit("the process that asked is gone")
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_DIE)


def limit(*, device: str, threads: int, timeout_s: float, memory_bytes: int | None) -> None:
    """Take from this process, for good, what a proof does not need."""
    _set(resource.RLIMIT_CORE, 0)
    # The parent's clock decides. This one is for a parent that could not take its child along.
    _set(resource.RLIMIT_CPU, math.ceil(timeout_s) * (threads + 1))
    if device == "cuda":
        return
    _set(resource.RLIMIT_FSIZE, 0)
    held = data_bytes()
    if memory_bytes is not None and held is not None:
        # ONNX Runtime has so many threads, and the tokenizer as many again.
        _set(resource.RLIMIT_DATA, held + memory_bytes + 2 * threads * STACK_BYTES)


def examine(task: dict[str, Any]) -> dict[str, Any]:
    """Open the bundle and prove it: what it took, or what is wrong with it."""
    start, held = perf_counter(), resident_bytes() or peak_bytes()
    try:
        bundle = Bundle.open(Path(task["folder"]))
        encoder = Encoder.open(
            bundle, precision=task["precision"], device=task["device"], threads=task["threads"]
        )
        prove(encoder, batch_tokens=task["batch_tokens"])
        prove_alone(encoder)
        encoder.close()
    except ServiceError as error:
        return {"code": error.code, "detail": error.detail}
    except MemoryError as error:
        return {"code": "memory", "detail": str(error) or "MemoryError"}
    return {
        "code": None,
        "space": encoder.space,
        "memory_bytes": max(0, peak_bytes() - held),
        "seconds": perf_counter() - start,
    }


def main(argument: str) -> None:
    """Answer where standard output was, and leave that to nobody else."""
    faulthandler.enable()
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    task = json.loads(argument)
    depend_on(task["parent"])
    limit(**{name: task[name] for name in ("device", "threads", "timeout_s", "memory_bytes")})
    with os.fdopen(answers, "w") as file:
        print(json.dumps(examine(task)), file=file)


def _set(which: int, value: int) -> None:
    """Both the soft and the hard limit; never above a hard limit that is already there."""
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


if __name__ == "__main__":
    main(sys.argv[1])
