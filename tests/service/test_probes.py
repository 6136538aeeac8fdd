"""Probes: what survives the file, and what is refused of one."""

from pathlib import Path

import numpy as np
import pytest

from service.bundle import write_bundle
from service.errors import BundleInvalid
from service.probes import Probes
from tests.tiny_bundle import (
    build_tiny_bundle,
    declared,
)


@pytest.fixture
def folder(tmp_path) -> Path:
    return build_tiny_bundle(tmp_path / "tiny").folder


def probes(**changes) -> Probes:
    fields = {
        "texts": ["a", "b"],
        "roles": ["query", "passage"],
        "languages": ["en", "de"],
        "vectors": {"fp32": np.eye(2, 16, dtype=np.float32)},
    }
    return Probes(**fields | changes)


def test_probes_survive_a_round_trip_in_any_script(tmp_path):
    texts = ["नदी", "河水 🌊"]
    probes(texts=texts).save(tmp_path / "probes.npz")
    loaded = Probes.load(tmp_path / "probes.npz")
    assert loaded.texts == texts
    assert loaded.roles == ["query", "passage"]
    np.testing.assert_array_equal(loaded.vectors["fp32"], np.eye(2, 16))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"texts": ["a"]}, "differ in length"),
        ({"roles": ["query", "title"]}, "role 'title'"),
        ({"vectors": {}}, "no vectors of fp32"),
        ({"vectors": {"fp32": np.eye(3, 16)}}, r"not float32 \[texts, d\]"),
        ({"vectors": {"fp32": np.zeros(2)}}, r"not float32 \[texts, d\]"),
        ({"vectors": {"fp32": np.eye(2, 8)}}, "8 dimensions, not 16"),
    ],
)
def test_probes_that_do_not_fit_are_refused(folder, changes, reason):
    probes(**changes).save(folder / "probes.npz")
    with pytest.raises(BundleInvalid, match=f"probes.npz: .*{reason}"):
        write_bundle(folder, **declared())


def test_probes_with_pickles_or_bombs_are_refused(folder, tmp_path):
    path = folder / "probes.npz"
    np.savez(path, texts=np.array([{"a": 1}], dtype=object))
    with pytest.raises(BundleInvalid, match=r"probes.npz: .*allow_pickle=False"):
        Probes.load(path)
    np.savez_compressed(path, texts=np.zeros(2**28 + 1, dtype=np.int8))
    with pytest.raises(BundleInvalid, match=r"unpacks to 268435"):
        Probes.load(path)
    path.write_bytes(b"no zip")
    with pytest.raises(BundleInvalid, match=r"probes.npz"):
        Probes.load(path)
