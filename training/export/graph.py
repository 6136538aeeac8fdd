"""torch to ONNX: an fp32 graph over the weights of `model.safetensors`, and an fp16 one.

The fp32 weights lie on disk once: the graph names byte ranges of the safetensors file as its
external data. For this it is exported without folding, so that its initializers *are* the
parameters, transposes and all; ONNX Runtime folds them when it loads. What is no parameter and too
large for the graph lies in `model.onnx.data`.

Why no fused graph: on the CPU fusing gained nothing over what ONNX Runtime does by itself, and
fused attention for CUDA was never measured on one.
"""

import copy
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnxscript import optimizer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from service.manifest import Precision
from training.centroids import Projection
from training.model import SentenceEncoder

OPSET = 20
"""17 is delivered as 18, and 23 breaks ModernBERT for more than one text."""
WEIGHTS = "model.safetensors"
BACKBONE = "encoder.backbone."
"""Before the name of a parameter, in an exported graph and in `Exported`."""
GRAPHS: dict[Precision, str] = {
    "fp32": "model.onnx",
    "fp16": "model.fp16.onnx",
    "int8": "model.int8.onnx",
}
INLINE_BYTES = 4 << 20
"""Constants up to this size stay in the fp32 graph."""
GRAPH_BYTES = 1 << 30
"""Graphs with more weights than this keep them in a file beside; protobuf's limit is twice it."""


class ExportFailed(RuntimeError):
    """The bundle would not be the model that it is made from; nothing was written."""


class Exported(nn.Module):
    """What a bundle computes: tokens, pooled, normalised, perhaps projected and normalised again."""

    def __init__(self, encoder: SentenceEncoder, projections: Sequence[Projection] = ()) -> None:
        super().__init__()
        self.encoder = encoder
        self.projections = nn.ModuleList(_Affine(projection) for projection in projections)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        vectors: Tensor = self.encoder(input_ids, attention_mask)
        for projection in self.projections:
            vectors = F.normalize(projection(vectors), dim=-1)
        return vectors

    def halved(self) -> "Exported":
        """A copy with the backbone's parameters in half precision; pooling and all after in full.

        Buffers stay: the frequencies of rotary positions lose too much.
        """
        half = copy.deepcopy(self)
        for parameter in half.encoder.backbone.parameters():
            parameter.data = parameter.data.half()
        return half


class _Affine(nn.Module):
    """A projection as a plain matrix product: of a `Gemm` the quantiser gets the shapes wrong."""

    def __init__(self, projection: Projection) -> None:
        super().__init__()
        self.columns = nn.Parameter(torch.from_numpy(projection.weight.T.copy()))
        bias = projection.bias
        self.bias = None if bias is None else nn.Parameter(torch.from_numpy(bias))

    def forward(self, vectors: Tensor) -> Tensor:
        moved = vectors @ self.columns
        return moved if self.bias is None else moved + self.bias


def write_graph(folder: Path, model: Exported) -> None:
    """Write the fp32 graph beside the weights, which must lie in the folder already."""
    graph = traced(model)
    refer_to_weights(graph, folder / WEIGHTS, spill=data_of(folder / GRAPHS["fp32"]))
    onnx.save(ir.to_proto(graph), folder / GRAPHS["fp32"])


def write_half(folder: Path, model: Exported) -> None:
    """Write the fp16 graph, which takes and gives what the fp32 one does."""
    graph = traced(model.halved())
    optimizer.optimize(graph)
    save_graph(graph, folder / GRAPHS["fp16"])


def data_of(graph: Path) -> Path:
    """Where a graph keeps what it has no room for."""
    return graph.with_name(f"{graph.name}.data")


def traced(model: Exported) -> ir.Model:
    """The graph as torch exports it, its initializers being the parameters."""
    pieces = model.encoder.backbone.config.vocab_size
    length = min(12, int(model.encoder.backbone.config.max_position_embeddings) - 2)
    ids = torch.arange(2 * length).reshape(2, length) % (pieces // 2) + pieces // 2
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    axes = {0: "batch", 1: "sequence"}
    with warnings.catch_warnings():
        # All are torch's about its own code, or about two inputs sharing the names of their axes.
        for category in (FutureWarning, DeprecationWarning, UserWarning):
            warnings.filterwarnings("ignore", category=category)
        program = torch.onnx.export(
            model.cpu().eval(),
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
    forget_sources(program.model)
    return program.model


def forget_sources(model: ir.Model) -> None:
    """Drop what an exporter notes of its Python source: half the file, and the maker's paths."""
    graph = model.graph
    values = [*graph.inputs, *graph.initializers.values()]
    for node in graph.all_nodes():
        node.doc_string = None
        node.metadata_props.clear()
        values += node.outputs
    for value in values:
        value.metadata_props.clear()
    graph.metadata_props.clear()
    model.metadata_props.clear()


def refer_to_weights(model: ir.Model, weights: Path, *, spill: Path) -> None:
    """Replace the initializers that are parameters by byte ranges of a safetensors file.

    Others stay in the graph, or go into the file `spill` beside it if they are large.
    """
    header, content = _read_header(weights)
    spilled = 0
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or value.name is None:
            raise ExportFailed(f"the graph's {value.name} has no value")
        own = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)
        place = header.get(value.name.removeprefix(BACKBONE))
        if place is not None and np.array_equal(own, content[place[0] : place[1]]):
            file, offset = weights, place[0]
        elif own.nbytes > INLINE_BYTES:
            with spill.open("ab" if spilled else "wb") as stream:
                stream.write(own.tobytes())
            file, offset = spill, spilled
            spilled += own.nbytes
        else:
            continue
        value.const_value = ir.ExternalTensor(
            file.name,
            offset,
            own.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.numpy().shape),
            name=value.name,
            base_dir=weights.parent,
        )


def _read_header(weights: Path) -> tuple[dict[str, tuple[int, int]], NDArray[np.uint8]]:
    content = np.memmap(weights, dtype=np.uint8, mode="r")
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    entries = json.loads(content[8:start].tobytes())
    entries.pop("__metadata__", None)
    places = {
        name: (start + entry["data_offsets"][0], start + entry["data_offsets"][1])
        for name, entry in entries.items()
    }
    return places, content


def save_graph(model: ir.Model, path: Path) -> None:
    """Write a graph with its weights inside, or beside it if they are many."""
    sizes = (v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)
    beside = sum(sizes) > GRAPH_BYTES
    if beside:
        ir.save(model, path, external_data=data_of(path).name)
        return
    onnx.save(ir.to_proto(ir.external_data.load_to_model(model)), path)
