"""Encoders that exist: opened from any folder or hub id with all that shapes their vectors, and saved.

Why `tokenizer.json` is read by itself and not by `AutoTokenizer`: transformers 5 rebuilds parts of
some tokenizers from the defaults of their class, so that texts get other pieces than the ones that
the model was trained with. The service reads that file alone, and so does training.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import metadata_load, metadata_save, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer, normalizers
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedTokenizerFast

from service.types import Role
from training.checkpoint import RunFolder, Weights
from training.model import ModelMissing, SentenceEncoder
from training.row_int8 import SMALL_WEIGHTS, read_small_weights
from training.sentence_folder import (
    MODULES,
    ModelUnsupported,
    Pooling,
    SentenceFolder,
    read_sentence_folder,
    write_sentence_folder,
)
from training.vocabulary import Pieces

__all__ = [
    "ModelMissing",
    "ModelUnsupported",
    "Pretrained",
    "locate",
    "open_pretrained",
    "open_run",
    "save_pretrained",
]

PACKAGE = "package:"
WEIGHTS = "model.safetensors"
TOKENIZER, TOKENIZER_SETTINGS, CARD = "tokenizer.json", "tokenizer_config.json", "README.md"
UNSTATED = "unstated"

WITH_POOLER = {"bert", "roberta", "xlm-roberta", "mpnet"}
FAMILIES = WITH_POOLER | {"modernbert", "distilbert"}
NUMBERED_FROM_PADDING = {"roberta", "xlm-roberta", "mpnet"}
"""Their first token has position `pad_token_id` + 1, which takes as many from the table."""
DROPOUTS = {
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
}
"""What the families call the rates of dropout inside their layers."""


@dataclass(frozen=True, slots=True)
class Pretrained:
    """An encoder with its tokenizer and what must be said to both for the same vectors."""

    encoder: SentenceEncoder
    pieces: Pieces
    prompts: dict[Role, str]
    """Text that goes before every query and every passage; "" where none does."""
    max_tokens: int
    """Longer texts are cut, special tokens included."""
    name: str
    revision: str = ""
    """Commit on the hub, or version of a bundle; empty for a plain folder."""
    licence: str = UNSTATED
    base: str = ""
    """Of an encoder that a run trained: what it was before, with revision and licence."""
    by_cosine: bool = True
    """Whether normalising the vectors, as a bundle must, leaves its rankings as they are."""
    languages: tuple[str, ...] = ()
    """As its card or manifest names them; empty where they do not."""
    folder: Path | None = None
    """Where its tokenizer and weights were read."""
    weights: str = ""
    """Of a run: `best` or `last`."""


def open_pretrained(
    spec: str,
    *,
    max_tokens: int | None = None,
    dropout: float | None = None,
    pooling: Pooling | None = None,
    prompts: Mapping[Role, str] | None = None,
) -> Pretrained:
    """Open a bundle, a Sentence Transformers or transformers folder, `package:NAME/FOLDER`, a hub id.

    `pooling` and `prompts` are for folders that do not say their own; `prompts` may also replace
    them, `pooling` may not. The encoder is in float32, on the CPU, in evaluation mode.

    Raises:
        ModelMissing: nothing is there, and the hub does not answer.
        ModelUnsupported: it has a part that is not known, or does not say one that is needed.
    """
    folder = locate(spec)
    if (folder / MODULES).is_file():
        read = read_sentence_folder(folder, prompts=prompts)
        if pooling not in {None, read.pooling}:
            raise ModelUnsupported(f"{spec}: its pooling is {read.pooling}, not {pooling}")
    elif pooling is None:
        raise ModelUnsupported(
            f"{spec}: a transformers folder without {MODULES} does not say how its vectors are"
            " pooled: say it (start.pooling in a recipe, --pooling on the command line: mean or cls)"
        )
    else:
        read = SentenceFolder(pooling=pooling, prompts=prompts or {})
    inner = folder / read.transformer
    config = _config(spec, inner, dropout)
    limit = _limit(spec, inner, config, said=read.max_tokens, asked=max_tokens)
    tokenizer = _tokenizer(inner, lower_case=read.lower_case)
    name, revision, licence, languages = _identity(spec, folder)
    return Pretrained(
        encoder=SentenceEncoder(_backbone(spec, inner, config), pooling=read.pooling).eval(),
        pieces=Pieces.of(tokenizer, limit),
        prompts={"query": "", "passage": "", **read.prompts},
        max_tokens=limit,
        name=name,
        revision=revision,
        licence=licence,
        by_cosine=read.by_cosine,
        languages=languages,
        folder=inner,
    )


def open_run(path: Path, weights: Weights = "auto") -> Pretrained:
    """The encoder of a run with its best or its last weights.

    Raises:
        ModelMissing: the run has no such weights.
    """
    run = RunFolder(path)
    kept, checkpoint = run.kept(weights)
    if not checkpoint.exists or not run.encoder.is_dir():
        raise ModelMissing(
            f"{path} holds no {kept} weights (--weights {weights}): it is no folder of a run, or"
            " none were saved"
        )
    opened = open_pretrained(str(run.encoder))
    opened.encoder.load_state_dict(load_file(checkpoint.weights))
    recipe = json.loads(run.recipe.read_text("utf-8"))
    before = _card(run.encoder / CARD).get("base_model", opened.name)
    return replace(
        opened,
        name=recipe["name"],
        revision=recipe["version"],
        licence=recipe["licence"],
        base=f"{before} ({opened.licence})",
        weights=kept,
    )


def save_pretrained(folder: Path, model: Pretrained) -> None:
    """Write a Sentence Transformers folder: weights, tokenizer, and a card that says where from.

    The tokenizer goes by the generic class, which takes `tokenizer.json` as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.encoder.backbone.save_pretrained(folder)
    (folder / WEIGHTS).chmod(0o644)  # the writer's umask made it private
    tokenizer = model.pieces.tokenizer
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        model_max_length=model.max_tokens,
        model_input_names=["input_ids", "attention_mask"],
        **_special_tokens(model.pieces),
    ).save_pretrained(folder)
    # By the name that versions before 5 know as well.
    settings = folder / TOKENIZER_SETTINGS
    content = json.loads(settings.read_text("utf-8")) | {
        "tokenizer_class": "PreTrainedTokenizerFast"
    }
    settings.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    tokenizer.save(str(folder / TOKENIZER))
    name = f"{model.name}@{model.revision}" if model.revision else model.name
    metadata_save(folder / CARD, {"license": model.licence, "base_model": name})
    read = SentenceFolder(
        pooling=model.encoder.pooling, prompts=model.prompts, max_tokens=model.max_tokens
    )
    pooler = model.encoder.backbone.config.model_type in WITH_POOLER
    write_sentence_folder(folder, read, width=model.encoder.width, pooler=pooler)


