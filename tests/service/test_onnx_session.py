"""ONNX Runtime: the device that was asked for, the cores that are there, errors in our own words."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from service.errors import BundleInvalid, ConfigurationError, EngineFailure
from service.onnx_session import check_device, cpu_limit, open_session
from tests.tiny_bundle import fp32_model, pooled_model


@pytest.fixture
def session(tiny_bundle):
    return open_session(tiny_bundle.path("model.onnx"), device="cpu", threads=1)


def batch(rows: int, length: int):
    ids = np.random.default_rng(0).integers(4, 250, (rows, length))
    return ids, np.ones_like(ids)


def test_a_graph_gives_one_unit_vector_a_row(session):
    vectors = session(*batch(3, 5))
    assert vectors.shape == (3, 16)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_several_threads_may_call_one_session(session):
    expected = session(*batch(4, 9))
    with ThreadPoolExecutor(4) as pool:
        for vectors in pool.map(lambda _: session(*batch(4, 9)), range(40)):
            np.testing.assert_array_equal(vectors, expected)


def test_a_batch_that_the_graph_cannot_run_fails_alone(session):
    ids, mask = batch(2, 4)
    with pytest.raises(EngineFailure, match=r"model.onnx: batch of shape \(2, 4\)"):
        session(ids + 100_000, mask)  # no such rows in the table
    with pytest.raises(EngineFailure):
        session(ids, mask[:, :2].astype(np.float32))
    assert session(ids, mask).shape == (2, 16)


def test_a_closed_session_fails_and_may_be_closed_again(session):
    session.close()
    session.close()
    with pytest.raises(EngineFailure, match="closed"):
        session(*batch(1, 1))


@pytest.mark.parametrize("data", [b"", b"garbage"])
def test_a_file_that_is_no_model_is_an_invalid_bundle(tmp_path, data):
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(BundleInvalid, match=r"model.onnx: ONNX Runtime refuses it"):
        open_session(tmp_path / "model.onnx", device="cpu", threads=1)


def test_a_model_of_an_unknown_opset_or_operator_is_an_invalid_bundle(tmp_path):
    path = tmp_path / "model.onnx"
    table = np.ones((4, 2), dtype=np.float32)
    future = fp32_model(table)
    future.opset_import[0].version = 999
    path.write_bytes(future.SerializeToString())
    with pytest.raises(BundleInvalid, match="999"):
        open_session(path, device="cpu", threads=1)
    unknown = pooled_model(
        [helper.make_node("Imagined", ["input_ids"], ["embedded"])], [], dimension=2
    )
    path.write_bytes(unknown.SerializeToString())
    with pytest.raises(BundleInvalid, match="Imagined"):
        open_session(path, device="cpu", threads=1)


def test_weights_that_are_missing_beside_the_graph_are_an_invalid_bundle(tmp_path):
    model = fp32_model(np.ones((4, 2), dtype=np.float32), weights=tmp_path / "w.safetensors")
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "w.safetensors").unlink()
    with pytest.raises(BundleInvalid, match=r"w\.safetensors"):
        open_session(tmp_path / "model.onnx", device="cpu", threads=1)


@pytest.mark.parametrize("offset", [0, 1, 7, 8, 100, 4097])
def test_weights_load_from_any_byte_of_another_file(tmp_path, offset):
    table = np.random.default_rng(1).standard_normal((50, 10), dtype=np.float32)
    (tmp_path / "w.safetensors").write_bytes(b"x" * offset + table.tobytes() + b"tail")
    tensor = TensorProto(
        name="table", data_type=1, dims=table.shape, data_location=TensorProto.EXTERNAL
    )
    places = {"location": "w.safetensors", "offset": str(offset), "length": str(table.nbytes)}
    for key, value in places.items():
        tensor.external_data.add(key=key, value=value)
    model = pooled_model(
        [helper.make_node("Gather", ["table", "input_ids"], ["embedded"])], [tensor], dimension=10
    )
    onnx.save_model(model, tmp_path / "model.onnx")
    session = open_session(tmp_path / "model.onnx", device="cpu", threads=1)
    ids = np.arange(50)[:, None]
    expected = table / np.linalg.norm(table, axis=1, keepdims=True)
    np.testing.assert_allclose(session(ids, np.ones_like(ids)), expected, rtol=1e-6)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is there"
)
def test_cuda_asked_for_and_not_there_is_an_error_that_names_the_setting(tiny_bundle):
    with pytest.raises(ConfigurationError, match="ISOGLOSS_DEVICE is cuda"):
        open_session(tiny_bundle.path("model.onnx"), device="cuda", threads=1)


def test_a_session_that_fell_back_to_the_cpu_is_refused():
    with pytest.raises(ConfigurationError, match="offers only CPUExecutionProvider"):
        check_device("cuda", ["CPUExecutionProvider"])
    check_device("cuda", ["CUDAExecutionProvider", "CPUExecutionProvider"])
    check_device("cpu", ["CPUExecutionProvider"])


@pytest.mark.gpu
def test_cuda_and_cpu_give_the_same_vectors(tiny_bundle, session):
    cuda = open_session(tiny_bundle.path("model.onnx"), device="cuda", threads=1)
    np.testing.assert_allclose(cuda(*batch(8, 33)), session(*batch(8, 33)), atol=1e-5)


CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/", {}, CORES),
        ("0::/", {"cpu.max": "max 100000\n"}, CORES),
        ("0::/", {"cpu.max": "100000 100000\n"}, 1),
        ("0::/", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/", {"cpu.max": "190000 100000\n"}, 1),
        ("0::/", {"cpu.max": "100000000 100000\n"}, CORES),
        ("0::/a/b", {"a/cpu.max": "100000 100000\n", "a/b/cpu.max": "max 100000\n"}, 1),
        ("0::/not/in/this/mount", {"cpu.max": "100000 100000\n"}, 1),
        ("4:cpu,cpuacct:/", {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n"}, CORES),
        (
            "9:name=systemd:/x\n4:cpu,cpuacct:/docker/1",
            {
                "cpu,cpuacct/docker/1/cpu.cfs_quota_us": "100000\n",
                "cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000\n",
            },
            1,
        ),
        ("0::/", {"cpu.max": "100000 0\n"}, CORES),
        ("0::/", {"cpu.max": "nonsense"}, CORES),
    ],
)
def test_the_cores_are_those_of_the_cgroup(tmp_path, membership, files, cores):
    for name, text in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(text)
    (tmp_path / "self").write_text(membership)
    assert cpu_limit(cgroups=tmp_path / "cgroup", membership=tmp_path / "self") == cores


def test_the_cores_of_this_machine_can_be_counted(tmp_path):
    assert 1 <= cpu_limit() <= os.cpu_count()
    assert cpu_limit(cgroups=tmp_path, membership=tmp_path / "absent") == CORES


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
def test_the_cores_are_those_that_the_process_may_run_on():
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"
        "from service.onnx_session import cpu_limit; print(cpu_limit())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "1\n"
