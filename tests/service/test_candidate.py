"""A candidate in its own process: proven, or refused with the reason, and this process none the wiser."""

import asyncio
import os
import platform
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from structlog.testing import capture_logs

from service.bundle import Bundle, write_bundle
from service.candidate import NICENESS, Proof, prove
from service.errors import BundleInvalid, ConfigurationError
from service.memory import resident_bytes
from tests.tiny_bundle import build_tiny_bundle, declared, pooled_model

ROOT = Path(__file__).parents[2]
linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel enforces it on Linux alone")
node, port = helper.make_node, helper.make_tensor_value_info
LOOK_UP = node("Gather", ["table", "input_ids"], ["rows"])


async def proven(bundle, precision="fp32", **options) -> Proof:
    options = {"device": "cpu", "threads": 1, "timeout_s": 30, "memory_bytes": None} | options
    return await prove(bundle, precision, batch_tokens=512, **options)


async def refused(bundle, match, **options) -> str:
    with pytest.raises(BundleInvalid, match=match) as caught:
        await proven(bundle, **options)
    return caught.value.detail


def bundle_of(folder, *embed, width=16, table=None, **tensors) -> Bundle:
    """A bundle that keeps the contract on paper, and has this graph up to the pooling."""
    build_tiny_bundle(folder)
    if table is None:
        table = np.random.default_rng(0).standard_normal((260, width), dtype=np.float32)
    tensors = {"table": table} | tensors
    constants = [
        numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()
    ]
    model = pooled_model(embed, constants, 16)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    write_bundle(folder, **declared())
    return Bundle.open(folder)


def endless(folder) -> Bundle:
    """A loop that copies its value 2^63 times."""
    body = helper.make_graph(
        [node("Identity", ["go"], ["going"]), node("Identity", ["value"], ["valued"])],
        "body",
        [
            port("number", TensorProto.INT64, []),
            port("go", TensorProto.BOOL, []),
            port("value", TensorProto.FLOAT, None),
        ],
        [port("going", TensorProto.BOOL, []), port("valued", TensorProto.FLOAT, None)],
    )
    loop = node("Loop", ["times", "true", "rows"], ["embedded"], body=body)
    times = np.int64(2**63 - 1)
    return bundle_of(folder, LOOK_UP, loop, times=times, true=np.bool_(True))


async def child(parent: int | None = None) -> int:
    """The process id of the candidate, as soon as it has become the program that it is to run."""
    found = lambda: candidates(parent or os.getpid())  # noqa: E731
    return (await anyio.to_thread.run_sync(poll, found))[0]


