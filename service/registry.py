"""A folder of bundles, `<models>/<name>/<version>/` or `<models>/<name>/`: what there is, and which.

Listing reads manifests alone; `find` and `by_space` verify the whole bundle.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.bundle import Bundle, read_manifest
from service.errors import BundleInvalid, ConfigurationError, InvalidInput, NotFound
from service.manifest import MANIFEST, SAFE_NAME, Manifest, Precision
from service.placing import changing, place_bundle, remove_bundle


@dataclass(frozen=True, slots=True)
class Entry:
    """One folder of the registry: what its manifest says, or why it cannot be a bundle."""

    name: str
    version: str
    folder: Path
    manifest: Manifest | None
    problem: str = ""


class Registry:
    """The bundles below one root; nothing is kept in memory, so a new folder is seen at once."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise ConfigurationError(f"ISOGLOSS_MODELS_DIR is {root}, which is not a folder")
        self._root = root.resolve()

    def list(self) -> "list[Entry]":
        """Every bundle by name, its versions in natural order (1.9 before 1.10)."""
        found = [_entry(self._root, *place) for place in self._places()]
        return sorted(found, key=lambda entry: (entry.name, natural(entry.version)))

    def find(self, reference: str) -> Bundle:
        """Open `name/version`, or the latest version of `name`.

        Raises:
            InvalidInput: the reference is not a name.
            NotFound: there is no such bundle; says which there are.
            BundleInvalid: it is there, but breaks the contract.
        """
        name, slash, version = reference.partition("/")
        if not SAFE_NAME.fullmatch(name) or (slash and not SAFE_NAME.fullmatch(version)):
            raise InvalidInput(f"{reference!r} is not a bundle's name or name/version")
        entries = self.list()
        fitting = [e for e in entries if e.name == name and (not slash or e.version == version)]
        if not fitting:
            raise self._missing(reference, entries)
        return _open(fitting[-1])

    def entry(self, name: str, version: str) -> Entry:
        """One version, sound or not, by its manifest alone; `NotFound` says which there are."""
        entries = self.list()
        for entry in entries:
            if (entry.name, entry.version) == (name, version):
                return entry
        raise self._missing(f"{name}/{version}", entries)

    def by_space(self, space: str, *, prefer: str = "") -> tuple[Bundle, Precision]:
        """A bundle whose vectors are of this space, and the precision that gives them.

        Of several it is the latest, or the one that is preferred, as `name/version`.
        """
        reasons = []
        entries = reversed(self.list())
        for entry in sorted(entries, key=lambda each: f"{each.name}/{each.version}" != prefer):
            spaces = entry.manifest.space if entry.manifest else {}
            for precision, own in spaces.items():
                if own != space:
                    continue
                try:
                    return _open(entry), precision
                except BundleInvalid as error:
                    reasons.append(error.detail)
        if reasons:
            raise BundleInvalid("; ".join(reasons))
        raise NotFound(f"no bundle of space {space} in the registry (ISOGLOSS_MODELS_DIR)")

    def add(self, source: Path) -> Entry:
        """Copy a bundle in; raises what `place_bundle` does."""
        manifest = place_bundle(source, self._root).manifest
        return self.entry(manifest.name, manifest.version)

    def remove(self, name: str, version: str) -> None:
        """Take a version out. An encoder that has it open keeps its files until it is closed.

        Raises:
            NotFound: there is no such version.
            ConfigurationError: the registry cannot be written.
        """
        self.entry(name, version)
        with changing(self._root):
            remove_bundle(self.entry(name, version).folder, self._root)

    def _missing(self, reference: str, entries: Sequence[Entry]) -> NotFound:
        there = ", ".join(f"{entry.name}/{entry.version}" for entry in entries) or "none"
        return NotFound(f"no bundle {reference} in the registry (ISOGLOSS_MODELS_DIR): {there}")

    def _places(self) -> Iterator[tuple[str, str | None]]:
        """Name and version of each candidate; no version where the bundle lies in `<name>/` itself."""
        for name in _folders(self._root):
            if (self._root / name / MANIFEST).is_file():
                yield name, None
                continue
            for version in _folders(self._root / name):
                yield name, version


def natural(version: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key in which runs of digits are numbers."""
    parts = re.findall(r"[0-9]+|[^0-9]+", version)
    return tuple((1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts)


def _entry(root: Path, name: str, version: str | None) -> Entry:
    folder = root / name / version if version else root / name
    try:
        manifest = _manifest(root, folder, name, version)
    except BundleInvalid as error:
        return Entry(name, version or "", folder, None, error.detail)
    return Entry(name, manifest.version, folder, manifest)


def _manifest(root: Path, folder: Path, name: str, version: str | None) -> Manifest:
    for part in (name, version or name):
        if not SAFE_NAME.fullmatch(part):
            raise BundleInvalid(f"{part!r} does not match {SAFE_NAME.pattern}")
    if not folder.resolve().is_relative_to(root):
        raise BundleInvalid(f"{folder} leads out of {root}")
    manifest = read_manifest(folder)
    if manifest.name != name or (version and manifest.version != version):
        said = f"{manifest.name}/{manifest.version}"
        raise BundleInvalid(f"{MANIFEST}: says {said}, but lies in {folder}")
    return manifest


def _open(entry: Entry) -> Bundle:
    place = f"{entry.name}/{entry.version}"
    if entry.manifest is None:
        raise BundleInvalid(f"{place}: {entry.problem}")
    try:
        return Bundle.open(entry.folder.resolve())
    except BundleInvalid as error:
        raise BundleInvalid(f"{place}: {error.detail}") from error


def _folders(folder: Path) -> Iterator[str]:
    """Sub-folders by name; hidden ones belong to whoever mounted or versioned the registry."""
    try:
        paths = sorted(folder.iterdir())
    except FileNotFoundError:  # removed just now
        return
    for path in paths:
        if path.is_dir() and not path.name.startswith("."):
            yield path.name
