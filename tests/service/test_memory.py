"""Memory: what is free by the tightest limit, what is held, and that freed memory is given back."""

import sys

import numpy as np
import pytest

from service.memory import available_bytes, data_bytes, peak_bytes, resident_bytes, trim

LINUX = sys.platform == "linux"
MACHINE = "MemTotal:       16000 kB\nMemFree:         1000 kB\nMemAvailable:    4000 kB\n"
FREE = 4000 * 1024


@pytest.mark.parametrize(
    ("membership", "files", "free"),
    [
        ("0::/", {}, FREE),
        ("0::/", {"memory.max": "max\n", "memory.current": "1000\n"}, FREE),
        ("0::/", {"memory.max": "900000\n", "memory.current": "100000\n"}, 800_000),
        (
            "0::/",
            {
                "memory.max": "900000\n",
                "memory.current": "800000\n",
                "memory.stat": "anon 200000\nfile 600000\ninactive_file 500000\n",
            },
            600_000,
        ),
        (
            "0::/",
            {"memory.max": "max\n", "memory.high": "300000\n", "memory.current": "100000\n"},
            200_000,
        ),
        ("0::/", {"memory.max": "100000\n", "memory.current": "200000\n"}, 0),
        ("0::/", {"memory.max": "100000\n"}, FREE),
        (
            "0::/a/b",
            {
                "a/memory.max": "500000\n",
                "a/memory.current": "400000\n",
                "a/b/memory.max": "900000\n",
                "a/b/memory.current": "10\n",
            },
            100_000,
        ),
        (
            "0::/not/in/this/mount",
            {"memory.max": "900000\n", "memory.current": "100000\n"},
            800_000,
        ),
        (
            "9:name=systemd:/x\n4:memory:/docker/1\n0::/",
            {
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
                "memory/memory.usage_in_bytes": "999999999\n",
                "memory/docker/1/memory.limit_in_bytes": "900000\n",
                "memory/docker/1/memory.usage_in_bytes": "500000\n",
                "memory/docker/1/memory.stat": "inactive_file 7\ntotal_inactive_file 300000\n",
            },
            700_000,
        ),
        ("4:cpu,cpuacct:/", {"cpu,cpuacct/memory.limit_in_bytes": "1\n"}, FREE),
        ("0::/", {"memory.max": "nonsense", "memory.current": "1"}, FREE),
    ],
)
def test_what_is_free_is_what_the_tightest_limit_leaves(tmp_path, membership, files, free):
    for name, text in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(text)
    (tmp_path / "self").write_text(membership)
    (tmp_path / "meminfo").write_text(MACHINE)
    found = available_bytes(
        cgroups=tmp_path / "cgroup", membership=tmp_path / "self", meminfo=tmp_path / "meminfo"
    )
    assert found == free


def test_where_the_kernel_does_not_say_what_is_free_is_unknown(tmp_path):
    absent = tmp_path / "absent"
    assert available_bytes(cgroups=absent, membership=absent, meminfo=absent) is None
    assert resident_bytes(status=absent) is None
    assert data_bytes(status=absent) is None


def test_a_peak_is_known_everywhere(tmp_path):
    held = peak_bytes(status=tmp_path / "absent")
    assert 10**6 < held < 10**12


@pytest.mark.skipif(not LINUX, reason="/proc is Linux's")
def test_this_machine_has_memory_and_this_process_some_of_it():
    held = resident_bytes()
    assert 10**6 < held <= peak_bytes() < 10**12
    assert available_bytes() > 10**6
    assert data_bytes() > 10**6


@pytest.mark.skipif(not LINUX, reason="/proc is Linux's")
def test_memory_that_is_written_to_is_held_and_then_given_back():
    before, reserved = resident_bytes(), data_bytes()
    block = np.ones(64 << 20, dtype=np.uint8)
    assert resident_bytes() - before > 60 << 20
    assert data_bytes() - reserved > 60 << 20
    del block
    trim()
    assert resident_bytes() - before < 8 << 20
    assert peak_bytes() - before > 60 << 20


def test_memory_can_be_trimmed_at_any_time():
    trim()
    trim()
