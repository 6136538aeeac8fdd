"""The contract between training and serving: a folder with a model, sealed by its manifest.

Why so strict: a bundle is a program from elsewhere. Its files are checked against the manifest, and
its graphs against the contract, before ONNX Runtime or the tokenizer read a byte of them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, Self

from pydantic import ValidationError

from service.errors import BundleInvalid
from service.golden import GoldenQuery, read_golden
from service.manifest import (
    GOLDEN,
    MANIFEST,
    PROBES,
    TOKENIZER,
    Declaration,
    Manifest,
    Precision,
    space_id,
)
from service.onnx_graph import External, OnnxGraph, Port, read_graph
from service.probes import Probes
from service.sealed_folder import check_name, digest, list_files, write_atomically

MEBIBYTE = 1 << 20
SIZE_LIMITS = {
    MANIFEST: 4 * MEBIBYTE,
    TOKENIZER: 128 * MEBIBYTE,
    PROBES: 64 * MEBIBYTE,
    GOLDEN: 4 * MEBIBYTE,
}
GRAPH_LIMIT = 2048 * MEBIBYTE - 1  # protobuf's own
FILE_LIMIT = 32 * 1024 * MEBIBYTE

INPUTS = {"input_ids", "attention_mask"}
OUTPUT = "sentence_embedding"
INT64, FLOAT32 = 7, 1  # onnx.TensorProto.INT64 and FLOAT, fixed by the format


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: its folder, and the manifest that its files were checked against."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Verify a bundle: files, hashes, graphs, spaces. `BundleInvalid` says which file and why."""
        manifest = read_manifest(folder)
        found = list_files(folder)
        for name in sorted(found.keys() - manifest.files.keys() - {MANIFEST}):
            raise BundleInvalid(f"{name}: not listed in {MANIFEST}; remove it")
        for name in sorted(manifest.files.keys() - found.keys()):
            raise BundleInvalid(f"{name}: listed in {MANIFEST}, but missing")
        _check_sizes(found, manifest)
        for name, expected in manifest.files.items():
            if (actual := digest(folder / name)) != expected:
                raise BundleInvalid(f"{name}: SHA-256 is {actual}, {MANIFEST} says {expected}")
        _check_spaces(folder, manifest, found)
        return cls(folder, manifest)

    def path(self, name: str) -> Path:
        """Where a listed file lies."""
        if name not in self.manifest.files:
            raise BundleInvalid(f"{name}: not a file of {self.manifest.name}")
        return self.folder / name

    def probes(self) -> Probes:
        """The texts and vectors that the encoder must reproduce."""
        probes = Probes.load(self.path(PROBES))
        for precision in self.manifest.precisions:
            if precision not in probes.vectors:
                raise BundleInvalid(f"{PROBES}: no vectors of {precision}")
            if (width := probes.vectors[precision].shape[1]) != self.manifest.dimension:
                raise BundleInvalid(
                    f"{PROBES}: vectors of {precision} have {width} dimensions, "
                    f"not {self.manifest.dimension}"
                )
        return probes

    def golden(self) -> list[GoldenQuery]:
        """Queries with the passages that they must find; none where the bundle brings none."""
        return read_golden(self.path(GOLDEN)) if GOLDEN in self.manifest.files else []


