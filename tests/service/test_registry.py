"""The registry: which bundles lie in a folder, which one a name means, and what is wrong with the rest."""

import random
import re
import shutil

import pytest

from service.encoder import Encoder
from service.errors import BundleInvalid, ConfigurationError, InvalidInput, NotFound
from service.placing import LOCK
from service.registry import Registry, natural
from tests.tiny_bundle import build_tiny_bundle


@pytest.fixture
def root(tmp_path):
    """Two versions of `tiny` in folders of their own, and `flat` without."""
    models = tmp_path / "models"
    build_tiny_bundle(models / "tiny" / "1.9", version="1.9")
    build_tiny_bundle(models / "tiny" / "1.10", version="1.10", seed=1)
    build_tiny_bundle(models / "flat", name="flat", version="3", seed=2)
    (models / "README.md").write_text("not a bundle")
    (models / ".git").mkdir()
    return models


def test_the_list_has_every_version_in_natural_order(root):
    entries = Registry(root).list()
    assert [(entry.name, entry.version) for entry in entries] == [
        ("flat", "3"),
        ("tiny", "1.9"),
        ("tiny", "1.10"),
    ]
    assert all(entry.manifest and not entry.problem for entry in entries)


def test_an_empty_registry_is_a_registry(tmp_path):
    registry = Registry(tmp_path)
    assert registry.list() == []
    with pytest.raises(NotFound, match=r"no bundle tiny in .*ISOGLOSS_MODELS_DIR.*: none"):
        registry.find("tiny")


def test_a_root_that_is_no_folder_is_a_wrong_setting(tmp_path):
    with pytest.raises(ConfigurationError, match=r"ISOGLOSS_MODELS_DIR is .*absent"):
        Registry(tmp_path / "absent")


def test_a_name_alone_means_its_latest_version(root):
    registry = Registry(root)
    assert registry.find("tiny").manifest.version == "1.10"
    assert registry.find("tiny/1.9").manifest.version == "1.9"
    assert registry.find("flat").manifest.version == "3"
    assert registry.find("flat/3").manifest.name == "flat"


def test_an_unknown_name_is_answered_with_what_there_is(root):
    with pytest.raises(NotFound, match=re.escape("flat/3, tiny/1.9, tiny/1.10")):
        Registry(root).find("tiny/2")


@pytest.mark.parametrize(
    "reference",
    ["", "/", "../x", "tiny/", "tiny/..", "/etc", "Tiny", "tiny/1/2", "a" * 65, "tiny\n"],
)
def test_a_reference_that_could_be_a_path_is_refused(root, reference):
    with pytest.raises(InvalidInput, match=r"is not a bundle's name"):
        Registry(root).find(reference)


def test_a_space_finds_its_bundle_and_precision(root):
    build_tiny_bundle(root / "both", name="both", seed=3, precisions=("fp32", "int8"))
    registry = Registry(root)
    for name, precision in (("flat", "fp32"), ("both", "fp32"), ("both", "int8")):
        space = registry.find(name).manifest.space[precision]
        bundle, found = registry.by_space(space)
        assert (bundle.manifest.name, found) == (name, precision)
    with pytest.raises(NotFound, match=r"no bundle of space"):
        registry.by_space("0" * 32)


def test_a_damaged_bundle_does_not_hide_a_sound_one_of_the_same_space(root):
    space = Registry(root).find("tiny/1.9").manifest.space["fp32"]
    copy = build_tiny_bundle(root / "twin", name="twin", version="1")
    assert copy.manifest.space["fp32"] == space
    (copy.folder / "model.onnx").write_bytes(b"damaged")
    bundle, _ = Registry(root).by_space(space)
    assert bundle.manifest.name == "tiny"
    shutil.rmtree(root / "tiny")
    with pytest.raises(BundleInvalid, match=r"twin/1: model.onnx: SHA-256"):
        Registry(root).by_space(space)


def test_listing_is_cheap_and_finding_is_strict(root):
    (root / "flat" / "model.onnx").write_bytes(b"damaged")
    registry = Registry(root)
    assert registry.list()[0].manifest is not None
    with pytest.raises(BundleInvalid, match=r"flat/3: model.onnx: SHA-256"):
        registry.find("flat")


