"""Bringing optimum's graph to the contract of a bundle."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tests.training.pretrained_fixtures import backbone
from training.export.by_optimum import (
    fit_contract,
    write_graph_by_optimum,
    write_small_by_onnxruntime,
)
from training.export.graph import Exported, ExportFailed, write_graph
from training.model import SentenceEncoder


def graph(*, inputs=("input_ids", "attention_mask", "token_type_ids"), output="sentence_embedding"):
    """The sum of all inputs along the text, as two numbers."""
    ports = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "s"]) for n in inputs]
    nodes = [
        helper.make_node("Sum", [f"{name}_f" for name in inputs], ["token_embeddings"]),
        helper.make_node("ReduceSum", ["token_embeddings", "one"], ["sum"], keepdims=1),
        helper.make_node("Concat", ["sum", "sum"], [output], axis=1),
    ]
    casts = [helper.make_node("Cast", [n], [f"{n}_f"], to=TensorProto.FLOAT) for n in inputs]
    found = helper.make_graph(
        [*casts, *nodes],
        "g",
        ports,
        [
            helper.make_tensor_value_info("token_embeddings", TensorProto.FLOAT, ["b", "s"]),
            helper.make_tensor_value_info(output, TensorProto.FLOAT, ["b", "anonymous"]),
        ],
        [helper.make_tensor("one", TensorProto.INT64, [1], [1])],
    )
    opset = [helper.make_opsetid("", 18)]
    return ir.from_proto(helper.make_model(found, opset_imports=opset, ir_version=10))


@pytest.mark.parametrize("types", [True, False])
def test_ids_and_mask_go_in_and_one_vector_comes_out(tmp_path, types):
    inputs = ("input_ids", "attention_mask", *(["token_type_ids"] if types else []))
    model = graph(inputs=inputs)
    fit_contract(model, dimension=2)
    onnx.save(ir.to_proto(model), tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    assert {port.name for port in session.get_inputs()} == {"input_ids", "attention_mask"}
    assert [(port.name, port.shape[1]) for port in session.get_outputs()] == [
        ("sentence_embedding", 2)
    ]
    ids, mask = np.array([[3, 4], [5, 6]]), np.ones((2, 2), dtype=np.int64)
    vectors = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    assert vectors.tolist() == [[9, 9], [13, 13]]


def test_a_graph_without_the_vector_or_with_another_input_is_refused():
    with pytest.raises(ExportFailed, match="outputs"):
        fit_contract(graph(output="pooled"), dimension=2)
    with pytest.raises(ExportFailed, match="needs position_ids"):
        fit_contract(graph(inputs=("input_ids", "attention_mask", "position_ids")), dimension=2)


def test_what_the_other_python_says_when_it_fails_is_passed_on(tmp_path):
    with pytest.raises(ExportFailed, match=r"(?s)status 1: .*No module named 'optimum'"):
        write_graph_by_optimum(tmp_path, dimension=2, python=Path(sys.executable))
    assert not (tmp_path / "optimum").exists()


@pytest.mark.slow
def test_onnxruntimes_own_quantiser_needs_no_names_of_weights(tmp_path):
    encoder = SentenceEncoder(backbone())
    encoder.backbone.save_pretrained(tmp_path)
    write_graph(tmp_path, Exported(encoder))
    write_small_by_onnxruntime(tmp_path)
    ids = np.array([[7, 8, 9, 10]])
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    full, small = (
        onnxruntime.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"])
        for name in ("model.onnx", "model.int8.onnx")
    )
    assert (full.run(None, inputs)[0] * small.run(None, inputs)[0]).sum() > 0.98
    assert not (tmp_path / "folded.onnx").exists()
