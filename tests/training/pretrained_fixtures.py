"""Tiny encoders of three families, random, over a tokenizer that spells every byte; a teacher."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from tests.training.word_fixtures import BERT, small_encoder, word_tokenizer
from training.checkpoint import Progress, RunFolder
from training.model import SentenceEncoder
from training.pretrained import Pretrained, save_pretrained
from training.vocabulary import Pieces

SPECIAL = {
    "bert": ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"),
    "xlm-roberta": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    "modernbert": ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"),
}
PIECES = 5 + 256
SHAPE = {
    "vocab_size": PIECES,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


def spelling_tokenizer(family: str = "bert") -> Tokenizer:
    pieces = [*SPECIAL[family], *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.add_special_tokens(list(SPECIAL[family]))
    start, end = ("<s>", "</s>") if family == "xlm-roberta" else ("[CLS]", "[SEP]")
    tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} $B {end}",
        special_tokens=[(start, pieces.index(start)), (end, pieces.index(end))],
    )
    return tokenizer


def backbone(family: str = "bert", *, seed: int = 0):
    torch.manual_seed(seed)
    if family == "bert":
        return BertModel(BertConfig(**SHAPE, max_position_embeddings=64), add_pooling_layer=False)
    if family == "xlm-roberta":
        config = XLMRobertaConfig(**SHAPE, max_position_embeddings=66, pad_token_id=1)
        return XLMRobertaModel(config, add_pooling_layer=False)
    ids = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2}
    config = ModernBertConfig(
        **SHAPE, **ids, bos_token_id=1, eos_token_id=2, max_position_embeddings=64
    )
    return ModernBertModel(config)


def spelling_model(*, max_tokens: int = 48, **said) -> Pretrained:
    """The BERT one, opened; `said` replaces what is known of it."""
    known = {"prompts": {"query": "", "passage": ""}, "name": "origin", "licence": "mit", **said}
    return Pretrained(
        encoder=SentenceEncoder(backbone()).eval(),
        pieces=Pieces.of(spelling_tokenizer(), max_tokens),
        max_tokens=max_tokens,
        **known,
    )


def saved_run(folder: Path, start: Pretrained, recipe: dict[str, object], **kept) -> Path:
    """A run's folder with the encoder that it began with; `kept`: encoders by `last` and `best`."""
    save_pretrained(folder / "encoder", start)
    write_json(folder / "recipe.json", recipe)
    for name, encoder in kept.items():
        run = RunFolder(folder)
        (run.best if name == "best" else run.checkpoint).save(
            encoder, None, Progress("made by hand")
        )
    return folder


def teacher_folder(folder: Path, words: list[str], *, positions: int = 128) -> Path:
    """A random encoder of words, wider than any student, in a plain transformers folder."""
    tokenizer = word_tokenizer(words, special=BERT[:4], cut=pre_tokenizers.Whitespace())
    tokenizer.enable_padding(length=positions)  # as all-MiniLM's file does: it must be switched off
    tokenizer.enable_truncation(positions)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    shape = {"num_attention_heads": 4, "intermediate_size": 64, "initializer_range": 0.2}
    shape |= {"hidden": 48, "layers": 1, "seed": 3, "max_position_embeddings": positions}
    small_encoder(tokenizer.get_vocab_size(), **shape).backbone.save_pretrained(folder)
    return folder


def transformers_folder(folder: Path, family: str = "bert", *, seed: int = 0) -> Path:
    """Weights, configuration and tokenizer, and nothing that says how to pool."""
    backbone(family, seed=seed).save_pretrained(folder)
    tokenizer = spelling_tokenizer(family)
    tokenizer.enable_truncation(16)  # as all-MiniLM's file does: both must be switched off
    tokenizer.enable_padding(
        length=16,
        pad_id=1 if family == "xlm-roberta" else 0,
        pad_token="<pad>" if family == "xlm-roberta" else "[PAD]",
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>" if family == "xlm-roberta" else "[PAD]",
        model_max_length=64,
    ).save_pretrained(folder)
    return folder


def sentence_folder(folder: Path, family: str = "bert", **changes) -> Path:
    """The same with the files of Sentence Transformers; `changes` replace what is in them."""
    transformers_folder(folder, family)
    kinds = changes.get("modules", ["Transformer", "Pooling", "Normalize"])
    modules = [
        {
            "idx": number,
            "name": str(number),
            "path": "" if number == 0 else f"{number}_{kind}",
            "type": kind if "." in kind else f"sentence_transformers.models.{kind}",
        }
        for number, kind in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    write_json(folder / "1_Pooling" / "config.json", changes.get("pooling", pooling))
    limits = {"max_seq_length": 48, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", changes.get("limits", limits))
    if "settings" in changes:
        write_json(folder / "config_sentence_transformers.json", changes["settings"])
    if "card" in changes:
        (folder / "README.md").write_text(f"---\n{changes['card']}\n---\n", "utf-8")
    return folder


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps(value), "utf-8")
