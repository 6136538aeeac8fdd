"""The bundle: what opens, and what is refused before anything parses it."""

import os
from pathlib import Path

import numpy as np
import pytest

from service.bundle import Bundle, Probes, read_manifest, write_bundle
from service.encoder import Encoder
from service.errors import BundleInvalid
from tests.tiny_bundle import (
    build_tiny_bundle,
    declared,
)


@pytest.fixture
def folder(tmp_path) -> Path:
    return build_tiny_bundle(tmp_path / "tiny").folder


GOLDEN = Path(__file__).parents[1] / "data" / "bundle_format_1"


def test_a_bundle_opens_as_it_was_written(tiny_bundle):
    opened = Bundle.open(tiny_bundle.folder)
    assert opened == tiny_bundle
    assert opened.manifest.dimensions == [8, 16]
    assert opened.manifest.space.keys() == {"fp32", "int8"}
    assert opened.path("model.onnx") == opened.folder / "model.onnx"
    probes = opened.probes()
    assert len(probes.texts) == len(probes.languages) == 8
    assert probes.vectors["int8"].shape == (8, 16)


def test_the_same_ingredients_give_the_same_bytes(tmp_path):
    first = build_tiny_bundle(tmp_path / "a")
    second = build_tiny_bundle(tmp_path / "b")
    assert first.manifest == second.manifest
    assert (first.folder / "bundle.json").read_bytes() == (
        second.folder / "bundle.json"
    ).read_bytes()


def test_format_1_of_the_past_still_opens_and_gives_the_same_vectors():
    bundle = Bundle.open(GOLDEN)
    assert bundle.manifest.space == {
        "fp32": "c5f644289d9c0af76cdb4d025fa06a5d",
        "int8": "a5ee0376f46afa2c768bb210fb461905",
    }
    for precision in ("fp32", "int8"):
        Encoder.open(bundle, precision=precision, threads=1).verify_probes()


@pytest.mark.parametrize(
    "name", ["model.onnx", "model.safetensors", "tokenizer.json", "probes.npz"]
)
def test_a_changed_or_missing_file_is_refused_by_name(folder, name):
    path = folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleInvalid, match=f"{name}: SHA-256"):
        Bundle.open(folder)
    path.unlink()
    with pytest.raises(BundleInvalid, match=f"{name}: listed in bundle.json, but missing"):
        Bundle.open(folder)


def test_a_file_beyond_its_size_is_refused_before_it_is_read(folder):
    os.truncate(folder / "tokenizer.json", 128 * 2**20 + 1)  # sparse: takes no space
    with pytest.raises(
        BundleInvalid, match=r"tokenizer.json: 134217729 bytes, more than 134217728"
    ):
        Bundle.open(folder)


def test_writing_refuses_what_opening_would_and_leaves_no_manifest(folder):
    (folder / "tokenizer.json").rename(folder.parent / "tokenizer.json")
    with pytest.raises(BundleInvalid, match=r"tokenizer.json: missing"):
        write_bundle(folder, **declared())
    (folder.parent / "tokenizer.json").rename(folder / "tokenizer.json")
    with pytest.raises(BundleInvalid, match=r"sentence_embedding has shape"):
        write_bundle(folder, **declared(dimension=8))
    with pytest.raises(BundleInvalid, match=r"version"):
        write_bundle(folder, **declared(version="../1"))
    with pytest.raises(BundleInvalid, match=r"dimension"):
        write_bundle(folder, **{k: v for k, v in declared().items() if k != "dimension"})
    with pytest.raises(BundleInvalid, match=r"nan|JSON"):
        write_bundle(folder, **declared(evaluation={"score": float("nan")}))
    assert not (folder / "bundle.json").exists()
    assert write_bundle(folder, **declared()) == Bundle.open(folder)


def test_a_bundle_is_also_a_plain_folder_of_other_files(folder):
    (folder / "modules.json").write_text("[]")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    bundle = write_bundle(folder, **declared())
    assert "1_Pooling/config.json" in Bundle.open(folder).manifest.files
    with pytest.raises(BundleInvalid, match=r"other.json: not a file of tiny"):
        bundle.path("other.json")


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


def test_the_manifest_alone_is_read_without_touching_the_rest(folder):
    (folder / "model.onnx").write_bytes(b"broken")
    assert read_manifest(folder).name == "tiny"