def read_manifest(folder: Path) -> Manifest:
    """`bundle.json` alone, cheaply: what a bundle says of itself, with nothing else verified."""
    path = folder / MANIFEST
    try:
        if path.is_symlink() or not path.is_file():
            raise BundleInvalid(f"{MANIFEST}: missing, or not a plain file, in {folder}")
        if (size := path.stat().st_size) > SIZE_LIMITS[MANIFEST]:
            raise BundleInvalid(f"{MANIFEST}: {size} bytes, more than {SIZE_LIMITS[MANIFEST]}")
        raw = path.read_bytes()
        data = json.loads(raw, parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise BundleInvalid(f"{MANIFEST}: {error}") from error
    if not isinstance(data, dict) or data.get("format") != 1 or data["format"] is True:
        stated = data.get("format") if isinstance(data, dict) else None
        raise BundleInvalid(f"{MANIFEST}: format {stated!r}; this version reads format 1")
    try:
        return Manifest.model_validate_json(raw, strict=True)
    except ValidationError as error:
        raise BundleInvalid(f"{MANIFEST}: {_said(error)}") from error


def write_bundle(folder: Path, **declared: Any) -> Bundle:
    """Seal a folder whose files all lie there: hash them, compute the spaces, write the manifest.

    Takes the fields of `Declaration` by keyword. The manifest is written last and as a whole, so
    that a folder with a manifest is a finished bundle.

    Raises:
        BundleInvalid: what `Bundle.open` would refuse; then no manifest is written.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    found = list_files(folder)
    files = {name: digest(folder / name) for name in found}
    try:
        declaration = Declaration(**declared)
        for name in (TOKENIZER, PROBES, *declaration.precisions.values()):
            if name not in files:
                raise BundleInvalid(f"{name}: missing in {folder}")
        _check_sizes(found, declaration)
        space = _spaces(folder, declaration, files, found)
        manifest = Manifest(**dict(declaration), space=space, files=files)
    except ValidationError as error:
        raise BundleInvalid(f"{MANIFEST}: {_said(error)}") from error
    bundle = Bundle(folder, manifest)
    bundle.probes()
    bundle.golden()
    _write_manifest(folder, manifest)
    return bundle


def restate(folder: Path, **changes: Any) -> Bundle:
    """Seal a bundle again, with some fields of `Declaration` changed that shape no vector.

    Raises:
        BundleInvalid: the bundle breaks the contract, or would; then it stays as it was.
    """
    old = Bundle.open(folder).manifest
    try:
        manifest = Manifest(**{**dict(old), **changes})
    except ValidationError as error:
        raise BundleInvalid(f"{MANIFEST}: {_said(error)}") from error
    _check_spaces(folder, manifest, list_files(folder))
    _write_manifest(folder, manifest)
    return Bundle(folder, manifest)


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    fields = {"format": manifest.format, **manifest.model_dump(mode="json")}
    if not manifest.compatible_with:  # younger than format 1, and few bundles have it
        del fields["compatible_with"]
    try:
        text = json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise BundleInvalid(f"{MANIFEST}: {error}") from error
    write_atomically(folder / MANIFEST, text.encode() + b"\n")


def _check_sizes(found: Mapping[str, int], declared: Declaration) -> None:
    graphs = set(declared.precisions.values())
    for name, size in found.items():
        limit = SIZE_LIMITS.get(name, GRAPH_LIMIT if name in graphs else FILE_LIMIT)
        if size > limit:
            raise BundleInvalid(f"{name}: {size} bytes, more than {limit}")


def _check_spaces(folder: Path, manifest: Manifest, sizes: Mapping[str, int]) -> None:
    for precision, space in _spaces(folder, manifest, manifest.files, sizes).items():
        if manifest.space[precision] != space:
            stated = manifest.space[precision]
            raise BundleInvalid(f"{MANIFEST}: space of {precision} is {space}, not {stated}")


def _spaces(
    folder: Path, declared: Declaration, files: Mapping[str, str], sizes: Mapping[str, int]
) -> dict[Precision, str]:
    """Check every graph against the contract, and compute the space of each precision."""
    spaces: dict[Precision, str] = {}
    for precision, name in declared.precisions.items():
        graph = read_graph(folder / name)
        _check_ports(name, graph, declared.dimension)
        weights = {_weight_file(name, tensor, sizes) for tensor in graph.external}
        spaces[precision] = space_id(declared, precision, files=files, weights=weights)
    return spaces


def _check_ports(name: str, graph: OnnxGraph, dimension: int) -> None:
    """Tokens in, one normalised vector of the declared dimension out, for any batch and length."""
    inputs = {port.name for port in graph.inputs}
    if inputs != INPUTS or len(graph.inputs) != len(INPUTS):
        raise BundleInvalid(f"{name}: inputs are {sorted(inputs)}, not {sorted(INPUTS)}")
    for port in graph.inputs:
        _check_port(name, port, INT64, (None, None))
    outputs = [port.name for port in graph.outputs]
    if outputs != [OUTPUT]:
        raise BundleInvalid(f"{name}: outputs are {outputs}, not [{OUTPUT!r}]")
    _check_port(name, graph.outputs[0], FLOAT32, (None, dimension))


def _check_port(name: str, port: Port, element: int, shape: tuple[int | None, ...]) -> None:
    if port.element != element:
        raise BundleInvalid(f"{name}: {port.name} has element type {port.element}, not {element}")
    if port.shape != shape:
        raise BundleInvalid(f"{name}: {port.name} has shape {port.shape}, not {shape}")


def _weight_file(name: str, tensor: External, sizes: Mapping[str, int]) -> str:
    """The listed file that an external tensor lies in, once its range is known to lie inside."""
    try:
        check_name(tensor.location)
    except ValueError as error:
        raise BundleInvalid(f"{name}: external data: {error}") from error
    # ONNX means the location relative to the graph's own folder.
    file = str(PurePosixPath(name).parent / tensor.location)
    if file not in sizes or file == MANIFEST:
        raise BundleInvalid(f"{name}: external data in {file}, which is not a file of the bundle")
    end = sizes[file] if tensor.length is None else tensor.offset + tensor.length
    if max(tensor.offset, end) > sizes[file]:
        raise BundleInvalid(
            f"{name}: external data at bytes {tensor.offset} to {end} of {file}, "
            f"which has {sizes[file]}"
        )
    return file


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _said(error: ValidationError) -> str:
    """The first few complaints of pydantic on one line."""
    return "; ".join(
        f"{'.'.join(map(str, part['loc'])) or 'manifest'}: {part['msg']}"
        for part in error.errors(include_url=False)[:5]
    )