def locate(spec: str) -> Path:
    """The folder of a model: `package:NAME/FOLDER`, a local path, or a hub id, perhaps `ID@REVISION`.

    Raises:
        ModelMissing: nothing is there, and the hub does not answer either.
    """
    if spec.startswith(PACKAGE):
        name, _, inner = spec.removeprefix(PACKAGE).partition("/")
        package = find_spec(name)
        if package is None or package.origin is None:
            raise ModelMissing(f"{spec}: package {name!r} is not installed; name a folder instead")
        folder = Path(package.origin).parent / inner
    else:
        folder = Path(spec)
        if not folder.exists():
            folder = _from_hub(spec)
    if not (folder / MODULES).is_file() and not (folder / "config.json").is_file():
        raise ModelMissing(f"{spec}: {folder} holds neither {MODULES} nor config.json")
    return folder


def _from_hub(spec: str) -> Path:
    name, _, revision = spec.partition("@")
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision or None,
                allow_patterns=["*.json", "*.safetensors", "README.md"],
                ignore_patterns=["onnx/*", "openvino/*"],
            )
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelMissing(f"{spec}: no such folder, and not on the hub: {error}") from error


def _config(spec: str, folder: Path, dropout: float | None) -> PretrainedConfig:
    path = folder / "config.json"
    content = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    family = content.get("model_type")
    if family not in FAMILIES or content.get("auto_map") or content.get("is_decoder"):
        raise ModelUnsupported(
            f"{spec}: model_type {family!r}"
            + (" with code of its own" if content.get("auto_map") else "")
            + (" as a decoder" if content.get("is_decoder") else "")
            + f" cannot be read; there are {', '.join(sorted(FAMILIES))}"
        )
    config: PretrainedConfig = AutoConfig.from_pretrained(folder)
    if dropout is not None:
        for name in DROPOUTS & config.to_dict().keys():
            setattr(config, name, dropout)
    return config


