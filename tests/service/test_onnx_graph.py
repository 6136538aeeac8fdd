"""The structure of graphs: ports, operators, and every place where external data can hide."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from service.bundle import Bundle, write_bundle
from service.encoder import Encoder
from service.errors import BundleInvalid
from tests.tiny_bundle import (
    build_tiny_bundle,
    declared,
    fp32_model,
    pooled_model,
    refer,
    replace_file,
)


@pytest.fixture
def folder(tmp_path) -> Path:
    return build_tiny_bundle(tmp_path / "tiny").folder


@pytest.mark.parametrize("data", [b"", b"not protobuf at all", b"\x08\x0a"])
def test_a_graph_that_is_no_onnx_model_is_refused(folder, data):
    replace_file(folder, "model.onnx", data)
    with pytest.raises(BundleInvalid, match=r"model.onnx: not an ONNX model"):
        Bundle.open(folder)


def test_a_graph_that_is_no_graph_of_the_contract_is_refused_with_the_reason(folder):
    good = onnx.load_model(folder / "model.onnx", load_external_data=False)

    def refused(reason: str, change) -> None:
        model = onnx.ModelProto()
        model.CopyFrom(good)
        change(model)
        replace_file(folder, "model.onnx", model.SerializeToString())
        with pytest.raises(BundleInvalid, match=reason):
            Bundle.open(folder)

    def first_axis(port) -> onnx.TensorShapeProto.Dimension:
        return port.type.tensor_type.shape.dim[0]

    refused("inputs are .*ids", lambda m: setattr(m.graph.input[0], "name", "ids"))
    refused(
        "inputs are",
        lambda m: m.graph.input.append(
            helper.make_tensor_value_info("token_type_ids", TensorProto.INT64, ["b", "s"])
        ),
    )
    refused("outputs are", lambda m: setattr(m.graph.output[0], "name", "vectors"))
    refused("outputs are", lambda m: m.graph.output.append(m.graph.output[0]))
    refused(
        "input_ids has element type 6",
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.INT32),
    )
    refused("input_ids has shape", lambda m: setattr(first_axis(m.graph.input[0]), "dim_value", 2))
    refused(
        "sentence_embedding has shape",
        lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 8),
    )
    refused("no shape", lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"))
    refused("not a tensor", lambda m: m.graph.input[0].ClearField("type"))
    refused("domain 'evil'", lambda m: setattr(m.graph.node[0], "domain", "evil"))
    refused("EPContext", lambda m: setattr(m.graph.node[0], "op_type", "EPContext"))
    refused("training_info", lambda m: m.training_info.add())


def test_the_operators_of_a_models_own_functions_are_checked_too(folder):
    model = onnx.load_model(folder / "model.onnx", load_external_data=False)
    body = [helper.make_node("Identity", ["x"], ["y"])]
    function = helper.make_function(
        "own", "Same", ["x"], ["y"], body, [helper.make_opsetid("", 20)]
    )
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node.append(helper.make_node("Same", ["mean"], ["unused"], domain="own"))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    bundle = write_bundle(folder, **declared())
    Encoder.open(bundle, threads=1).verify_probes()

    model.functions[0].node[0].domain = "evil"
    replace_file(folder, "model.onnx", model.SerializeToString())
    with pytest.raises(BundleInvalid, match=r"Identity of domain 'evil'"):
        Bundle.open(folder)


def external_tensor(**entries) -> TensorProto:
    tensor = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=[260, 16])
    refer(tensor, **entries)
    return tensor


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"location": "../model.safetensors"}, "not a safe relative path"),
        ({"location": "/etc/passwd"}, "not a safe relative path"),
        ({"location": "a/../../x"}, "not a safe relative path"),
        ({"location": "*/_ORT_MEM_ADDR_/*", "offset": 4096}, "not a safe relative path"),
        ({"location": ""}, "not a safe relative path"),
        ({"location": "C:\\x"}, "not a safe relative path"),
        ({"location": "absent.safetensors"}, "not a file of the bundle"),
        ({"location": "bundle.json"}, "not a file of the bundle"),
        ({"offset": 0}, "without a location"),
        ({"location": "model.safetensors", "offset": 17_000}, "bytes 17000 to"),
        ({"location": "model.safetensors", "offset": 80, "length": 16_645}, "bytes 80 to 16725"),
        ({"location": "model.safetensors", "offset": -1}, "external offset '-1'"),
        ({"location": "model.safetensors", "length": "1e3"}, "external length '1e3'"),
        ({"location": "model.safetensors", "length": "9" * 30}, "external length"),
        ({"location": "model.safetensors", "checksum": "x"}, "external data with checksum"),
    ],
)
def test_external_data_outside_the_listed_files_is_refused(folder, entries, reason):
    model = onnx.load_model(folder / "model.onnx", load_external_data=False)
    model.graph.initializer[0].CopyFrom(external_tensor(**entries))
    replace_file(folder, "model.onnx", model.SerializeToString())
    with pytest.raises(BundleInvalid, match=reason):
        Bundle.open(folder)


def test_external_data_that_repeats_a_key_is_refused(folder):
    model = onnx.load_model(folder / "model.onnx", load_external_data=False)
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    replace_file(folder, "model.onnx", model.SerializeToString())
    with pytest.raises(BundleInvalid, match=r"repeats a key"):
        Bundle.open(folder)


def attribute(**fields) -> onnx.NodeProto:
    node = onnx.NodeProto(op_type="Anything", output=["unused"])
    node.attribute.add(name="a", **fields)
    return node


HIDDEN = external_tensor(location="/etc/passwd")


SPARSE = onnx.SparseTensorProto(values=HIDDEN)


IN_A_GRAPH = onnx.GraphProto(initializer=[HIDDEN])


HIDING_NODES = {
    "attribute": attribute(t=HIDDEN),
    "attribute list": attribute(tensors=[HIDDEN]),
    "sparse attribute": attribute(sparse_tensor=SPARSE),
    "sparse attribute list": attribute(sparse_tensors=[SPARSE]),
    "subgraph": attribute(g=IN_A_GRAPH),
    "subgraph list": attribute(graphs=[IN_A_GRAPH]),
    "nested subgraph": attribute(g=onnx.GraphProto(node=[attribute(g=IN_A_GRAPH)])),
    "sparse initializer": attribute(g=onnx.GraphProto(sparse_initializer=[SPARSE])),
    "sparse indices": attribute(sparse_tensor=onnx.SparseTensorProto(indices=HIDDEN)),
}


@pytest.mark.parametrize("node", HIDING_NODES.values(), ids=HIDING_NODES.keys())
@pytest.mark.parametrize("place", ["graph", "function", "default of a function"])
def test_external_data_is_found_wherever_a_model_can_hide_it(folder, node, place):
    model = onnx.load_model(folder / "model.onnx", load_external_data=False)
    if place == "graph":
        model.graph.node.append(node)
    elif place == "function":
        model.functions.add(name="f", domain="own").node.append(node)
    else:
        model.functions.add(name="f", domain="own").attribute_proto.extend(node.attribute)
    replace_file(folder, "model.onnx", model.SerializeToString())
    with pytest.raises(BundleInvalid, match=r"external data: '/etc/passwd' is not a safe"):
        Bundle.open(folder)


def test_weights_lie_at_any_offset_of_any_listed_file(folder):
    table = np.random.default_rng(0).standard_normal((260, 16), dtype=np.float32)
    (folder / "weights").mkdir()
    (folder / "weights" / "table.data").write_bytes(b"odd" + table.tobytes() + b"tail")
    model = fp32_model(table)
    tensor = external_tensor(location="weights/table.data", offset=3, length=table.nbytes)
    model.graph.initializer[0].CopyFrom(tensor)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "model.safetensors").unlink()
    bundle = write_bundle(folder, **declared())
    Encoder.open(bundle, threads=1).verify_probes()


def test_a_graph_with_too_many_nodes_is_refused(folder):
    model = pooled_model([], [], 16)
    model.graph.node.extend(onnx.NodeProto(op_type="Identity") for _ in range(100_001))
    replace_file(folder, "model.onnx", model.SerializeToString())
    with pytest.raises(BundleInvalid, match=r"more than 100000 nodes"):
        Bundle.open(folder)
