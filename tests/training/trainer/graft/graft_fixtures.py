"""A small English encoder of word pieces, as BERT has them."""

from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tests.training.conftest import COLOURS, WORDS
from tests.training.word_fixtures import LETTERS, small_encoder

SPECIAL = ("[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WIDTH = 48


def english_tokenizer(*more: str) -> Tokenizer:
    """Some words whole, the others by letters, and `more` pieces; accents are stripped, Chinese is cut."""
    words = [*COLOURS["en"], *(word for words in WORDS["en"] for word in words)][:-3]
    parts = [f"##{letter}" for letter in LETTERS]
    pieces = [*SPECIAL, *LETTERS, *parts, *words, "who", ".", "unheard", *more]
    numbers = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 3), ("[SEP]", 4)]
    )
    tokenizer.enable_padding(length=64)  # as all-MiniLM's file does: it must be switched off
    tokenizer.enable_truncation(64)
    return tokenizer


def english_folder(folder: Path) -> Path:
    """The encoder in a plain transformers folder."""
    tokenizer = english_tokenizer()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    shape = {"num_attention_heads": 4, "intermediate_size": 64, "initializer_range": 0.2}
    size = tokenizer.get_vocab_size()
    small_encoder(size, hidden=WIDTH, layers=1, seed=3, **shape).backbone.save_pretrained(folder)
    return folder
