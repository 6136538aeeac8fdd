"""From an encoder to a bundle: nothing lies in its place before the serving code reproduced torch.

A run, and any model that can be opened, take the same road. The fp32 graph must equal torch on text
of every language; an fp16 or int8 graph is shipped, beside it or alone, only if it passes the gate in
every language, whose table goes into the manifest either way.
"""

import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from service.bundle import Bundle, write_bundle
from service.encoder import Encoder
from service.golden import write_golden
from service.manifest import GOLDEN, Precision
from service.probes import Probes
from service.types import Matrix
from training.centroids import Projection
from training.export.by_optimum import write_graph_by_optimum, write_small_by_onnxruntime
from training.export.card import model_card
from training.export.dense import cut_to, write_dense
from training.export.gate import Embed, Row, check_parity, variant_gate
from training.export.graph import (
    GRAPHS,
    WEIGHTS,
    Exported,
    ExportFailed,
    data_of,
    write_graph,
    write_half,
)
from training.export.order import Choices, Order, Sealed, failures
from training.export.probes import probes_of
from training.export.removal import language_removal
from training.export.small import write_small
from training.export.vectors import by_service, by_torch, of_probes
from training.pretrained import CARD, save_pretrained
from training.row_int8 import SMALL_WEIGHTS

TOOLS = ("torch", "transformers", "tokenizers", "onnx", "onnx-ir", "onnxscript", "onnxruntime")


def write(out: Path, order: Order, choices: Choices) -> Sealed:
    """Write a bundle in `out`, which may hold an older one.

    Raises:
        ExportFailed: the choices contradict each other, `out` holds something else, or the
            vectors of the serving code are not those of torch; then nothing is changed.
    """
    choices.check(out, order)
    staged = out.with_name(out.name + ".partial")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        sealed = _sealed(staged, order, choices)
    except BaseException:
        shutil.rmtree(staged)
        raise
    shutil.rmtree(out, ignore_errors=True)
    staged.rename(out)
    return Sealed(Bundle(out, sealed.bundle.manifest), sealed.parity, sealed.gates)


def _sealed(folder: Path, order: Order, choices: Choices) -> Sealed:
    projections, removal = _projections(order, choices)
    ours = by_torch(order.model, projections)
    declared = _declaration(order, choices)
    declared["provenance"]["tools"] |= _write_files(folder, order, choices, projections)
    probes = probes_of(order.pairs)
    exact = of_probes(ours, probes)
    # The graphs are measured through the serving code, which opens nothing but a sealed bundle.
    drafted = dict.fromkeys(("fp32", *choices.precisions), exact)
    draft = _seal(folder, order, declared, probes=probes, vectors=drafted)
    parity, gates, found = _measured(draft, order, ours, probes)
    found["fp32"] = exact
    lost = failures(gates)
    kept = {name: found[name] for name in choices.precisions if name not in lost}
    if not kept.keys() & {"fp32", "int8"}:
        failed = "; ".join(_said(row) for row in gates["int8"] if not row["passed"])
        raise ExportFailed(
            f"int8 failed its gate in {failed}; and fp32 is not among the --precisions: ship it too,"
            " or see a recipe's [variants]"
        )
    _remove(folder, [name for name in GRAPHS if name not in kept])
    declared["evaluation"] = {
        **order.evaluation,
        **removal,
        "parity": parity,
        "thresholds": order.limits.model_dump(),
        "variants": {p: {"shipped": p not in lost, "languages": t} for p, t in gates.items()},
    }
    bundle = _seal(folder, order, declared, probes=probes, vectors=kept)
    _verify(folder)
    return Sealed(bundle, parity, gates)


def _said(row: Row) -> str:
    numbers = ("mean_cosine", "min_cosine", "top10_overlap", "fp32_ndcg", "ndcg", "p")
    return f"{row['language']} ({', '.join(f'{name} {row[name]}' for name in numbers)})"


def _remove(folder: Path, precisions: Sequence[Precision]) -> None:
    """The graphs of these precisions, and what only they read."""
    weights = {"fp32": WEIGHTS, "int8": SMALL_WEIGHTS}
    for precision in precisions:
        graph = folder / GRAPHS[precision]
        for file in (graph, data_of(graph), folder / weights.get(precision, graph.name)):
            file.unlink(missing_ok=True)