def candidates(parent: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            own = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if own == parent and b"candidate_child" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def poll(question):
    """The kernel tells nobody of another's child, so it is asked again and again."""
    deadline = time.monotonic() + 30
    while not (answer := question()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return answer


def gone(pid: int) -> bool:
    """Dead; whether somebody has taken note of that is up to its parent, or to whom it was left."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.mark.parametrize("precision", ["fp32", "int8"])
async def test_a_sound_bundle_is_proven_within_limits(tiny_bundle, precision):
    proof = await proven(tiny_bundle, precision, memory_bytes=100_000_000)
    assert (proof.precision, proof.space) == (precision, tiny_bundle.manifest.space[precision])
    assert 1_000_000 < proof.memory_bytes < 100_000_000
    assert 0 < proof.seconds < 30


@pytest.mark.parametrize("end", [b"", b"x"])
async def test_files_that_are_not_what_the_manifest_says_are_refused(tiny_bundle, tmp_path, end):
    shutil.copytree(tiny_bundle.folder, tmp_path / "copy")
    bundle = Bundle.open(tmp_path / "copy")
    weights = bundle.path("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + end)
    detail = await refused(bundle, r"^tiny/1: model\.safetensors: SHA-256 is ")
    assert str(tmp_path) not in detail


async def test_a_graph_that_is_no_model_or_is_cut_short_is_refused(tmp_path):
    bundle = build_tiny_bundle(tmp_path)
    data = (tmp_path / "model.onnx").read_bytes()
    (tmp_path / "model.onnx").write_bytes(data[: len(data) // 2])
    await refused(bundle, r"^tiny/1: model\.onnx: SHA-256 is ")


async def test_a_bundle_that_does_not_reproduce_its_probes_is_refused(tmp_path):
    build_tiny_bundle(tmp_path / "one", seed=1)
    build_tiny_bundle(tmp_path / "other", seed=2)
    shutil.copy(tmp_path / "other" / "probes.npz", tmp_path / "one" / "probes.npz")
    bundle = write_bundle(tmp_path / "one", **declared(languages=["en"]))
    await refused(bundle, r"^tiny/1: probes\.npz: text 0 \(en\) has cosine .*, needs 0\.9999$")


async def test_a_bundle_that_gives_no_numbers_is_refused(tmp_path):
    embed = node("Gather", ["table", "input_ids"], ["embedded"])
    bundle = bundle_of(tmp_path, embed, table=np.full((260, 16), np.nan, np.float32))
    await refused(bundle, r"^tiny/1: 4 x 128 tokens \(fp32\) gave a vector that is not finite$")


async def test_a_bundle_that_gives_another_dimension_than_it_says_is_refused(tmp_path):
    embed = node("Gather", ["table", "input_ids"], ["embedded"])
    bundle = bundle_of(tmp_path, embed, width=8)
    await refused(bundle, r"^tiny/1: 4 texts gave vectors of shape \(4, 8\)$")


@linux
async def test_a_bundle_that_eats_memory_is_refused_and_costs_this_process_nothing(tmp_path):
    tile = node("Tile", ["rows", "times"], ["eaten"])
    most = node("ReduceMax", ["eaten", "last"], ["embedded"], keepdims=1)
    two_gigabytes = np.array([1, 1, 65536])
    bundle = bundle_of(tmp_path, LOOK_UP, tile, most, times=two_gigabytes)
    before = resident_bytes()
    await refused(bundle, r"^tiny/1: needs more than the 50 MB of memory", memory_bytes=50_000_000)
    assert resident_bytes() - before < 8 << 20


async def test_a_bundle_that_took_more_than_it_may_is_refused_where_no_kernel_stops_it(tiny_bundle):
    # What the loaded graph takes beside the stacks that the limit allows for: more than nothing.
    await refused(tiny_bundle, "needs more than the 0 MB of memory", memory_bytes=1000)


@linux
async def test_a_bundle_that_never_ends_is_refused_and_its_process_is_gone(tmp_path):
    bundle = endless(tmp_path)
    async with asyncio.TaskGroup() as tasks:
        process = tasks.create_task(child())
        await refused(
            bundle, r"took longer than 1\.5 s to prove \(ISOGLOSS_PROOF_TIMEOUT_S\)", timeout_s=1.5
        )
    assert gone(process.result())


@linux
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
async def test_a_process_that_crashes_is_an_invalid_bundle_that_names_the_signal(tmp_path, number):
    bundle = endless(tmp_path)
    async with asyncio.TaskGroup() as tasks:
        run = tasks.create_task(refused(bundle, f"the encoder ended with {number.name}"))
        os.kill(await child(), number)
    assert run.result().startswith("tiny/1: ")


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="others do not trap it")
async def test_a_graph_that_crashes_the_runtime_is_refused_and_logged_with_its_last_words(tmp_path):
    # The one quotient of two integers that no integer holds ends the process.
    bundle = bundle_of(
        tmp_path,
        node("Mul", ["attention_mask", "least"], ["leasts"]),
        node("Neg", ["attention_mask"], ["negative"]),
        node("Div", ["leasts", "negative"], ["quotient"]),
        node("Clip", ["quotient", "zero", "zero"], ["ids"]),
        node("Gather", ["table", "ids"], ["embedded"]),
        least=np.int64(-(2**63)),
        zero=np.int64(0),
    )
    with capture_logs() as logs:
        detail = await refused(bundle, "the encoder ended with SIGFPE")
    assert "onnx_session.py" not in detail
    assert "onnx_session.py" in logs[-1]["stderr"]


@linux
async def test_whoever_no_longer_waits_takes_the_process_with_it(tmp_path):
    task = asyncio.create_task(proven(endless(tmp_path)))
    process = await child()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gone(process)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(proven, endless(tmp_path / "again"))
            process = await child()
            scope.cancel()
    assert gone(process)


def autogroup(process: int) -> str:
    """How far below others the process's session is; empty where Linux does not share by session."""
    try:
        return Path(f"/proc/{process}/autogroup").read_text().strip().partition(" ")[2]
    except OSError:
        return ""


@linux
async def test_a_candidate_dies_with_the_service(tmp_path):
    code = (
        "import asyncio, sys; from pathlib import Path\n"
        "from service.bundle import Bundle; from service.candidate import prove\n"
        "bundle = Bundle.open(Path(sys.argv[1]))\n"
        "limits = dict(threads=1, batch_tokens=512, timeout_s=60, memory_bytes=None)\n"
        "asyncio.run(prove(bundle, 'fp32', device='cpu', **limits))\n"
    )
    folder = endless(tmp_path).folder
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, folder, cwd=ROOT)
    process = await child(parent.pid)
    parent.kill()
    await parent.wait()
    await anyio.to_thread.run_sync(poll, lambda: gone(process))


@linux
async def test_a_candidate_sees_no_secret_of_its_parent(tmp_path, monkeypatch):
    monkeypatch.setenv("ISOGLOSS_QDRANT_API_KEY", "secret-of-the-index")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-cloud")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    task = asyncio.create_task(proven(endless(tmp_path)))
    process = Path(f"/proc/{await child()}")
    environment = (process / "environ").read_bytes()
    task.cancel()
    await asyncio.wait([task])
    assert b"secret" not in environment
    assert b"CUDA_VISIBLE_DEVICES=1" in environment


@linux
async def test_a_candidate_is_below_the_service_and_out_of_reach_of_its_terminal(tmp_path):
    task = asyncio.create_task(proven(endless(tmp_path)))
    process = await child()
    found = os.getsid(process), os.getpriority(os.PRIO_PROCESS, process)
    sharing = await anyio.to_thread.run_sync(autogroup, process)
    task.cancel()
    await asyncio.wait([task])
    assert found == (process, min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS))
    assert sharing in {f"nice {NICENESS}", ""}


async def test_a_precision_that_the_bundle_lacks_is_refused_by_name(tiny_bundle):
    await refused(tiny_bundle, "^tiny/1: has no fp16, only fp32, int8$", precision="fp16")


async def test_a_device_that_the_machine_lacks_is_not_the_bundles_fault(tiny_bundle):
    with pytest.raises(ConfigurationError, match="ISOGLOSS_DEVICE is cuda"):
        await proven(tiny_bundle, device="cuda")


async def test_a_bundle_that_is_exchanged_while_it_is_proven_is_refused(tmp_path):
    bundle = build_tiny_bundle(tmp_path / "bundle", seed=1)
    shutil.rmtree(tmp_path / "bundle")
    build_tiny_bundle(tmp_path / "bundle", seed=2)
    await refused(bundle, "^tiny/1: was changed while it was proven$")
