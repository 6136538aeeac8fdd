"""The bundle: what opens, and what is refused before anything parses it."""

import json
import os
from pathlib import Path

import pytest

from service.bundle import Bundle, read_manifest, restate, write_bundle
from service.encoder import Encoder
from service.errors import BundleInvalid
from service.golden import GoldenQuery, write_golden
from tests.tiny_bundle import build_tiny_bundle, declared


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


def test_the_manifest_alone_is_read_without_touching_the_rest(folder):
    (folder / "model.onnx").write_bytes(b"broken")
    assert read_manifest(folder).name == "tiny"


def test_golden_queries_are_files_of_the_bundle_that_shape_no_vector(folder):
    space = Bundle.open(folder).manifest.space
    assert Bundle.open(folder).golden() == []
    queries = [GoldenQuery({"en": "a", "de": "b"}, {"fr": "c"})]
    write_golden(folder / "golden.jsonl", queries)
    with pytest.raises(BundleInvalid, match=r"golden.jsonl: not listed"):
        Bundle.open(folder)
    bundle = write_bundle(folder, **declared())
    assert bundle.manifest.space == space
    assert Bundle.open(folder).golden() == queries


def test_golden_queries_that_cannot_be_read_are_not_sealed(folder):
    (folder / "golden.jsonl").write_text('{"query": {"en": "a"}}\n')
    with pytest.raises(BundleInvalid, match=r"golden.jsonl:1: not an object"):
        write_bundle(folder, **declared())
    assert not (folder / "bundle.json").exists()


def test_a_bundle_can_be_stated_again_but_not_with_other_vectors(folder):
    before = Bundle.open(folder).manifest
    again = restate(folder, version="2", languages=["en"])
    assert Bundle.open(folder) == again
    assert (again.manifest.version, again.manifest.languages) == ("2", ["en"])
    assert again.manifest.space == before.space
    for change in ({"prompts": {"query": "q: "}}, {"pooling": "cls"}, {"version": "/"}):
        with pytest.raises(BundleInvalid, match=r"bundle.json: (space of fp32|version)"):
            restate(folder, **change)
    assert Bundle.open(folder) == again


def test_a_manifest_without_a_claim_is_written_as_it_always_was(folder):
    assert "compatible_with" not in json.loads((folder / "bundle.json").read_text())