def _limit(
    spec: str, folder: Path, config: PretrainedConfig, *, said: int | None, asked: int | None
) -> int:
    """The most tokens of a text: what was asked, what the folder says, what the tables hold."""
    most = int(config.max_position_embeddings)
    if config.model_type in NUMBERED_FROM_PADDING:
        most -= int(config.pad_token_id) + 1
    path = folder / TOKENIZER_SETTINGS
    own = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    limit = said or int(own.get("model_max_length") or most)
    if asked is not None and asked > most:
        raise ModelUnsupported(f"{spec}: max_tokens = {asked}, its positions end at {most}")
    return asked or min(limit, most)


def _tokenizer(folder: Path, *, lower_case: bool) -> Tokenizer:
    path = folder / TOKENIZER
    if not path.is_file():
        raise ModelUnsupported(
            f"{folder} holds no {TOKENIZER}: save one with AutoTokenizer.from_pretrained(…)"
            ".save_pretrained(…), and compare its pieces with the model's own"
        )
    tokenizer = Tokenizer.from_file(str(path))
    if lower_case:
        own = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    return tokenizer


def _backbone(spec: str, folder: Path, config: PretrainedConfig) -> Any:
    pooler = {"add_pooling_layer": False} if config.model_type in WITH_POOLER else {}
    if not (folder / WEIGHTS).is_file() and (folder / SMALL_WEIGHTS).is_file():
        return _small_backbone(spec, folder, config, **pooler)
    # What is left over (a pooler, the head of pre-training) is no news; what is missing is below.
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        model, report = AutoModel.from_pretrained(
            folder, config=config, dtype=torch.float32, output_loading_info=True, **pooler
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelUnsupported(f"{spec}: its weights cannot be read: {error}") from error
    finally:
        logger.setLevel(level)
    if missing := sorted(report["missing_keys"]):
        raise ModelUnsupported(f"{spec}: its weights lack {', '.join(missing[:5])}")
    return model


def _small_backbone(spec: str, folder: Path, config: PretrainedConfig, **pooler: bool) -> Any:
    """The backbone of a bundle that keeps its weights as int8 alone."""
    model = AutoModel.from_config(config, dtype=torch.float32, **pooler)  # type: ignore[no-untyped-call]
    try:
        model.load_state_dict(read_small_weights(folder))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ModelUnsupported(f"{spec}: {SMALL_WEIGHTS} cannot be read: {error}") from error
    return model


def _identity(spec: str, folder: Path) -> tuple[str, str, str, tuple[str, ...]]:
    """Name, revision, licence and languages, as far as the folder says them."""
    manifest = folder / "bundle.json"
    if manifest.is_file():
        content = json.loads(manifest.read_text("utf-8"))
        licence = content["provenance"]["licence"]
        return content["name"], content["version"], licence, tuple(content["languages"])
    revision = folder.name if folder.parent.name == "snapshots" else ""
    known = revision or spec.startswith(PACKAGE)
    card = _card(folder / CARD)
    languages = card.get("language") or ()
    return (
        spec.partition("@")[0] if known else folder.resolve().name,
        revision,
        str(card.get("license") or UNSTATED),
        (languages,) if isinstance(languages, str) else tuple(map(str, languages)),
    )


def _card(path: Path) -> dict[str, Any]:
    """The front matter of a model card; empty where there is none that can be read."""
    try:
        return (metadata_load(path) if path.is_file() else None) or {}
    except Exception:  # noqa: BLE001 - the YAML parser's own errors, about a file only quoted from
        return {}


def _special_tokens(pieces: Pieces) -> dict[str, str]:
    tokenizer = pieces.tokenizer
    numbers = {
        "pad_token": pieces.pad,
        "bos_token": pieces.start,
        "cls_token": pieces.start,
        "eos_token": pieces.end,
        "sep_token": pieces.end,
        "mask_token": pieces.mask,
    }
    found: dict[str, str] = {
        name: str(tokenizer.id_to_token(number))
        for name, number in numbers.items()
        if number is not None
    }
    model = json.loads(tokenizer.to_str())["model"]
    unknown = model.get("unk_token")
    if unknown is None and model.get("unk_id") is not None:
        unknown = tokenizer.id_to_token(model["unk_id"])
    return found if unknown is None else {**found, "unk_token": str(unknown)}
