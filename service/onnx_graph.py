"""The structure of an ONNX file, read without running it: what it takes, gives, and opens.

Why the package `onnx`: its protobuf reader follows the same merge rules as ONNX Runtime's, so what is
checked here is what runs there. Nothing but bytes is read; external data is never followed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import onnx
from google.protobuf.message import DecodeError

from service.errors import BundleInvalid

DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
"""Operators of ONNX and of ONNX Runtime itself; nothing that a custom library would bring."""

REFUSED_OPERATORS = frozenset({"EPContext"})
"""Operators of an allowed domain that open files of their own."""

NODES_LIMIT = 100_000
NUMBER = re.compile(r"[0-9]{1,18}")

_Body: TypeAlias = onnx.GraphProto | onnx.FunctionProto


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: ONNX element type, and its shape with None for a dynamic axis."""

    name: str
    element: int
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class External:
    """A tensor's bytes in another file: `length` bytes from `offset`, or all the rest if None."""

    location: str
    offset: int
    length: int | None


@dataclass(frozen=True, slots=True)
class OnnxGraph:
    """What a graph promises, and the byte ranges that it would open beside itself."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    external: tuple[External, ...]


def read_graph(path: Path) -> OnnxGraph:
    """Read the structure; `BundleInvalid` if it is no ONNX model or uses what is not allowed."""
    try:
        model = onnx.ModelProto.FromString(path.read_bytes())
    except DecodeError as error:
        raise BundleInvalid(f"{path.name}: not an ONNX model ({error})") from error
    if not model.HasField("graph"):
        raise BundleInvalid(f"{path.name}: not an ONNX model (it has no graph)")
    if model.training_info:
        raise BundleInvalid(f"{path.name}: training_info is not allowed in a bundle")
    try:
        external = _check(model)
        return OnnxGraph(
            inputs=tuple(_port(value) for value in model.graph.input),
            outputs=tuple(_port(value) for value in model.graph.output),
            external=external,
        )
    except ValueError as error:
        raise BundleInvalid(f"{path.name}: {error}") from error


def _check(model: onnx.ModelProto) -> tuple[External, ...]:
    """Every operator against the allow-list; returns every external tensor, wherever it hides."""
    own = {(function.domain, function.name) for function in model.functions}
    external: list[External] = []
    nodes = 0
    bodies: list[_Body] = [model.graph, *model.functions]
    while bodies:
        body = bodies.pop()
        nodes += len(body.node)
        if nodes > NODES_LIMIT:
            raise ValueError(f"more than {NODES_LIMIT} nodes")
        for node in body.node:
            _check_operator(node, own)
            for attribute in node.attribute:
                bodies.extend(_subgraphs(attribute))
        if isinstance(body, onnx.FunctionProto):
            for attribute in body.attribute_proto:  # defaults of a function may hold graphs too
                bodies.extend(_subgraphs(attribute))
        external.extend(_external(tensor) for tensor in _tensors(body) if _is_external(tensor))
    return tuple(external)


def _check_operator(node: onnx.NodeProto, own: set[tuple[str, str]]) -> None:
    if node.op_type in REFUSED_OPERATORS:
        raise ValueError(f"operator {node.op_type} is not allowed")
    if node.domain not in DOMAINS and (node.domain, node.op_type) not in own:
        # A function of this file may have any domain: its body is walked like any other.
        raise ValueError(f"operator {node.op_type} of domain {node.domain!r} is not allowed")


def _subgraphs(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _tensors(body: _Body) -> Iterator[onnx.TensorProto]:
    """Every tensor that lies in this body itself: initializers, sparse ones, attributes."""
    attributes = [attribute for node in body.node for attribute in node.attribute]
    sparse: list[onnx.SparseTensorProto] = []
    if isinstance(body, onnx.FunctionProto):
        attributes.extend(body.attribute_proto)
    else:
        yield from body.initializer
        sparse.extend(body.sparse_initializer)
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("sparse_tensor"):
            sparse.append(attribute.sparse_tensor)
        sparse.extend(attribute.sparse_tensors)
    for tensor in sparse:
        yield tensor.values
        yield tensor.indices


def _is_external(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.external_data) or tensor.data_location == onnx.TensorProto.EXTERNAL


def _external(tensor: onnx.TensorProto) -> External:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if len(entries) != len(tensor.external_data):
        raise ValueError(f"tensor {tensor.name!r} repeats a key of its external data")
    if unknown := sorted(entries.keys() - {"location", "offset", "length"}):
        raise ValueError(f"tensor {tensor.name!r} has external data with {', '.join(unknown)}")
    if "location" not in entries:
        raise ValueError(f"tensor {tensor.name!r} has external data without a location")
    numbers: dict[str, int] = {}
    for key in entries.keys() & {"offset", "length"}:
        if not NUMBER.fullmatch(entries[key]):
            raise ValueError(f"tensor {tensor.name!r} has external {key} {entries[key]!r}")
        numbers[key] = int(entries[key])
    return External(entries["location"], numbers.get("offset", 0), numbers.get("length"))


def _port(value: onnx.ValueInfoProto) -> Port:
    if not value.type.HasField("tensor_type"):
        raise ValueError(f"{value.name!r} is not a tensor")
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise ValueError(f"{value.name!r} has no shape")
    shape = tuple(
        axis.dim_value if axis.HasField("dim_value") else None for axis in tensor.shape.dim
    )
    return Port(value.name, tensor.elem_type, shape)
