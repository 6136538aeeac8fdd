"""The int8 graph: matrices and tables as int8 with a scale a row, activations quantised as they come.

Why not ONNX Runtime's quantiser: it gives a whole table one scale, so that one long row coarsens
every word piece, and its weights can be read by nothing but the graph. Here they lie in
`model.int8.safetensors` once, and the graph names byte ranges of it, as the fp32 graph does.
"""

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
import torch

from training.export.graph import (
    BACKBONE,
    GRAPHS,
    Exported,
    ExportFailed,
    data_of,
    refer_to_weights,
    traced,
)
from training.row_int8 import SCALE, SMALL_WEIGHTS, quantised, write_small_weights

MATRIX = 2


def write_small(folder: Path, model: Exported) -> None:
    """Write the int8 weights and the graph over them; projections stay in full.

    Projections are small, and the last thing that shapes a vector.
    """
    graph = traced(model)
    found = dict(_quantisable(graph.graph))
    state = {name.removeprefix(BACKBONE): t for name, t in model.state_dict().items()}
    small = quantised(state, [name.removeprefix(BACKBONE) for name in found])
    own = {name: t for name, t in small.items() if not name.startswith("projections.")}
    write_small_weights(folder, own)
    _Rewriting(graph.graph, small).replace(found)
    refer_to_weights(graph, folder / SMALL_WEIGHTS, spill=data_of(folder / GRAPHS["int8"]))
    onnx.save(ir.to_proto(graph), folder / GRAPHS["int8"])


def _quantisable(graph: ir.Graph) -> Iterator[tuple[str, list[ir.Node]]]:
    """Matrices of the backbone of which rows are looked up, or whose transpose is multiplied by."""
    for name, value in graph.initializers.items():
        shape = value.shape
        if not name.startswith(BACKBONE) or shape is None or len(shape) != MATRIX:
            continue
        users = [usage.node for usage in value.uses()]
        if value.dtype == ir.DataType.FLOAT and users and all(map(_by_rows, users)):
            yield name, users


def _by_rows(node: ir.Node) -> bool:
    if node.op_type == "Gather":
        axis = node.attributes.get("axis")
        return axis is None or axis.as_int() == 0
    products = [usage.node for usage in node.outputs[0].uses()]
    return node.op_type == "Transpose" and all(
        product.op_type == "MatMul" and product.inputs[1] is node.outputs[0] for product in products
    )


class _Rewriting:
    """Replaces the users of full matrices by those of int8 ones."""

    def __init__(self, graph: ir.Graph, small: dict[str, torch.Tensor]) -> None:
        self._graph = graph
        self._small = small
        self._activations: dict[ir.Value, ir.Node] = {}

    def replace(self, found: dict[str, list[ir.Node]]) -> None:
        for name, users in found.items():
            inner = name.removeprefix(BACKBONE)
            rows = self._initializer(name, self._small[inner])
            scale = self._initializer(name + SCALE, self._small[inner + SCALE])
            for user in users:
                if user.op_type == "Gather":
                    self._look_up(user, rows, scale)
                else:
                    self._multiply(user, rows, scale)

    def _initializer(self, name: str, tensor: torch.Tensor) -> ir.Value:
        self._graph.initializers.pop(name, None)
        constant = ir.tensor(tensor.numpy(), name=name)
        value = ir.Value(
            name=name,
            shape=ir.Shape(tensor.shape),
            type=ir.TensorType(constant.dtype),
            const_value=constant,
        )
        self._graph.register_initializer(value)
        return value

    def _look_up(self, gather: ir.Node, rows: ir.Value, scale: ir.Value) -> None:
        ids = gather.inputs[1]
        row = ir.node("Gather", [rows, ids])
        # [.., 1] beside [.., width]
        scales = self._insert(gather, ir.node("Gather", [scale, ids]))
        last = self._constant(gather, ir.tensor([-1]))
        parts = [
            row,
            ir.node("Cast", [row.outputs[0]], {"to": ir.DataType.FLOAT}),
            wide := ir.node("Unsqueeze", [scales, last]),
        ]
        for part in parts:
            self._insert(gather, part)
        product = ir.node("Mul", [parts[1].outputs[0], wide.outputs[0]])
        self._take_over(gather, product)

    def _multiply(self, transpose: ir.Node, rows: ir.Value, scale: ir.Value) -> None:
        columns = self._insert(transpose, ir.node("Transpose", [rows], {"perm": [1, 0]}))
        for product in [usage.node for usage in transpose.outputs[0].uses()]:
            given = product.inputs[0]
            if given is None:
                raise ExportFailed(f"the graph multiplies {rows.name} by nothing")
            quantise = self._activation(given, before=product)
            activation, step, zero = quantise.outputs
            whole = self._insert(product, ir.node("MatMulInteger", [activation, columns, zero]))
            full = self._insert(product, ir.node("Cast", [whole], {"to": ir.DataType.FLOAT}))
            scales = self._insert(product, ir.node("Mul", [step, scale]))
            self._take_over(product, ir.node("Mul", [full, scales]))
        self._graph.remove(transpose, safe=True)

    def _activation(self, value: ir.Value, *, before: ir.Node) -> ir.Node:
        """The one quantisation of a value that several matrices multiply."""
        if value not in self._activations:
            node = ir.node("DynamicQuantizeLinear", [value], num_outputs=3)
            self._activations[value] = node
            self._insert(before, node)
        return self._activations[value]

    def _constant(self, before: ir.Node, tensor: ir.TensorProtocol) -> ir.Value:
        return self._insert(before, ir.node("Constant", [], {"value": tensor}))

    def _insert(self, before: ir.Node, node: ir.Node) -> ir.Value:
        self._graph.insert_before(before, node)
        return node.outputs[0]

    def _take_over(self, old: ir.Node, new: ir.Node) -> None:
        output = old.outputs[0]
        self._graph.insert_before(old, new)
        new.outputs[0].name = output.name
        ir.convenience.replace_all_uses_with(output, new.outputs[0])
        self._graph.remove(old, safe=True)
