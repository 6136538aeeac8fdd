"""The int8 graph: which products are of integers, which weights are int8, what stays in full."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.training.pretrained_fixtures import backbone
from training.centroids import Projection
from training.export.graph import Exported
from training.export.small import write_small
from training.model import SentenceEncoder
from training.row_int8 import read_small_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    projection = Projection(np.eye(20, 32, dtype=np.float32))
    write_small(folder, Exported(SentenceEncoder(backbone()), [projection]))
    return folder


def graph_of(folder):
    return onnx.load(folder / "model.int8.onnx", load_external_data=False).graph


@pytest.mark.slow
def test_every_matrix_of_the_backbone_is_int8_and_the_projection_is_not(folder):
    types = {tensor.name: tensor.data_type for tensor in graph_of(folder).initializer}
    matrices = {name for name, kind in types.items() if kind == onnx.TensorProto.INT8}
    tables, layers = 3, 2 * 6
    assert len(matrices) == tables + layers
    assert all(f"{name}.scale" in types for name in matrices)
    assert types["projections.0.columns"] == onnx.TensorProto.FLOAT
    assert "projections.0.columns" not in read_small_weights(folder)


@pytest.mark.slow
def test_query_key_and_value_share_one_quantisation_of_what_they_multiply(folder):
    kinds = Counter(node.op_type for node in graph_of(folder).node)
    assert kinds["MatMulIntegerToFloat"] == 2 * 6
    assert kinds["QuantizeLinear"] == 2 * 4
    assert kinds["MatMul"] == 2 * 2 + 1  # of attention, which has no weights; and the projection


@pytest.mark.slow
def test_a_texts_vector_does_not_depend_on_what_it_is_embedded_with(folder):
    session = onnxruntime.InferenceSession(folder / "model.int8.onnx")
    ids = np.random.default_rng(0).integers(5, 200, (6, 9))
    alone, together = (
        session.run(None, {"input_ids": part, "attention_mask": np.ones_like(part)})[0]
        for part in (ids[:1], ids)
    )
    assert np.abs(alone[0] - together[0]).max() < 1e-5


@pytest.mark.slow
def test_the_weights_are_those_of_the_encoder_within_a_step(folder):
    state = backbone().state_dict()
    read = read_small_weights(folder)
    assert read.keys() == state.keys()
    for name, tensor in state.items():
        assert float((read[name] - tensor).abs().max()) <= float(tensor.abs().max()) / 127
