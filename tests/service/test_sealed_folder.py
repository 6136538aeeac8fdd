"""The sealed folder: plain files with safe names and nothing else."""

import os
import shutil
from pathlib import Path

import pytest

from service.bundle import Bundle
from service.errors import BundleInvalid
from service.sealed_folder import copy_durably, list_files
from tests.tiny_bundle import (
    build_tiny_bundle,
)


@pytest.fixture
def folder(tmp_path) -> Path:
    return build_tiny_bundle(tmp_path / "tiny").folder


@pytest.mark.parametrize("name", [".hidden", "a b.json", "model.pkl", "code.py", "W.PTH", "ü.json"])
def test_a_file_of_an_unsafe_name_or_kind_is_refused(folder, name):
    (folder / name).write_text("")
    with pytest.raises(BundleInvalid, match=r"safe relative path|may hold code"):
        Bundle.open(folder)


def test_links_and_devices_are_refused(folder, tmp_path):
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    extra = folder / "extra.json"
    extra.symlink_to(outside)
    with pytest.raises(BundleInvalid, match=r"extra.json: neither a plain file"):
        Bundle.open(folder)
    extra.unlink()
    extra.symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(BundleInvalid, match=r"extra.json: neither a plain file"):
        Bundle.open(folder)
    extra.unlink()
    os.mkfifo(extra)
    with pytest.raises(BundleInvalid, match=r"extra.json: neither a plain file"):
        Bundle.open(folder)
    extra.unlink()
    extra.hardlink_to(folder / "model.onnx")
    with pytest.raises(BundleInvalid, match=r"extra.json: a hard link"):
        Bundle.open(folder)


def test_folders_too_deep_and_files_too_many_are_refused(folder):
    deep = folder / "a" / "b" / "c" / "d"
    deep.mkdir(parents=True)
    with pytest.raises(BundleInvalid, match=r"folders deeper than 3"):
        Bundle.open(folder)
    shutil.rmtree(folder / "a")
    for number in range(260):
        (folder / f"{number}.txt").write_text("")
    with pytest.raises(BundleInvalid, match=r"more than 256 files"):
        Bundle.open(folder)


def test_an_extra_file_is_refused_at_any_depth(folder):
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    with pytest.raises(BundleInvalid, match=r"1_Pooling/config.json: not listed"):
        Bundle.open(folder)


def test_a_copy_has_the_files_that_were_named_and_no_others(folder, tmp_path):
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    target = tmp_path / "copy"
    target.mkdir()
    copy_durably(folder, target, ["model.onnx", "1_Pooling/config.json"])
    assert list_files(target) == {"model.onnx": (folder / "model.onnx").stat().st_size,
                                  "1_Pooling/config.json": 2}  # fmt: skip
    assert (target / "model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()
