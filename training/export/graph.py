"""torch to ONNX: an fp32 graph over the weights of `model.safetensors`, and an int8 one of its own.

The fp32 weights lie on disk once: the graph names byte ranges of the safetensors file as its
external data. For this it is exported without folding, so that its initializers *are* the
parameters, transposes and all; ONNX Runtime folds them when it loads.
"""

import json
import warnings
from pathlib import Path

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxscript import optimizer

from training.model import SentenceEncoder
from training.vocabulary import SPECIAL

OPSET = 20
WEIGHTS, GRAPH, SMALL_GRAPH = "model.safetensors", "model.onnx", "model.int8.onnx"
INLINE_BYTES = 1024
"""Constants up to this size, or of integers, stay in the graph; others must be parameters."""


class ExportFailed(RuntimeError):
    """The bundle would not be the model that was trained; nothing was written."""


def write_graphs(folder: Path, student: SentenceEncoder, *, max_tokens: int) -> None:
    """Write both graphs beside the weights, which must lie in the folder already.

    Raises:
        ExportFailed: a parameter is missing in the graph, or is not what the file holds.
    """
    graph = _traced(student.cpu().eval(), length=min(12, max_tokens))
    _forget_sources(graph)
    _write_small(optimizer.optimize(graph), folder)
    refer_to_weights(graph, folder / WEIGHTS)
    onnx.save(graph, folder / GRAPH)


def _traced(student: SentenceEncoder, *, length: int) -> onnx.ModelProto:
    ids = torch.full((2, length), len(SPECIAL), dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    axes = {0: "batch", 1: "sequence"}
    with warnings.catch_warnings():
        # All are torch's about its own code, or about two inputs sharing the names of their axes.
        for category in (FutureWarning, DeprecationWarning, UserWarning):
            warnings.filterwarnings("ignore", category=category)
        program = torch.onnx.export(
            student,
            (ids, mask),
            dynamo=True,
            opset_version=OPSET,
            input_names=["input_ids", "attention_mask"],
            output_names=["sentence_embedding"],  # `embedding` collides with an inner name
            dynamic_shapes={"input_ids": axes, "attention_mask": axes},
            optimize=False,  # folding would make the initializers differ from the parameters
            verbose=False,
        )
    if program is None:
        raise ExportFailed("torch.onnx.export returned no program")
    return program.model_proto


def _forget_sources(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes of its Python source: half the file, and the maker's paths."""
    graph = model.graph
    for node in graph.node:
        node.doc_string = ""
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
    del graph.metadata_props[:], model.metadata_props[:]


def _write_small(folded: onnx.ModelProto, folder: Path) -> None:
    """Dynamic int8, per channel: the matrix products, and the embedding tables."""
    source = folder / "folded.onnx"
    # The quantiser warns unless its own preparation ran, which folds as was done here.
    onnx.helper.set_model_props(folded, {"onnx.quant.pre_process": "onnxruntime.quant"})
    onnx.save(folded, source)
    quantize_dynamic(source, folder / SMALL_GRAPH, per_channel=True, weight_type=QuantType.QInt8)
    source.unlink()


def refer_to_weights(model: onnx.ModelProto, weights: Path) -> None:
    """Replace the initializers that are parameters by byte ranges of `model.safetensors`."""
    content = weights.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    places = {
        f"backbone.{name}": [start + offset for offset in entry["data_offsets"]]
        for name, entry in json.loads(content[8:start]).items()
        if name != "__metadata__"
    }
    for tensor in model.graph.initializer:
        place = places.pop(tensor.name, None)
        if place is None:
            if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.raw_data) > INLINE_BYTES:
                raise ExportFailed(f"{tensor.name}: a large constant that is no parameter")
            continue
        if content[place[0] : place[1]] != tensor.raw_data:
            raise ExportFailed(f"{tensor.name}: the graph and {weights.name} differ")
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        where = {"location": weights.name, "offset": place[0], "length": place[1] - place[0]}
        for key, value in where.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
    if places:
        raise ExportFailed(f"the graph does not use {', '.join(sorted(places))}")
