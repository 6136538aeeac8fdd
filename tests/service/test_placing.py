"""Placing: a bundle comes into a registry as a whole or not at all, whoever else is at it."""

import errno
import fcntl
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from service import bundle as bundle_module
from service import placing
from service.bundle import Bundle, read_manifest, write_bundle
from service.errors import BundleInvalid, ConfigurationError, Conflict, StorageFull
from service.placing import DRAFT, LOCK, VersionTaken, free_version, place_bundle
from service.registry import Registry
from service.sealed_folder import copy_durably
from tests.tiny_bundle import build_tiny_bundle, declared, edit_manifest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path):
    """A registry with nothing in it that is one's own."""
    (tmp_path / "models" / ".git").mkdir(parents=True)
    return tmp_path / "models"


@pytest.fixture
def source(tmp_path):
    """A bundle that lies elsewhere: `tiny/1`."""
    return build_tiny_bundle(tmp_path / "source").folder


def contents(folder):
    """Every file below a folder with its bytes; the lock is nobody's business."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != LOCK)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def there(root):
    """Every folder of the registry but its own `.git`, and no lock."""
    folders = sorted(path for path in root.rglob("*") if path.is_dir() and path.name != ".git")
    return [str(path.relative_to(root)) for path in folders]


def test_a_bundle_is_placed_by_its_name_and_version(root, source, tmp_path):
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text("{}")
    write_bundle(source, **declared())
    placed = place_bundle(source, root)
    assert placed.folder == root / "tiny" / "1"
    assert placed == Registry(root).find("tiny/1") == Bundle.open(placed.folder)
    assert contents(placed.folder) == contents(source)
    place_bundle(build_tiny_bundle(tmp_path / "next", version="2").folder, root)
    assert there(root) == ["tiny", "tiny/1", "tiny/1/1_Pooling", "tiny/2"]


def test_a_placed_bundle_may_be_read_by_whoever_may_read_the_registry(root, source):
    (source / "model.onnx").chmod(0o600)
    umask = os.umask(0o022)
    try:
        folder = place_bundle(source, root).folder
    finally:
        os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777 == 0o755


def test_placing_the_same_bundle_again_changes_nothing(root, source):
    first = place_bundle(source, root)
    before = (first.folder / "bundle.json").stat()
    assert place_bundle(source, root) == first
    assert place_bundle(first.folder, root) == first  # from the registry itself
    after = (first.folder / "bundle.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_other_content_of_the_same_version_is_refused_and_a_free_one_named(root, source, tmp_path):
    place = place_bundle(source, root).folder
    build_tiny_bundle(root / "tiny" / "4", version="4", seed=4)
    other = build_tiny_bundle(tmp_path / "other", seed=1).folder
    before = contents(root)
    with pytest.raises(VersionTaken, match=r"tiny/1 is there with other content.* 5 is free") as no:
        place_bundle(other, root)
    assert f"{place} and {other} differ in model.safetensors, probes.npz" in str(no.value)
    assert no.value.free == "5"
    edit_manifest(source, languages=["en"])
    with pytest.raises(VersionTaken, match=r"differ in bundle\.json"):
        place_bundle(source, root)
    assert contents(root) == before


def test_a_damaged_bundle_in_the_place_is_not_overwritten(root, source):
    place = place_bundle(source, root).folder
    (place / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(Conflict, match=r"tiny/1 is in the way .* damaged: model\.onnx: SHA-256"):
        place_bundle(source, root)
    Registry(root).remove("tiny", "1")
    place_bundle(source, root)
    assert Registry(root).find("tiny/1")


def test_a_name_whose_folder_is_a_bundle_has_it_and_no_room_for_another_version(root, tmp_path):
    flat = build_tiny_bundle(root / "tiny")
    assert place_bundle(flat.folder, root) == flat
    other = build_tiny_bundle(tmp_path / "other", version="2").folder
    with pytest.raises(Conflict, match=r"is tiny/1, .*; move it to .*/tiny/1 before .* as 2"):
        place_bundle(other, root)


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_name_that_is_not_a_folder_of_the_registry_is_a_conflict(root, source, tmp_path, kind):
    (tmp_path / "outside").mkdir()
    if kind == "link":
        (root / "tiny").symlink_to(tmp_path / "outside", target_is_directory=True)
    else:
        (root / "tiny").write_text("")
    with pytest.raises(Conflict, match="is not a folder"):
        place_bundle(source, root)
    assert not contents(tmp_path / "outside")


def test_a_version_that_leads_out_of_the_registry_is_a_conflict(root, source):
    (root / "tiny").mkdir()
    (root / "tiny" / "1").symlink_to(source, target_is_directory=True)
    with pytest.raises(Conflict, match=r"tiny/1 leads out of"):
        place_bundle(source, root)


def test_a_source_with_a_link_in_it_is_refused_but_may_be_named_by_one(root, source, tmp_path):
    (tmp_path / "latest").symlink_to(source, target_is_directory=True)
    assert place_bundle(tmp_path / "latest", root).folder == root / "tiny" / "1"
    (source / "model.onnx").rename(tmp_path / "model.onnx")
    (source / "model.onnx").symlink_to(tmp_path / "model.onnx")
    with pytest.raises(BundleInvalid, match=r"model\.onnx: neither a plain file"):
        place_bundle(source, root)


def test_a_source_that_is_no_bundle_leaves_the_registry_alone(root, source, tmp_path):
    with pytest.raises(BundleInvalid, match=r"bundle\.json: missing"):
        place_bundle(tmp_path / "absent", root)
    (source / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(BundleInvalid, match=r"model\.onnx: SHA-256"):
        place_bundle(source, root)
    assert [path.name for path in root.iterdir()] == [".git"]


def test_a_source_that_changes_while_it_is_copied_is_refused(root, source, monkeypatch):
    def spoil(origin, target, names):
        copy_durably(origin, target, names)
        (target / "probes.npz").write_bytes(b"other bytes")

    def exchange(origin, target, names):
        edit_manifest(source, languages=["en"])
        copy_durably(origin, target, names)

    monkeypatch.setattr(placing, "copy_durably", spoil)
    with pytest.raises(BundleInvalid, match=r"source: the copy of probes\.npz: SHA-256"):
        place_bundle(source, root)
    monkeypatch.setattr(placing, "copy_durably", exchange)
    with pytest.raises(BundleInvalid, match="was changed while it was copied"):
        place_bundle(source, root)
    assert there(root) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_leaves_nothing_behind(root, source, monkeypatch, number):
    def fill(origin, target, names):
        (target / "tokenizer.json").write_bytes(b"half of it")
        raise OSError(number, os.strerror(number), str(target))

    monkeypatch.setattr(placing, "copy_durably", fill)
    with pytest.raises(StorageFull, match=r"\(ISOGLOSS_MODELS_DIR\) is full"):
        place_bundle(source, root)
    assert there(root) == []


MOUNTED = """
import sys
from pathlib import Path
from service.errors import ServiceError
from service.placing import place_bundle
try:
    place_bundle(Path(sys.argv[2]), Path(sys.argv[1]))
