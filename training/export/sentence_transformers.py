"""The files that make a bundle a Sentence Transformers folder as well."""

import json
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from training.config import Recipe
from training.model import SentenceEncoder
from training.vocabulary import END, MASK, PAD, START, UNKNOWN


def write_sentence_transformers(
    folder: Path, student: SentenceEncoder, tokenizer: Tokenizer, recipe: Recipe
) -> None:
    """Write weights, tokenizer, module list and prompts; `SentenceTransformer(folder)` reads them."""
    student.backbone.save_pretrained(folder)  # type: ignore[operator]  # config.json and weights
    (folder / "model.safetensors").chmod(0o644)  # the writer's umask made it private
    # The generic fast class reads tokenizer.json as it is; model-specific ones rebuild parts of it.
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        model_max_length=recipe.student.max_tokens,
        pad_token=PAD,
        bos_token=START,
        cls_token=START,
        eos_token=END,
        sep_token=END,
        unk_token=UNKNOWN,
        mask_token=MASK,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [
        {
            "idx": number,
            "name": str(number),
            "path": "" if number == 0 else f"{number}_{kind}",
            "type": f"sentence_transformers.models.{kind}",
        }
        for number, kind in enumerate(kinds)
    ]
    _json(folder / "modules.json", modules)
    _json(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": recipe.student.hidden, "pooling_mode_mean_tokens": True},
    )
    _json(
        folder / "sentence_bert_config.json",
        {
            "max_seq_length": recipe.student.max_tokens,
            "do_lower_case": False,
            "model_args": {"add_pooling_layer": False},
        },
    )
    _json(
        folder / "config_sentence_transformers.json",
        {
            "prompts": {"query": "", "document": "", "passage": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )


def _json(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", "utf-8")
