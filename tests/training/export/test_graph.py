import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import save_file

from training.export.graph import ExportFailed, refer_to_weights

WEIGHTS = {"a": np.arange(6, dtype=np.float32), "b": np.ones((300,), dtype=np.float32)}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(WEIGHTS, path, metadata={"format": "pt"})
    return path


def model(**tensors) -> onnx.ModelProto:
    initializers = [
        helper.make_tensor(name, TensorProto.FLOAT, value.shape, value.tobytes(), raw=True)
        for name, value in tensors.items()
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [6])
    node = helper.make_node("Identity", ["backbone.a"], ["y"])
    return helper.make_model(helper.make_graph([node], "g", [], [output], initializers))


def parameters(**changes):
    return {f"backbone.{name}": value for name, value in {**WEIGHTS, **changes}.items()}


def test_parameters_become_byte_ranges_that_onnx_reads_back(file):
    graph = model(**parameters(), small=np.zeros(3, dtype=np.float32))
    refer_to_weights(graph, file)
    assert [bool(t.external_data) for t in graph.graph.initializer] == [True, True, False]
    onnx.save(graph, file.parent / "model.onnx")
    read = onnx.load(file.parent / "model.onnx")
    for tensor in read.graph.initializer[:2]:
        name = tensor.name.removeprefix("backbone.")
        assert np.array_equal(onnx.numpy_helper.to_array(tensor), WEIGHTS[name])


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (parameters(b=np.zeros(300, dtype=np.float32)), "backbone.b: the graph and .* differ"),
        ({"backbone.a": WEIGHTS["a"]}, "the graph does not use backbone.b"),
        ({**parameters(), "big": np.zeros(300, dtype=np.float32)}, "big: a large constant"),
    ],
)
def test_a_graph_that_is_not_the_weights_is_refused(file, tensors, said):
    with pytest.raises(ExportFailed, match=said):
        refer_to_weights(model(**tensors), file)
