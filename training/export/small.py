"""The int8 graph: matrices and tables as int8 with a scale a row, every token with a step of its own.

Why not ONNX Runtime's quantiser: it gives a whole table one scale, so that one long row coarsens
every word piece, and a whole batch one step, so that a text's vector depends on what it is embedded
with; and its weights can be read by nothing but the graph. Here they lie in `model.int8.safetensors`
once, and the graph names byte ranges of it, as the fp32 graph does. A step for each token costs speed,
because the fused products know but one for all (`training/LOG.md`).
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import ArrayLike

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
MICROSOFT = "com.microsoft"
LEAST = np.float32(1e-12)
"""A step is no smaller, so that a token of zeros has one."""
MOST = 255
ZEROS = {"Gelu": 32, "Relu": 0}
"""What stands for zero in the output of an operator that gives little or nothing below it."""
MIDDLE = 128
"""What stands for zero elsewhere; the processors' instructions multiply unsigned by signed."""


def write_small(folder: Path, model: Exported) -> None:
    """Write the int8 weights and the graph over them.

    Projections stay in full: they are small, and the last thing that shapes a vector.
    """
    graph = traced(model)
    found = dict(_quantisable(graph.graph))
    state = {name.removeprefix(BACKBONE): t for name, t in model.state_dict().items()}
    small = quantised(state, [name.removeprefix(BACKBONE) for name in found])
    own = {name: t for name, t in small.items() if not name.startswith("projections.")}
    write_small_weights(folder, own)
    graph.opset_imports[MICROSOFT] = 1
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
        self._tokens: dict[ir.Value, tuple[ir.Value, ...]] = {}
        self._one = self._initializer("int8.one", np.float32(1))
        self._least = self._initializer("int8.least", LEAST)
        self._last = self._initializer("int8.last_axis", np.array([-1], dtype=np.int64))

    def replace(self, found: dict[str, list[ir.Node]]) -> None:
        for name, users in found.items():
            inner = name.removeprefix(BACKBONE)
            rows = self._initializer(name, self._small[inner].numpy())
            scale = self._initializer(name + SCALE, self._small[inner + SCALE].numpy())
            for user in users:
                if user.op_type == "Gather":
                    self._look_up(user, rows, scale)
                else:
                    self._multiply(user, rows, scale)

    def _look_up(self, gather: ir.Node, rows: ir.Value, scale: ir.Value) -> None:
        ids = gather.inputs[1]
        row = self._insert(gather, "Gather", rows, ids)
        full = self._insert(gather, "Cast", row, to=ir.DataType.FLOAT)
        scales = self._insert(gather, "Gather", scale, ids)
        scales = self._insert(gather, "Unsqueeze", scales, self._last)
        self._take_over(gather, self._insert(gather, "Mul", full, scales))

    def _multiply(self, transpose: ir.Node, rows: ir.Value, scale: ir.Value) -> None:
        columns = self._insert(transpose, "Transpose", rows, perm=[1, 0])
        for product in [usage.node for usage in transpose.outputs[0].uses()]:
            tokens, step, zero = self._quantised(product.inputs[0], before=product)
            operands = (tokens, columns, self._one, scale, zero)
            steps = self._insert(product, "MatMulIntegerToFloat", *operands, domain=MICROSOFT)
            self._take_over(product, self._insert(product, "Mul", steps, step))
        self._graph.remove(transpose, safe=True)

    def _quantised(self, value: ir.Value | None, *, before: ir.Node) -> tuple[ir.Value, ...]:
        """Tokens as uint8, the step of each and the zero; once for all matrices they multiply."""
        if value is None:
            raise ExportFailed("the graph multiplies a matrix by nothing")
        if value not in self._tokens:
            maker = value.producer()
            zero = ZEROS.get(maker.op_type, MIDDLE) if maker is not None else MIDDLE
            high = self._insert(before, "ReduceMax", value, self._last)
            high = self._insert(before, "Div", high, self._number(MOST - zero))
            bounds = [high, self._least]
            if zero:
                low = self._insert(before, "ReduceMin", value, self._last)
                bounds.append(self._insert(before, "Div", low, self._number(-zero)))
            step = self._insert(before, "Max", *bounds)
            steps = self._insert(before, "Reciprocal", step)
            counted = self._insert(before, "Mul", value, steps)
            name = f"int8.zero_at_{zero}"
            at = self._graph.initializers.get(name) or self._initializer(name, np.uint8(zero))
            tokens = self._insert(before, "QuantizeLinear", counted, self._one, at)
            self._tokens[value] = tokens, step, at
        return self._tokens[value]

    def _number(self, number: float) -> ir.Value:
        name = f"int8.{number}"
        return self._graph.initializers.get(name) or self._initializer(name, np.float32(number))

    def _initializer(self, name: str, content: ArrayLike) -> ir.Value:
        self._graph.initializers.pop(name, None)
        array = np.asarray(content)
        constant = ir.tensor(array, name=name)
        shape, kind = ir.Shape(array.shape), ir.TensorType(constant.dtype)
        value = ir.Value(name=name, shape=shape, type=kind, const_value=constant)
        self._graph.register_initializer(value)
        return value

    def _insert(
        self,
        before: ir.Node,
        operator: str,
        *inputs: ir.Value | None,
        domain: str = "",
        **attributes: int | list[int],
    ) -> ir.Value:
        node = ir.node(operator, inputs, attributes, domain=domain)
        self._graph.insert_before(before, node)
        return node.outputs[0]

    def _take_over(self, old: ir.Node, new: ir.Value) -> None:
        output = old.outputs[0]
        new.name = output.name
        ir.convenience.replace_all_uses_with(output, new)
        self._graph.remove(old, safe=True)
