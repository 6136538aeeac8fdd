"""What a Sentence Transformers folder says of itself in its small JSON files: read, and written.

Why not by loading it with that library: it is a test dependency, it runs whatever modules a folder
names, and it does not say which of them a bundle's graph could not express. Here a folder is either
understood whole, or refused with the name of what is not.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from service.types import Role

Pooling: TypeAlias = Literal["mean", "cls"]

MODULES, PROMPTS, LIMITS = (
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
)
OWN = "sentence_transformers."
"""Module classes from elsewhere are code of the model's maker."""
HARMLESS = {"add_pooling_layer", "attn_implementation", "dtype", "torch_dtype", "use_safetensors"}
"""Arguments for the model that change none of its vectors, or that are set here anyway."""
ROLE_NAMES: Mapping[Role, tuple[str, ...]] = {
    "query": ("query",),
    "passage": ("document", "passage", "corpus"),
}
"""What Sentence Transformers looks a role's prompt up by, in its order."""


class ModelUnsupported(ValueError):
    """A model cannot be opened without guessing; the message names what is missing or unknown."""


@dataclass(frozen=True, slots=True)
class SentenceFolder:
    """How a folder's transformer becomes sentence vectors."""

    pooling: Pooling
    prompts: Mapping[Role, str] = field(default_factory=dict)
    max_tokens: int | None = None
    lower_case: bool = False
    """Lower-case before the tokenizer's own normalisation."""
    by_cosine: bool = True
    """Whether normalising the vectors changes no ranking: they are normalised, or meant for cosine."""
    transformer: str = ""
    """Below the folder, where configuration, weights and tokenizer lie."""


def read_sentence_folder(
    folder: Path, *, prompts: Mapping[Role, str] | None = None
) -> SentenceFolder:
    """Read a folder with a `modules.json`; given `prompts` take the place of its own.

    Raises:
        ModelUnsupported: a module, pooling mode, prompt or argument that a bundle cannot express.
    """
    modules = _modules(folder)
    kinds = [kind for kind, _ in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ModelUnsupported(
            f"{folder}: its modules are {', '.join(kinds)}; only Transformer, Pooling and perhaps"
            " Normalize can be read"
        )
    inner = folder / modules[0][1]
    limits = _read(inner / LIMITS)
    _check_arguments(inner / LIMITS, limits)
    pooling, whole = _pooling(folder / modules[1][1] / "config.json")
    settings = _read(folder / PROMPTS)
    if settings.get("model_type", "SentenceTransformer") != "SentenceTransformer":
        raise ModelUnsupported(f"{folder / PROMPTS}: model_type is {settings['model_type']}")
    found = prompts if prompts is not None else _prompts(folder / PROMPTS, settings)
    if not whole and any(found.values()):
        raise ModelUnsupported(
            f"{folder}: include_prompt is false: the prompt is left out of the mean, which the"
            " graph of a bundle cannot do"
        )
    similarity = settings.get("similarity_fn_name") or "cosine"
    return SentenceFolder(
        pooling=pooling,
        prompts=found,
        max_tokens=limits.get("max_seq_length"),
        lower_case=bool(limits.get("do_lower_case")),
        by_cosine="Normalize" in kinds or similarity == "cosine",
        transformer=modules[0][1],
    )


def write_sentence_folder(folder: Path, read: SentenceFolder, *, width: int, pooler: bool) -> None:
    """Write the files that make a transformers folder a Sentence Transformers folder.

    `pooler`: the class of the transformer has a pooling layer of its own, which must be left out.
    """
    write_modules(folder, ("Transformer", "Pooling", "Normalize"))
    flag = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}[read.pooling]
    modes = dict.fromkeys(("pooling_mode_cls_token", "pooling_mode_mean_tokens"), False)
    pooling = {"word_embedding_dimension": width, **modes, flag: True}
    _write(folder / "1_Pooling" / "config.json", pooling)
    arguments = {"model_args": {"add_pooling_layer": False}} if pooler else {}
    limits = {"max_seq_length": read.max_tokens, "do_lower_case": False, **arguments}
    _write(folder / LIMITS, limits)
    query, passage = (read.prompts.get(role, "") for role in ROLE_NAMES)
    _write(
        folder / PROMPTS,
        {
            "prompts": {"query": query, "document": passage, "passage": passage},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )


def write_modules(folder: Path, kinds: Sequence[str]) -> None:
    """Write `modules.json`; module k lies in the folder `k_KIND`, the transformer in the root."""
    modules = [
        {
            "idx": number,
            "name": str(number),
            "path": "" if number == 0 else f"{number}_{kind}",
            "type": f"sentence_transformers.models.{kind}",
        }
        for number, kind in enumerate(kinds)
    ]
    _write(folder / MODULES, modules)


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Class name and path of each module."""
    content = json.loads((folder / MODULES).read_text("utf-8"))
    for module in content:
        if not str(module["type"]).startswith(OWN):
            raise ModelUnsupported(
                f"{folder}: module {module['type']} is code of the model's own, which is not run"
            )
    return [(str(module["type"]).rpartition(".")[2], str(module["path"])) for module in content]


def _check_arguments(path: Path, limits: Mapping[str, Any]) -> None:
    for key in ("model_args", "model_kwargs", "config_args", "config_kwargs"):
        if unknown := (limits.get(key) or {}).keys() - HARMLESS:
            raise ModelUnsupported(f"{path}: {key} has {', '.join(sorted(unknown))}")
    task = limits.get("transformer_task", "feature-extraction")
    output = (limits.get("modality_config") or {}).get("text", {}).get("method_output_name")
    if task != "feature-extraction" or output not in {None, "last_hidden_state"}:
        raise ModelUnsupported(f"{path}: it asks for {task}, {output}; only hidden states are read")


def _pooling(path: Path) -> tuple[Pooling, bool]:
    """The mode, and whether the prompt's tokens count."""
    content = _read(path)
    named = content.get("pooling_mode")
    # Before version 6 each mode was a flag, and several could be set.
    flags = {
        "pooling_mode_cls_token": "cls",
        "pooling_mode_mean_tokens": "mean",
    }
    chosen = [
        flags.get(key, key) for key, value in content.items() if "pooling_mode_" in key and value
    ]
    modes = [named] if isinstance(named, str) else list(named or chosen)
    if len(modes) != 1 or modes[0] not in {"mean", "cls"}:
        raise ModelUnsupported(
            f"{path}: pooling is {', '.join(modes) or 'not said'}; only mean or cls alone can be read"
        )
    return cast("Pooling", modes[0]), bool(content.get("include_prompt", True))


def _prompts(path: Path, settings: Mapping[str, Any]) -> dict[Role, str]:
    named: dict[str, str] = settings.get("prompts") or {}
    default = settings.get("default_prompt_name")
    found: dict[Role, str] = {}
    for role, names in ROLE_NAMES.items():
        name = next((name for name in names if name in named), default)
        found[role] = named.get(name, "") if name is not None else ""
    others = sorted(name for name, text in named.items() if text and text not in found.values())
    if others and not named.keys() & {"query", *ROLE_NAMES["passage"]}:
        raise ModelUnsupported(
            f"{path}: its prompts are {', '.join(others)}, and none is for a query or a passage:"
            " say which text goes before each (--query-prompt and --passage-prompt, or"
            " start.prompts or teacher.prompts in a recipe)"
        )
    return found


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = json.loads(path.read_text("utf-8"))
    if not isinstance(content, dict):
        raise ModelUnsupported(f"{path}: not a JSON object")
    return content


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")
