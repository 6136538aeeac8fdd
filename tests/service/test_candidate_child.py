"""The candidate's own process: it gives up what it does not need, and answers with one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.candidate_child import examine

ROOT = Path(__file__).parents[2]
LIMITS = """
import json, os, resource, sys
from service.candidate_child import depend_on, limit
from service.memory import data_bytes
depend_on(int(sys.argv[1]))
before = data_bytes()
limit(device=sys.argv[2], threads=2, timeout_s=10, memory_bytes=100_000_000)
names = ("CORE", "CPU", "FSIZE", "DATA")
found = {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in names}
oom = open("/proc/self/oom_score_adj").read().strip()
print(json.dumps({"before": before, "limits": found, "oom": oom}))
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="limits are Linux's")


def task_of(bundle, **fields) -> dict:
    return {
        "parent": os.getpid(),
        "folder": str(bundle.folder),
        "precision": "fp32",
        "device": "cpu",
        "threads": 1,
        "batch_tokens": 256,
        "timeout_s": 30,
        "memory_bytes": 200_000_000,
    } | fields


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_a_bundle_is_examined_and_what_it_took_is_told(tiny_bundle):
    answer = examine(task_of(tiny_bundle, precision="int8"))
    assert answer["code"] is None
    assert answer["space"] == tiny_bundle.manifest.space["int8"]
    assert answer["memory_bytes"] >= 0
    assert answer["seconds"] > 0


def test_what_is_wrong_with_a_bundle_is_told_by_its_code(tiny_bundle, tmp_path):
    assert examine(task_of(tiny_bundle, device="cuda"))["code"] == "configuration_error"
    answer = examine(task_of(tiny_bundle, folder=str(tmp_path)))
    assert answer["code"] == "bundle_invalid"
    assert answer["detail"].startswith("bundle.json: missing")


def test_the_answer_is_the_only_line_on_standard_output(tiny_bundle):
    done = run("-m", "service.candidate_child", json.dumps(task_of(tiny_bundle)))
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["space"] == tiny_bundle.manifest.space["fp32"]


@linux
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_candidate_gives_up_what_it_does_not_need(device):
    done = run("-c", LIMITS, str(os.getpid()), device)
    found = json.loads(done.stdout)
    limits = found["limits"]
    assert limits["CORE"] == [0, 0]
    assert limits["CPU"] == [30, 30]
    assert found["oom"] == "1000"
    if device == "cpu":
        assert limits["FSIZE"] == [0, 0]
        assert 100_000_000 < limits["DATA"][0] - found["before"] < 150_000_000
    else:
        assert limits["FSIZE"] != [0, 0]


@linux
def test_a_candidate_whose_parent_is_gone_ends_before_it_reads_anything(tiny_bundle):
    task = task_of(tiny_bundle, parent=os.getppid())
    done = run("-m", "service.candidate_child", json.dumps(task))
    assert done.returncode == 1
    assert "gone" in done.stderr
    assert not done.stdout