def test_an_invalid_bundle_is_listed_with_the_reason(root, tmp_path):
    (root / "tiny" / "1.9" / "bundle.json").write_text("{")
    (root / "tiny" / "2").mkdir()
    (root / "Bad Name").mkdir()
    (root / "Bad Name" / "1").mkdir()
    (root / "flat").rename(root / "renamed")
    shutil.copytree(root / "tiny" / "1.10", root / "tiny" / "3")
    build_tiny_bundle(tmp_path / "outside", name="link", seed=4)
    (root / "link").symlink_to(tmp_path / "outside", target_is_directory=True)
    registry = Registry(root)
    problems = {f"{e.name}/{e.version}": e.problem for e in registry.list() if not e.manifest}
    assert "bundle.json" in problems["tiny/1.9"]
    assert "missing" in problems["tiny/2"]
    assert "does not match" in problems["Bad Name/1"]
    assert "says flat/3" in problems["renamed/"]
    assert "says tiny/1.10" in problems["tiny/3"]
    assert "leads out of" in problems["link/"]
    with pytest.raises(BundleInvalid, match=r"tiny/3: bundle.json: says tiny/1.10"):
        registry.find("tiny")


def test_versions_sort_as_people_count():
    versions = ["1", "1.2", "1.9", "1.10", "2", "10", "2026-01-02", "2026-01-10"]
    shuffled = versions[:]
    random.Random(0).shuffle(shuffled)
    assert sorted(shuffled, key=natural) == versions


def test_a_bundle_that_is_added_is_an_entry(root, tmp_path):
    registry = Registry(root)
    entry = registry.add(build_tiny_bundle(tmp_path / "new", name="new", seed=7).folder)
    assert (entry.name, entry.version, entry.folder) == ("new", "1", root / "new" / "1")
    assert registry.entry("new", "1") == entry
    assert registry.find("new").manifest == entry.manifest


def test_an_entry_that_is_not_there_is_answered_with_what_there_is(root):
    with pytest.raises(NotFound, match=re.escape("no bundle tiny/2 in")):
        Registry(root).entry("tiny", "2")
    with pytest.raises(NotFound, match=re.escape("flat/3, tiny/1.9, tiny/1.10")):
        Registry(root).entry("..", "tiny")


def test_a_registry_that_cannot_be_written_still_knows_what_it_holds(root, tmp_path):
    other = build_tiny_bundle(tmp_path / "new", name="new").folder
    (root / LOCK).mkdir()  # nobody can open it for writing, not even root
    registry = Registry(root)
    assert registry.add(root / "tiny" / "1.9").version == "1.9"
    for change in (lambda: registry.add(other), lambda: registry.remove("tiny", "1.9")):
        with pytest.raises(ConfigurationError, match=r"ISOGLOSS_MODELS_DIR\) cannot be written"):
            change()
    assert registry.find("tiny/1.9")


def test_a_removed_version_is_gone_and_the_others_stay(root):
    registry = Registry(root)
    registry.remove("tiny", "1.10")
    assert registry.find("tiny").manifest.version == "1.9"
    registry.remove("tiny", "1.9")
    assert not (root / "tiny").exists()
    registry.remove("flat", "3")
    assert registry.list() == []
    assert (root / "README.md").is_file()
    with pytest.raises(NotFound, match=r"no bundle flat/3 in .*: none"):
        registry.remove("flat", "3")


def test_an_open_encoder_outlives_its_files(root):
    registry = Registry(root)
    encoder = Encoder.open(registry.find("flat"), threads=1)
    registry.remove("flat", "3")
    assert encoder.infer(encoder.tokenize(["still here"], "query")).shape == (1, 16)


def test_what_is_no_bundle_can_be_removed_and_of_a_link_only_the_link(root, tmp_path):
    outside = build_tiny_bundle(tmp_path / "outside", name="link").folder
    (root / "link").symlink_to(outside, target_is_directory=True)
    (root / "tiny" / "2").mkdir()
    registry = Registry(root)
    registry.remove("link", "")
    registry.remove("tiny", "2")
    assert not (root / "link").is_symlink()
    assert not (root / "tiny" / "2").exists()
    assert (outside / "bundle.json").is_file()
