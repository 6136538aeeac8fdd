"""`probes.npz`: texts of a bundle with the vectors that its encoder must reproduce."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np

from service.errors import BundleInvalid
from service.manifest import Precision
from service.types import Matrix, Role

UNPACKED_LIMIT = 256 * (1 << 20)


@dataclass(frozen=True)
class Probes:
    """Texts in every language of a bundle with the vectors that its maker saw, per precision."""

    texts: list[str]
    roles: list[Role]
    languages: list[str]
    vectors: Mapping[Precision, Matrix]

    def save(self, path: Path) -> None:
        """Write `probes.npz`; equal probes give equal bytes."""
        arrays: dict[str, Any] = {
            "texts": np.array(self.texts, dtype=np.str_),
            "roles": np.array(self.roles, dtype=np.str_),
            "languages": np.array(self.languages, dtype=np.str_),
        }
        for precision, matrix in sorted(self.vectors.items()):
            arrays[f"vectors_{precision}"] = np.asarray(matrix, dtype=np.float32)
        np.savez_compressed(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read `probes.npz`; `BundleInvalid` if it is damaged, too large or not of one length."""
        try:
            _check_unpacked_size(path)
            with np.load(path, allow_pickle=False) as arrays:
                texts = [str(text) for text in arrays["texts"]]
                roles = [_role(str(role)) for role in arrays["roles"]]
                languages = [str(language) for language in arrays["languages"]]
                vectors: dict[Precision, Matrix] = {
                    precision: arrays[f"vectors_{precision}"]
                    for precision in get_args(Precision)
                    if f"vectors_{precision}" in arrays
                }
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, MemoryError) as error:
            raise BundleInvalid(f"{path.name}: {error}") from error
        if not len(texts) == len(roles) == len(languages):
            raise BundleInvalid(f"{path.name}: texts, roles and languages differ in length")
        for precision, matrix in vectors.items():
            if matrix.dtype != np.float32 or matrix.ndim != 2 or len(matrix) != len(texts):  # noqa: PLR2004
                raise BundleInvalid(f"{path.name}: vectors_{precision} is not float32 [texts, d]")
        return cls(texts, roles, languages, vectors)


def _check_unpacked_size(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > UNPACKED_LIMIT:
        raise ValueError(f"unpacks to {size} bytes, more than {UNPACKED_LIMIT}")


def _role(role: str) -> Role:
    for known in get_args(Role):
        if role == known:
            return known  # type: ignore[no-any-return]  # get_args is untyped
    raise ValueError(f"role {role!r} is neither of {get_args(Role)}")
