"""Small tokenizers of words and of letters, corpora by hand, and a random BERT of any shape."""

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel

from training.corpus import NOTHING, Corpus, GroupTable
from training.model import SentenceEncoder
from training.vocabulary import Pieces

BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAIR = "[CLS] $A [SEP] $B [SEP]"
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def word_tokenizer(words, *, special=BERT, model=models.WordLevel, cut=None, pair=PAIR):
    """A piece a word, special ones first; words are what stands between spaces unless `cut`."""
    tokenizer = Tokenizer(
        model({p: n for n, p in enumerate([*special, *words])}, unk_token="[UNK]")
    )
    tokenizer.add_special_tokens(list(special))
    tokenizer.pre_tokenizer = cut or pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def letter_pieces(max_tokens=64, *, whole=(), pair_template=True, mask=True, letters=LETTERS):
    """Words in `whole` are one piece, others a piece a letter; "." and "," are pieces."""
    parts = [f"##{letter}" for letter in letters]
    tokenizer = word_tokenizer(
        [*letters, *parts, ".", ",", *whole],
        special=BERT if mask else BERT[:-1],
        model=models.WordPiece,
        cut=pre_tokenizers.BertPreTokenizer(),
        pair=PAIR if pair_template else "$A $B",
    )
    tokenizer.normalizer = normalizers.Lowercase()
    return Pieces.of(tokenizer, max_tokens)


def corpus_of(languages, groups, *, links=None, name="pairs"):
    """Groups are tuples of sentences, one for each language; None where there is none."""
    texts, language, numbers = [], [], {}
    table = np.full((len(groups), len(languages)), NOTHING, np.int32)
    for row, group in enumerate(groups):
        for column, text in enumerate(group):
            if text is not None:
                if (text, column) not in numbers:
                    numbers[text, column] = len(texts)
                    texts.append(text)
                    language.append(column)
                table[row, column] = numbers[text, column]
    return Corpus(
        texts=texts,
        text_language=np.array(language, np.int64),
        keys=np.arange(len(texts)),
        languages=list(languages),
        sets={
            name: GroupTable(
                name=name,
                ids=[f"g{row}" for row in range(len(groups))],
                texts={"sentence": table},
                negatives=np.zeros((len(groups), 0), np.int32),
                targets={},
                links=links or {},
            )
        },
        targets=[],
        held_out=[],
        facts={},
    )


def small_encoder(size, *, hidden=32, layers=2, seed=0, dropout=0.0, **shape):
    """Weights drawn with `seed`; `shape` has more of what a BertConfig says."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=size,
        hidden_size=hidden,
        num_hidden_layers=layers,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        **{
            "num_attention_heads": 2,
            "intermediate_size": 2 * hidden,
            "max_position_embeddings": 128,
            **shape,
        },
    )
    return SentenceEncoder(BertModel(config, add_pooling_layer=False))


def texts_of(corpus, column, name="pairs"):
    """Text numbers of one language, a row a group."""
    return corpus.sets[name].texts["sentence"][:, column].astype(np.int64)
