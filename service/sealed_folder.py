"""A folder that holds exactly the plain files it should: what lies there, how large, which bytes.

Nothing is followed and nothing is parsed here; it is what stands before every parser.
"""

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from service.errors import BundleInvalid

FILES_LIMIT = 256
DEPTH_LIMIT = 4
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
"""One part of a path: nothing hidden, no `..`, no separators, no spaces."""

REFUSED_SUFFIXES = frozenset(
    {".bin", ".ckpt", ".joblib", ".npy", ".pickle", ".pkl", ".pt", ".pth"}
    | {".dll", ".dylib", ".py", ".pyc", ".pyd", ".so"}
)
"""Pickles and code, by whichever name a loader of another library would take them."""


def check_name(name: str) -> str:
    """A relative POSIX path of safe parts, unchanged; `ValueError` otherwise."""
    parts = name.split("/")
    if len(parts) > DEPTH_LIMIT or not all(PART.fullmatch(part) for part in parts):
        raise ValueError(f"{name!r} is not a safe relative path")
    if PurePosixPath(name).suffix.lower() in REFUSED_SUFFIXES:
        raise ValueError(f"{name!r} is a kind of file that may hold code")
    return name


def list_files(folder: Path) -> dict[str, int]:
    """Every file below the folder by its relative POSIX path, with its size in bytes.

    Raises:
        BundleInvalid: a link, a device, an unsafe name, or too many of anything.
    """
    found: dict[str, int] = {}
    for name, status in _walk(folder, ""):
        if not stat.S_ISREG(status.st_mode):
            raise BundleInvalid(f"{name}: neither a plain file nor a folder")
        if status.st_nlink > 1:
            raise BundleInvalid(f"{name}: a hard link; copy the file instead")
        try:
            check_name(name)
        except ValueError as error:
            raise BundleInvalid(f"{name}: {error}") from error
        found[name] = status.st_size
        if len(found) > FILES_LIMIT:
            raise BundleInvalid(f"{folder.name}: more than {FILES_LIMIT} files")
    return found


def digest(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file as a whole, so that a crash leaves the old one or the new one."""
    draft = path.with_name(path.name + ".draft")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync(path.parent)


def copy_durably(source: Path, target: Path, names: Iterable[str]) -> None:
    """Copy these files of a folder into an empty one; when it returns, they have reached the disk."""
    folders = {target}
    for name in names:
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, copy, follow_symlinks=False)
        sync(copy)
        folders.update(target / parent for parent in PurePosixPath(name).parents)
    for folder in folders:
        sync(folder)


def sync(path: Path) -> None:
    """Return when a file's bytes, or a folder's names, have reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    """Everything but plain folders, without following a link."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name = prefix + entry.name
            status = entry.stat(follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                yield name, status
            elif name.count("/") + 1 >= DEPTH_LIMIT:
                raise BundleInvalid(f"{name}: folders deeper than {DEPTH_LIMIT - 1}")
            else:
                yield from _walk(folder / entry.name, name + "/")
