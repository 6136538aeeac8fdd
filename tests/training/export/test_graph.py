"""Graphs over the weights' file, for three families and three precisions."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from safetensors.numpy import save_file

from tests.training.pretrained_fixtures import backbone
from training.centroids import Projection
from training.export import graph as graphs
from training.export.graph import (
    GRAPHS,
    Exported,
    ExportFailed,
    refer_to_weights,
    write_graph,
    write_half,
)
from training.export.small import write_small
from training.model import SentenceEncoder

SHAPES = [(1, 1), (1, 7), (3, 5), (4, 33)]


def run(path, ids, mask):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    return session.run(None, inputs)[0]


def ragged(rows, length):
    generator = torch.Generator().manual_seed(rows * 100 + length)
    ids = torch.randint(5, 200, (rows, length), generator=generator)
    mask = (
        torch.arange(length) < torch.arange(length, length - rows, -1).clamp(min=1)[:, None]
    ).long()
    return ids * mask + (1 - mask), mask  # padding is not the pad id in all families, and masked


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "pooling"), [("bert", "cls"), ("xlm-roberta", "mean"), ("modernbert", "mean")]
)
def test_all_graphs_are_the_torch_model_for_any_shape(tmp_path, family, pooling):
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(32, 32)))[0].astype(np.float32)
    projections = [Projection(turn[:20]), Projection(turn[:20, :20], turn[0, :20])]
    encoder = SentenceEncoder(backbone(family), pooling=pooling)
    encoder.backbone.save_pretrained(tmp_path)
    model = Exported(encoder, projections).eval()
    write_graph(tmp_path, model)
    write_half(tmp_path, model)
    write_small(tmp_path, model)
    for rows, length in SHAPES:
        ids, mask = ragged(rows, length)
        with torch.inference_mode():
            exact = model(ids, mask).numpy()
        assert exact.shape == (rows, 20)
        assert np.allclose(np.linalg.norm(exact, axis=1), 1, atol=1e-5)
        assert np.abs(run(tmp_path / GRAPHS["fp32"], ids, mask) - exact).max() < 1e-5
        half = run(tmp_path / GRAPHS["fp16"], ids, mask)
        assert half.dtype == np.float32
        assert (half * exact).sum(1).min() > 0.9995
        assert (run(tmp_path / GRAPHS["int8"], ids, mask) * exact).sum(1).min() > 0.9
    _check_that_weights_lie_once(tmp_path, "model.onnx", "model.safetensors")
    _check_that_weights_lie_once(tmp_path, "model.int8.onnx", "model.int8.safetensors")
    halves = onnx.load(tmp_path / GRAPHS["fp16"]).graph.initializer
    assert sum(t.data_type == onnx.TensorProto.FLOAT16 for t in halves) > 5


def _check_that_weights_lie_once(folder, graph, weights):
    proto = onnx.load(folder / graph, load_external_data=False)
    assert proto.opset_import[0].version == 20
    external = [tensor for tensor in proto.graph.initializer if tensor.external_data]
    assert {e.value for t in external for e in t.external_data if e.key == "location"} == {weights}
    assert sum(len(t.raw_data) for t in proto.graph.initializer) < 20_000
    assert not any(node.doc_string or node.metadata_props for node in proto.graph.node)


@pytest.mark.slow
def test_a_row_that_is_all_padding_is_no_nan(tmp_path):
    encoder = SentenceEncoder(backbone())
    encoder.backbone.save_pretrained(tmp_path)
    write_graph(tmp_path, Exported(encoder))
    ids, mask = ragged(2, 6)
    mask[1] = 0
    assert np.isfinite(run(tmp_path / "model.onnx", ids, mask)).all()


WEIGHTS = {"a": np.arange(6, dtype=np.float32), "b": np.ones((300,), dtype=np.float32)}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(WEIGHTS, path, metadata={"format": "pt"})
    return path


def model_of(**tensors) -> ir.Model:
    values = []
    for name, array in tensors.items():
        tensor = ir.tensor(array, name=name)
        values.append(
            ir.Value(
                name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
            )
        )
    node = ir.Node("", "Identity", [values[0]])
    node.outputs[0].name = "y"
    graph = ir.Graph([], node.outputs, nodes=[node], initializers=values, opset_imports={"": 20})
    return ir.Model(graph, ir_version=10)


def locations(model):
    return {
        name: value.const_value.location
        for name, value in model.graph.initializers.items()
        if isinstance(value.const_value, ir.ExternalTensor)
    }


def parameters(**changes):
    return {f"encoder.backbone.{name}": value for name, value in {**WEIGHTS, **changes}.items()}


def test_parameters_become_byte_ranges_that_onnx_reads_back(file):
    model = model_of(**parameters(), small=np.zeros(3, dtype=np.float32))
    refer_to_weights(model, file, spill=file.with_name("model.onnx.data"))
    assert locations(model) == dict.fromkeys(parameters(), "model.safetensors")
    onnx.save(ir.to_proto(model), file.parent / "model.onnx")
    read = {t.name: t for t in onnx.load(file.parent / "model.onnx").graph.initializer}
    for name, array in WEIGHTS.items():
        assert np.array_equal(onnx.numpy_helper.to_array(read[f"encoder.backbone.{name}"]), array)


def test_what_is_no_parameter_and_large_lies_in_the_data_file(file):
    large = np.arange(2 * graphs.INLINE_BYTES // 8 + 2, dtype=np.float64)
    model = model_of(**parameters(b=np.full(300, 2, np.float32)), big=large, other=large + 1)
    refer_to_weights(model, file, spill=file.with_name("model.onnx.data"))
    assert locations(model) == {
        "encoder.backbone.a": "model.safetensors",
        "big": "model.onnx.data",
        "other": "model.onnx.data",
    }
    onnx.save(ir.to_proto(model), file.parent / "model.onnx")
    read = {t.name: t for t in onnx.load(file.parent / "model.onnx").graph.initializer}
    assert np.array_equal(onnx.numpy_helper.to_array(read["other"]), large + 1)
    assert onnx.numpy_helper.to_array(read["encoder.backbone.b"])[0] == 2


def test_an_initializer_without_a_value_is_refused(file):
    model = model_of(a=WEIGHTS["a"])
    model.graph.initializers["a"].const_value = None
    with pytest.raises(ExportFailed, match="a has no value"):
        refer_to_weights(model, file, spill=file.with_name("model.onnx.data"))
