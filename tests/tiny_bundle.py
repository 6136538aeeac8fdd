"""A real bundle of a few kilobytes: random byte embeddings, masked mean, L2 norm.

Its tokenizer knows every byte, so any script works; texts that share many bytes are near each other.
Two seeds give two unrelated spaces of equal dimension. No torch, about ten milliseconds.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from service.bundle import Bundle, write_bundle
from service.probes import Probes
from service.sealed_folder import digest

PROVENANCE = {
    "base_model": "none",
    "recipe": "tests/tiny_bundle.py",
    "data": {"random": {"licence": "CC0-1.0", "rows": 0, "sha256": "0" * 64}},
    "commit": "0" * 40,
    "licence": "Apache-2.0",
    "created": "2026-01-01T00:00:00Z",
}
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
PROBE_TEXTS = {
    "en": "the river rises in spring",
    "de": "Der Fluss steigt im Frühling",
    "ru": "весной река поднимается",
    "ar": "يرتفع النهر في الربيع",
    "hi": "वसंत में नदी बढ़ती है",
    "zh": "春天河水上涨",
    "ja": "春には川の水かさが増す",
    "th": "แม่น้ำสูงขึ้นในฤดูใบไม้ผลิ",
}


def build_tiny_bundle(
    folder: Path,
    *,
    name: str = "tiny",
    version: str = "1",
    seed: int = 0,
    dimension: int = 16,
    dimensions: Sequence[int] | None = None,
    max_tokens: int = 128,
    prompts: Mapping[str, str] | None = None,
    precisions: Sequence[str] = ("fp32",),
    external: bool = True,
    tokenizer: Tokenizer | None = None,
    drift: float = 0.0,
    compatible_with: Sequence[Mapping[str, Any]] = (),
) -> Bundle:
    """Build and seal a bundle; every option but `name`, `version` and claims changes its space.

    With a `drift` it is the encoder of this seed, moved a little: a share of its embeddings is noise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer or build_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    table = np.random.default_rng(seed).standard_normal(
        (tokenizer.get_vocab_size(), dimension), dtype=np.float32
    )
    if drift:
        table += drift * np.random.default_rng((seed, 1)).standard_normal(
            table.shape, dtype=np.float32
        )
    tables: dict[str, np.ndarray] = {}
    graphs: dict[str, str] = {}
    for precision in precisions:
        graphs[precision] = "model.onnx" if precision == "fp32" else f"model.{precision}.onnx"
        if precision == "int8":
            scale = np.float32(np.abs(table).max() / 127)
            rounded = np.round(table / scale).astype(np.int8)
            tables[precision] = rounded.astype(np.float32) * scale
            model = int8_model(rounded, scale)
        else:
            tables[precision] = table
            model = fp32_model(table, weights=folder / "model.safetensors" if external else None)
        (folder / graphs[precision]).write_bytes(model.SerializeToString(deterministic=True))
    probes = _reference_probes(tokenizer, tables, dict(prompts or {}), max_tokens)
    probes.save(folder / "probes.npz")
    return write_bundle(
        folder,
        name=name,
        version=version,
        dimension=dimension,
        dimensions=list(dimensions or [dimension]),
        max_tokens=max_tokens,
        pooling="mean",
        prompts=dict(prompts or {}),
        languages=list(PROBE_TEXTS),
        precisions=graphs,
        provenance=PROVENANCE,
        compatible_with=list(compatible_with),
    )


def claim(bundle: Bundle) -> dict[str, Any]:
    """What a bundle would declare whose queries find the passages of this one."""
    return {
        "space": bundle.manifest.space["fp32"],
        "precision": "fp32",
        "ndcg": {"en-en": [0.9, 0.9]},
        "tolerance": 0.02,
        "measured_on": "nothing",
    }


