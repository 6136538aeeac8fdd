"""The other exporter: optimum in an environment of its own, its graph brought to the bundle's contract.

Why an environment: optimum-onnx pins transformers below 4.58, and training needs 5. It is a child
process that reads the staged folder, so nothing of it is imported here. Its graph is held to the
same parity with torch as our own.
"""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxscript import optimizer

from training.export.graph import GRAPHS, ExportFailed, data_of, forget_sources, save_graph

ENVIRONMENT = Path(__file__).parents[2] / ".venv-optimum" / "bin" / "python"
SCRIPT = Path(__file__).with_name("optimum_script.py")
OPSET = 18
TIMEOUT_S = 3600.0
OUTPUT, TYPES = "sentence_embedding", "token_type_ids"
PREPARED = {"onnx.quant.pre_process": "onnxruntime.quant"}
"""The quantiser warns unless its own preparation ran, which folds as is done here."""


def write_graph_by_optimum(
    folder: Path, *, dimension: int, python: Path = ENVIRONMENT
) -> dict[str, str]:
    """Write the fp32 graph of a staged Sentence Transformers folder; returns the tools' versions.

    Raises:
        ExportFailed: the environment is missing, or the export failed; says what it printed.
    """
    if not python.is_file():
        raise ExportFailed(
            f"{python} is missing: make the environment of the exporter with `make optimum-env`,"
            " or name its Python with --optimum-python"
        )
    out = folder / "optimum"
    # Isolated: the names of files beside the script must not hide those of its libraries.
    paths = [str(path.resolve()) for path in (SCRIPT, folder, out)]
    command = [str(python), "-I", *paths, str(OPSET)]
    try:
        done = subprocess.run(  # noqa: S603 - our script and the user's own interpreter
            command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
        if done.returncode != 0:
            said = "\n".join(done.stderr.splitlines()[-8:])
            raise ExportFailed(f"optimum failed with status {done.returncode}: {said}")
        graph = ir.load(out / "model.onnx")
        fit_contract(graph, dimension=dimension)
        save_graph(graph, folder / GRAPHS["fp32"])
    except subprocess.TimeoutExpired as error:
        raise ExportFailed(f"optimum took longer than {TIMEOUT_S:.0f} s") from error
    finally:
        shutil.rmtree(out, ignore_errors=True)
    versions: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return {f"optimum-env:{name}": number for name, number in versions.items()}


def write_small_by_onnxruntime(folder: Path) -> None:
    """Write the int8 graph of the fp32 one by ONNX Runtime's own quantiser, weights inside.

    In optimum's graph the matrices have lost the names that `training.export.small` goes by.
    """
    graph = ir.load(folder / GRAPHS["fp32"])
    optimizer.optimize(graph)
    graph.metadata_props.update(PREPARED)
    source = folder / "folded.onnx"
    save_graph(graph, source)
    quantize_dynamic(source, folder / GRAPHS["int8"], per_channel=True, weight_type=QuantType.QInt8)
    for file in (source, data_of(source)):
        file.unlink(missing_ok=True)


def fit_contract(model: ir.Model, *, dimension: int) -> None:
    """Keep one output, [batch, dimension], and of the inputs only ids and mask: all types are zero.

    Raises:
        ExportFailed: the graph has no `sentence_embedding`, or another input that is needed.
    """
    graph = model.graph
    kept = [value for value in graph.outputs if value.name == OUTPUT]
    if not kept:
        raise ExportFailed(f"optimum's graph has outputs {[v.name for v in graph.outputs]}")
    graph.outputs[:] = kept
    kept[0].shape = ir.Shape(["batch", dimension])
    inputs = {str(value.name): value for value in graph.inputs}
    if unknown := inputs.keys() - {"input_ids", "attention_mask", TYPES}:
        raise ExportFailed(f"optimum's graph needs {', '.join(sorted(unknown))}")
    if TYPES in inputs:
        _make_zero(graph, inputs[TYPES], like=inputs["input_ids"])
    forget_sources(model)


def _make_zero(graph: ir.Graph, value: ir.Value, *, like: ir.Value) -> None:
    graph.inputs.remove(value)
    shape = ir.Node("", "Shape", [like])
    zeros = ir.Node(
        "",
        "ConstantOfShape",
        [shape.outputs[0]],
        [ir.AttrTensor("value", ir.tensor(np.zeros(1, dtype=np.int64)))],
    )
    shape.outputs[0].name, zeros.outputs[0].name = "token_types_shape", "token_types_zero"
    ir.convenience.replace_all_uses_with(value, zeros.outputs[0])
    graph.insert_before(graph[0], [shape, zeros])