def _projections(order: Order, choices: Choices) -> tuple[list[Projection], dict[str, Any]]:
    """What follows the normalised vector, and what is to be reported of it."""
    projections: list[Projection] = []
    if choices.dimension is not None:
        projections.append(cut_to(choices.dimension, width=order.model.encoder.width))
    if not choices.remove_languages:
        return projections, {}
    pairs = order.centroid_pairs or order.pairs
    without = by_torch(order.model, projections)
    projection, report = language_removal(without, pairs, rank=choices.rank)
    return [*projections, projection], {"language_removal": report}


def _write_files(
    folder: Path, order: Order, choices: Choices, projections: Sequence[Projection]
) -> dict[str, str]:
    """Weights, tokenizer, modules, golden queries and graphs; returns the tools beyond this environment's."""
    save_pretrained(folder, order.model)
    write_dense(folder, projections)
    if order.golden:
        write_golden(folder / GOLDEN, order.golden)
    model = Exported(order.model.encoder, projections)
    tools: dict[str, str] = {}
    if choices.exporter == "optimum":
        dimension = choices.dimension or order.model.encoder.width
        tools = write_graph_by_optimum(folder, dimension=dimension, python=choices.optimum_python)
    else:
        write_graph(folder, model)
    if "fp16" in choices.precisions:
        write_half(folder, model)
    if "int8" in choices.precisions and choices.exporter == "optimum":
        write_small_by_onnxruntime(folder)
    elif "int8" in choices.precisions:
        write_small(folder, model)
    return tools


def _declaration(order: Order, choices: Choices) -> dict[str, Any]:
    dimension = choices.dimension or order.model.encoder.width
    widths = () if choices.remove_languages else order.widths
    tools = {name: version(name) for name in TOOLS}
    return {
        "name": order.name,
        "version": order.version,
        "dimension": dimension,
        "dimensions": sorted({*(width for width in widths if width < dimension), dimension}),
        "max_tokens": order.model.max_tokens,
        "pooling": order.model.encoder.pooling,
        "prompts": order.model.prompts,
        "languages": list(order.languages),
        "provenance": {**order.provenance, "tools": {**tools, "exporter": choices.exporter}},
    }


def _seal(
    folder: Path,
    order: Order,
    declared: dict[str, Any],
    *,
    probes: Probes,
    vectors: Mapping[Precision, Matrix],
) -> Bundle:
    declared["precisions"] = {precision: GRAPHS[precision] for precision in vectors}
    complete = Probes(probes.texts, probes.roles, probes.languages, vectors)
    complete.save(folder / "probes.npz")
    (folder / CARD).write_text(model_card(declared, order.model), "utf-8")
    return write_bundle(folder, **declared)


def _measured(
    draft: Bundle, order: Order, ours: Embed, probes: Probes
) -> tuple[float, dict[Precision, list[Row]], dict[Precision, Matrix]]:
    """Parity with torch, and by variant its table and its own vectors of the probes."""
    threads = torch.get_num_threads()
    encoder = Encoder.open(draft, precision="fp32", threads=threads)
    full = by_service(encoder)
    parity = check_parity(ours, full, order.pairs)
    gates: dict[Precision, list[Row]] = {}
    vectors: dict[Precision, Matrix] = {}
    for precision in draft.manifest.precisions:
        if precision == "fp32":
            continue
        smaller = Encoder.open(draft, precision=precision, threads=threads)
        gates[precision] = variant_gate(full, by_service(smaller), order.pairs, order.limits)
        vectors[precision] = of_probes(by_service(smaller), probes)
        smaller.close()
    encoder.close()
    return parity, gates, vectors


def _verify(folder: Path) -> None:
    """Open the bundle as the service will, and reproduce its probes."""
    bundle = Bundle.open(folder)
    for precision in bundle.manifest.precisions:
        encoder = Encoder.open(bundle, precision=precision, threads=torch.get_num_threads())
        encoder.verify_probes()
        encoder.close()