def build_tokenizer() -> Tokenizer:
    """One token a byte, between <s> and </s>; with the built-in limits that real ones carry."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(SPECIAL + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.enable_truncation(max_length=8)
    tokenizer.enable_padding(pad_id=1, pad_token="<pad>", length=8)
    return tokenizer


def fp32_model(table: np.ndarray, *, weights: Path | None = None) -> onnx.ModelProto:
    """The table in the graph, or in a safetensors file that the graph refers to."""
    tensor = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=table.shape)
    if weights is None:
        tensor.raw_data = table.tobytes()
    else:
        header = json.dumps(
            {"table": {"dtype": "F32", "shape": table.shape, "data_offsets": [0, table.nbytes]}}
        ).encode()
        weights.write_bytes(len(header).to_bytes(8, "little") + header + table.tobytes())
        refer(tensor, location=weights.name, offset=8 + len(header), length=table.nbytes)
    embed = [helper.make_node("Gather", ["table", "input_ids"], ["embedded"])]
    return pooled_model(embed, [tensor], table.shape[1])


def int8_model(table: np.ndarray, scale: np.float32) -> onnx.ModelProto:
    """The table as signed bytes with one scale."""
    tensors = [
        helper.make_tensor("table", TensorProto.INT8, table.shape, table.tobytes(), raw=True),
        helper.make_tensor("scale", TensorProto.FLOAT, [], [float(scale)]),
    ]
    embed = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("DequantizeLinear", ["rows", "scale"], ["embedded"]),
    ]
    return pooled_model(embed, tensors, table.shape[1])


def pooled_model(
    embed: Sequence[onnx.NodeProto], tensors: Sequence[TensorProto], dimension: int
) -> onnx.ModelProto:
    """`embedded` [batch, sequence, dimension] → masked mean → L2 norm → `sentence_embedding`."""
    node = helper.make_node
    nodes = [
        *embed,
        node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["mask", "last"], ["column"]),
        node("Mul", ["embedded", "column"], ["kept"]),
        node("ReduceSum", ["kept", "sequence"], ["sum"], keepdims=0),
        node("ReduceSum", ["column", "sequence"], ["tokens"], keepdims=0),
        node("Max", ["tokens", "one"], ["count"]),
        node("Div", ["sum", "count"], ["mean"]),
        node("ReduceL2", ["mean", "sequence"], ["norm"], keepdims=1),
        node("Max", ["norm", "tiny"], ["length"]),
        node("Div", ["mean", "length"], ["sentence_embedding"]),
    ]
    constants = [
        helper.make_tensor("last", TensorProto.INT64, [1], [2]),
        helper.make_tensor("sequence", TensorProto.INT64, [1], [1]),
        helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
        helper.make_tensor("tiny", TensorProto.FLOAT, [], [1e-12]),
    ]
    port = helper.make_tensor_value_info
    axes = ["batch", "sequence"]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [port(name, TensorProto.INT64, axes) for name in ("input_ids", "attention_mask")],
        [port("sentence_embedding", TensorProto.FLOAT, ["batch", dimension])],
        [*tensors, *constants],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def refer(tensor: TensorProto, **entries: object) -> None:
    """Make the tensor's data external."""
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


def edit_manifest(folder: Path, **fields) -> None:
    path = folder / "bundle.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, **fields}))


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """Change a listed file, and the manifest with it: hashes hold, only the content is wrong."""
    (folder / name).write_bytes(data)
    files = json.loads((folder / "bundle.json").read_text())["files"]
    edit_manifest(folder, files={**files, name: digest(folder / name)})


def declared(**fields) -> dict:
    """The smallest declaration that fits a folder of the tiny bundle."""
    return {
        "name": "tiny",
        "version": "1",
        "dimension": 16,
        "max_tokens": 128,
        "pooling": "mean",
        "precisions": {"fp32": "model.onnx"},
        "provenance": PROVENANCE,
    } | fields


def _reference_probes(
    tokenizer: Tokenizer,
    tables: Mapping[str, np.ndarray],
    prompts: Mapping[str, str],
    max_tokens: int,
) -> Probes:
    """What the graph should give, in NumPy."""
    tokenizer.enable_truncation(max_tokens)
    tokenizer.no_padding()
    texts, languages = list(PROBE_TEXTS.values()), list(PROBE_TEXTS)
    roles = ["query" if number % 2 else "passage" for number in range(len(texts))]
    prompted = [prompts.get(role, "") + text for role, text in zip(roles, texts, strict=True)]
    ids = [encoding.ids for encoding in tokenizer.encode_batch(prompted)]
    vectors = {}
    for precision, table in tables.items():
        means = np.stack([table[row].mean(axis=0) for row in ids])
        vectors[precision] = means / np.linalg.norm(means, axis=1, keepdims=True)
    return Probes(texts, roles, languages, vectors)
