"""All of ONNX Runtime: one graph loaded on one device, the cores it may use, the memory it gives back.

Why explicit threads: ONNX Runtime counts the host's cores, which a container's CPU limit does not
change; and spinning threads burn the cores that the tokenizer and the index need.
"""

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as pybind

from service import memory
from service.errors import BundleInvalid, ConfigurationError, EngineFailure
from service.types import Matrix

Device: TypeAlias = Literal["cpu", "cuda"]

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
OUTPUT = "sentence_embedding"
ERRORS_ONLY = 3  # ONNX Runtime's log severity; warnings about other people's graphs help nobody

# Its exceptions share no root, and their number grows with its versions.
FAILURES: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    MemoryError,
    *(
        kind
        for kind in vars(pybind).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
)


class OnnxSession:
    """A loaded graph, called with ids and mask [batch, length]; several threads may call it at once."""

    def __init__(self, session: Any, *, path: Path) -> None:
        self._session = session
        self._path = path

    def __call__(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Matrix:
        """The vectors [batch, dimension]; `EngineFailure` if the device or the graph fails."""
        session = self._session
        if session is None:
            raise EngineFailure(f"{self._path}: the session is closed")
        try:
            (vectors,) = session.run([OUTPUT], {"input_ids": ids, "attention_mask": mask})
        except FAILURES as error:
            raise EngineFailure(f"{self._path}: batch of shape {ids.shape}: {error}") from error
        return np.asarray(vectors, dtype=np.float32)

    def close(self) -> None:
        """Give the weights back to the system; batches that are running end first."""
        self._session = None
        memory.trim()


def open_session(path: Path, *, device: Device, threads: int) -> OnnxSession:
    """Load a graph that has been verified.

    Raises:
        ConfigurationError: CUDA was asked for and is not there.
        BundleInvalid: ONNX Runtime refuses the graph.
    """
    providers = _providers(device)
    try:
        session = onnxruntime.InferenceSession(
            str(path), sess_options=_options(threads), providers=providers
        )
    except FAILURES as error:
        raise BundleInvalid(f"{path.name}: ONNX Runtime refuses it: {error}") from error
    check_device(device, session.get_providers())
    session.disable_fallback()  # a device that fails at run time fails its batch
    return OnnxSession(session, path=path)


def check_device(device: Device, providers: Sequence[str]) -> None:
    """ONNX Runtime falls back to the CPU in silence; `ConfigurationError` instead."""
    if device == "cuda" and CUDA not in providers:
        raise ConfigurationError(
            f"ISOGLOSS_DEVICE is cuda, but ONNX Runtime offers only {', '.join(providers)}: "
            "install the extra `gpu` and check the driver, or set ISOGLOSS_DEVICE=cpu"
        )


def cpu_limit(
    *, cgroups: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> int:
    """The cores that this process may use: affinity and cpuset, and the cgroup's quota (v1 or v2)."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, math.floor(min([cores, *_quotas(cgroups, membership)])))


def _options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = ERRORS_ONLY
    options.enable_mem_pattern = False  # a pattern per shape is kept for ever; shapes vary here
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _providers(device: Device) -> list[Any]:
    if device == "cpu":
        return [CPU]
    check_device(device, onnxruntime.get_available_providers())
    onnxruntime.preload_dlls()  # finds CUDA and cuDNN where pip puts them
    cuda = {
        "arena_extend_strategy": "kSameAsRequested",  # not the next power of two
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",  # ten bits of mantissa are not fp32
    }
    return [(CUDA, cuda), CPU]


def _quotas(cgroups: Path, membership: Path) -> list[float]:
    """Cores by every quota on the way from this process's cgroup to the root."""
    quotas = []
    for line in _read(membership).splitlines():
        _, controllers, own = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = cgroups / controllers if controllers else cgroups
        group = Path(own.lstrip("/"))
        # In a container the mount is often the container's own group, which `own` does not name.
        for folder in {mount / group, *(mount / parent for parent in group.parents), mount}:
            quotas.extend(_quota(folder))
    return quotas


def _quota(folder: Path) -> list[float]:
    both = _read(folder / "cpu.max").split() or [
        *_read(folder / "cpu.cfs_quota_us").split(),
        *_read(folder / "cpu.cfs_period_us").split(),
    ]
    if len(both) != 2 or not all(number.isdigit() for number in both):  # noqa: PLR2004
        return []  # `max` (v2) and -1 (v1) mean no quota
    quota, period = map(int, both)
    return [quota / period] if period else []


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
