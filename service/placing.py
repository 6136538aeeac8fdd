"""How a bundle comes into a registry, `<root>/<name>/<version>/`, and how it leaves: as a whole.

Why a lock and drafts: several machines may share the folder, and whoever reads it takes no lock.
What is not whole lies under a hidden name, and whoever has the lock next sweeps it away.
"""

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from service.bundle import Bundle
from service.errors import BundleInvalid, ConfigurationError, Conflict, StorageFull
from service.manifest import MANIFEST
from service.sealed_folder import copy_durably, list_files, sync

LOCK = ".isogloss-lock"
"""Held by whoever changes the registry, on whichever machine that shares it."""
DRAFT = ".isogloss-draft-"
"""What is being placed or removed; without the lock on, what a crash left of it."""


class VersionTaken(Conflict):
    """The version is there with other content; `free` is one of its kind that is not there."""

    def __init__(self, detail: str, *, free: str) -> None:
        super().__init__(f"{detail}; {free} is free")
        self.free = free


def place_bundle(source: Path, root: Path) -> Bundle:
    """Copy a bundle in, and return it as it lies there; the very same one that does so stays.

    Blocks while another process changes the registry.

    Raises:
        BundleInvalid: the source breaks the contract, or was changed while it was copied.
        Conflict: its place is taken; `VersionTaken` if by other content of its version.
        ConfigurationError: the registry cannot be written.
        StorageFull: it does not fit; nothing is left behind.
    """
    try:
        bundle = Bundle.open(source.resolve())
    except OSError as error:
        raise BundleInvalid(f"{source}: {error.strerror}") from error
    root = root.resolve()
    # First without the lock: a registry that cannot be written may well hold the bundle.
    if there := _there(bundle, root):
        return there
    with changing(root):
        return _there(bundle, root) or _copied(bundle, root)


def remove_bundle(folder: Path, root: Path) -> None:
    """Take out what lies in a folder of the registry, by whoever is `changing` it."""
    draft = folder.with_name(DRAFT + secrets.token_hex(8))
    folder.rename(draft)
    sync(folder.parent)
    _delete(draft, root)


@contextmanager
def changing(root: Path) -> Iterator[None]:
    """One at a time; others wait. What the file system refuses becomes our own errors."""
    try:
        with (root / LOCK).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for draft in (*root.glob(f"{DRAFT}*"), *root.glob(f"[!.]*/{DRAFT}*")):
                if not draft.parent.is_symlink():
                    _delete(draft, root)
            yield
    except OSError as error:
        what = f"{root} (ISOGLOSS_MODELS_DIR)"
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFull(f"the disk of {what} is full", retry_after_s=30) from error
        raise ConfigurationError(f"{what} cannot be written: {error}") from error


def free_version(home: Path, version: str) -> str:
    """The version after this one: its last number, one above the highest of its kind that is there."""
    numbers = list(re.finditer(r"[0-9]+", version))
    if not numbers:
        return free_version(home, f"{version}-1")
    before, after = version[: numbers[-1].start()], version[numbers[-1].end() :]
    alike = re.compile(re.escape(before) + r"([0-9]+)" + re.escape(after))
    there = [path.name for path in home.iterdir()] if home.is_dir() else []
    found = [alike.fullmatch(other) for other in (*there, version)]
    return f"{before}{1 + max(int(match[1]) for match in found if match)}{after}"


def _there(bundle: Bundle, root: Path) -> Bundle | None:
    """This very bundle, where it lies in the registry; `Conflict` if something else has its place."""
    own, name, version = bundle.manifest, bundle.manifest.name, bundle.manifest.version
    home = root / name
    if home.is_symlink() or (home.exists() and not home.is_dir()):
        raise Conflict(f"{home} is not a folder, so {name}/{version} cannot be put there")
    flat = (home / MANIFEST).is_file()  # a registry also reads a bundle that lies in `<name>/`
    folder = home if flat else home / version
    if not folder.resolve().is_relative_to(root):
        raise Conflict(f"{folder} leads out of {root}, where no registry looks; remove it first")
    try:
        there = Bundle.open(folder)
    except (BundleInvalid, OSError) as error:
        if not os.path.lexists(folder):  # never was, or was removed just now
            return None
        raise Conflict(
            f"{folder} is in the way of {bundle.folder}, and damaged: {error}; remove it first"
        ) from error
    stated = there.manifest
    if flat and stated.version != version:
        raise Conflict(
            f"{home} is {name}/{stated.version}, with no folder for other versions beside it; "
            f"move it to {home / stated.version} before {bundle.folder} is added as {version}"
        )
    if stated != own:
        names = sorted(stated.files.keys() | own.files.keys())
        differing = [file for file in names if stated.files.get(file) != own.files.get(file)]
        raise VersionTaken(
            f"{name}/{version} is there with other content, and never changes: {folder} and "
            f"{bundle.folder} differ in {', '.join(differing[:5]) or MANIFEST}",
            free=free_version(home, version),
        )
    return there


def _copied(bundle: Bundle, root: Path) -> Bundle:
    """A copy in its place, which was made on the same disk, and verified there."""
    manifest = bundle.manifest
    place = root / manifest.name / manifest.version
    draft = place.with_name(DRAFT + secrets.token_hex(8))
    draft.mkdir(parents=True)
    try:
        _need_space(bundle, draft, root)
        copy_durably(bundle.folder, draft, (*manifest.files, MANIFEST))
        _check_copy(draft, bundle)
        draft.rename(place)
    except BaseException:
        _delete(draft, root)
        raise
    sync(place.parent)
    sync(root)
    return Bundle(place, manifest)


def _need_space(bundle: Bundle, draft: Path, root: Path) -> None:
    """Before anything is copied: a disk that is filled up is everybody's trouble."""
    disk = os.statvfs(draft)
    free = disk.f_bavail * disk.f_frsize
    needed = sum(list_files(bundle.folder).values())
    if free < needed:
        raise StorageFull(
            f"{bundle.folder} has {needed} bytes, and the disk of {root} "
            f"(ISOGLOSS_MODELS_DIR) only {free} left",
            retry_after_s=30,
        )


def _check_copy(draft: Path, source: Bundle) -> None:
    try:
        copy = Bundle.open(draft)
    except BundleInvalid as error:
        raise BundleInvalid(f"{source.folder}: the copy of {error.detail}") from error
    if copy.manifest != source.manifest:
        raise BundleInvalid(f"{source.folder}: was changed while it was copied; try again")


def _delete(draft: Path, root: Path) -> None:
    """Of a link only the link; a name without any version goes too."""
    if draft.is_symlink():
        draft.unlink()
    else:
        shutil.rmtree(draft)
    if draft.parent != root:
        with suppress(OSError):  # other versions are there
            draft.parent.rmdir()