except ServiceError as error:
    print(error.code, error.detail)
print(sorted(path.name for path in Path(sys.argv[1]).iterdir()))
"""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("size=16k", r"storage_full .* has \d+ bytes, .*ISOGLOSS_MODELS_DIR\) only \d+ left"),
        ("ro", r"configuration_error .*ISOGLOSS_MODELS_DIR\) cannot be written: .*Read-only file"),
    ],
)
def test_a_disk_that_is_too_small_or_read_only_is_an_error_that_names_it(
    source, tmp_path, options, expected
):
    (tmp_path / "mount").mkdir()
    mount = ["unshare", "-rm", "sh", "-ec", f'mount -t tmpfs -o {options} none "$1"; shift; "$@"']
    mount += ["sh", tmp_path / "mount"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*mount, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("nothing may be mounted here")
    arguments = [sys.executable, "-c", MOUNTED, tmp_path / "mount", source]
    done = subprocess.run(
        [*mount, *arguments], check=False, cwd=ROOT, capture_output=True, text=True
    )
    assert re.match(expected, done.stdout), done.stderr
    assert done.stdout.splitlines()[-1] in {"[]", f"['{LOCK}']"}


def test_a_registry_that_is_not_there_is_not_made(source, tmp_path):
    with pytest.raises(ConfigurationError, match=r"absent \(ISOGLOSS_MODELS_DIR\) cannot be writ"):
        place_bundle(source, tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


CRASH = """
import os, sys
from pathlib import Path
from service import placing
from service.registry import Registry
setattr(placing, sys.argv[1], lambda *_: os._exit(9))
models = Registry(Path(sys.argv[2]))
models.remove("old", "1") if sys.argv[1] == "_delete" else models.add(Path(sys.argv[3]))
"""


@pytest.mark.parametrize("point", ["copy_durably", "_check_copy", "_delete"])
def test_a_crash_leaves_only_what_is_hidden_until_the_registry_is_changed_again(
    root, source, tmp_path, point
):
    for name in ("old", "other"):
        build_tiny_bundle(root / name / "1", name=name)
    arguments = [sys.executable, "-c", CRASH, point, root, source]
    assert subprocess.run(arguments, check=False, cwd=ROOT).returncode == 9
    names = [entry.name for entry in Registry(root).list()]
    assert names == (["other"] if point == "_delete" else ["old", "other"])
    (left,) = root.rglob(f"{DRAFT}*")
    assert left.parent == root / ("old" if point == "_delete" else "tiny")
    Registry(root).remove("other", "1")
    assert there(root) == ([] if point == "_delete" else ["old", "old/1"])


def test_the_sweep_does_not_follow_links_out_of_the_registry(root, source, tmp_path):
    (tmp_path / "other" / f"{DRAFT}theirs").mkdir(parents=True)
    (root / "other").symlink_to(tmp_path / "other", target_is_directory=True)
    place_bundle(source, root)
    assert (tmp_path / "other" / f"{DRAFT}theirs").is_dir()
    assert (root / ".git").is_dir()


def test_many_who_place_at_once_leave_one_whole_bundle(root, source, tmp_path):
    other = build_tiny_bundle(tmp_path / "other", seed=1).folder

    def place(folder):
        try:
            return place_bundle(folder, root).folder
        except VersionTaken:
            return folder

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(place, [source, other] * 8))
    winner, loser = sorted(
        (source, other), key=lambda each: contents(each) != contents(root / "tiny" / "1")
    )
    assert contents(winner) == contents(root / "tiny" / "1")
    assert outcomes.count(loser) == outcomes.count(root / "tiny" / "1") == 8
    assert there(root) == ["tiny", "tiny/1"]


def test_one_that_is_removed_while_it_is_looked_at_is_placed_again(root, source, monkeypatch):
    placed = place_bundle(source, root)

    def remove_first(folder):
        if folder == placed.folder:
            monkeypatch.undo()
            Registry(root).remove("tiny", "1")
        return read_manifest(folder)

    monkeypatch.setattr(bundle_module, "read_manifest", remove_first)
    assert place_bundle(source, root) == placed
    assert Registry(root).find("tiny/1") == placed


def test_who_changes_the_registry_waits_for_whoever_is_changing_it(root, source, monkeypatch):
    asked = Event()
    flock = fcntl.flock

    def asking(*arguments):
        asked.set()
        flock(*arguments)

    monkeypatch.setattr(placing.fcntl, "flock", asking)
    theirs = root / f"{DRAFT}theirs"
    theirs.mkdir()
    with (root / LOCK).open("ab") as lock, ThreadPoolExecutor(1) as pool:
        flock(lock, fcntl.LOCK_EX)
        placed = pool.submit(place_bundle, source, root)
        assert asked.wait(10)
        assert theirs.is_dir()
        assert not placed.done()
        flock(lock, fcntl.LOCK_UN)
        assert placed.result(10).folder == root / "tiny" / "1"
    assert not theirs.exists()


@pytest.mark.parametrize(
    ("version", "others", "free"),
    [
        ("1.0.0", ["1.0.0"], "1.0.1"),
        ("1.0.0", ["1.0.0", "1.0.9", "1.0.10", "2.0.0"], "1.0.11"),
        ("7", [], "8"),
        ("2-rc", ["2-rc", "3"], "3-rc"),
        ("beta", ["beta"], "beta-2"),
    ],
)
def test_the_version_after_one_is_above_all_of_its_kind(tmp_path, version, others, free):
    for name in others:
        (tmp_path / "tiny" / name).mkdir(parents=True)
    assert free_version(tmp_path / "tiny", version) == free
