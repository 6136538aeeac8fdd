import numpy as np
import pytest
import torch

from training.config import Vocabulary
from training.data import read_corpus
from training.vocabulary import (
    END,
    PAD,
    SPECIAL,
    START,
    UNKNOWN,
    VocabularyTooSmall,
    token_table,
    tokenise,
    train_tokenizer,
)


@pytest.fixture
def corpus(data, recipe):
    return read_corpus(data, recipe)


@pytest.fixture
def tokenizer(corpus, recipe):
    return train_tokenizer(corpus, recipe.vocabulary, seed=1, max_tokens=16)


def test_special_pieces_come_first_and_frame_every_text(tokenizer):
    assert [tokenizer.token_to_id(piece) for piece in SPECIAL] == list(range(len(SPECIAL)))
    assert tokenizer.encode("").tokens == [START, END]
    assert tokenizer.encode("red cat").tokens[0] == START
    assert tokenizer.encode("red cat").tokens[-1] == END


def test_case_and_width_make_no_difference(tokenizer):
    assert tokenizer.encode("Ｒed   CAT").ids == tokenizer.encode("red cat").ids


def test_scripts_that_were_never_seen_stay_distinct(tokenizer):
    one, other = tokenizer.encode("አ"), tokenizer.encode("ኣ")
    assert UNKNOWN not in one.tokens + other.tokens
    assert one.ids != other.ids


def test_a_long_text_is_cut_and_keeps_its_end(tokenizer):
    encoding = tokenizer.encode("red cat " * 50)
    assert len(encoding.ids) == 16
    assert encoding.tokens[-1] == END


def test_a_vocabulary_smaller_than_the_alphabet_names_the_knob(corpus):
    with pytest.raises(VocabularyTooSmall, match=r"vocabulary\.pieces = 300"):
        train_tokenizer(corpus, Vocabulary(pieces=300), seed=1, max_tokens=16)


def test_rare_characters_get_no_pieces(corpus, recipe):
    rare = recipe.vocabulary.model_copy(update={"character_coverage": 0.91})
    tokens = train_tokenizer(corpus, rare, seed=1, max_tokens=16).get_vocab()
    everything = recipe.vocabulary.model_copy(update={"character_coverage": 1.0})
    more = train_tokenizer(corpus, everything, seed=1, max_tokens=16).get_vocab()
    single = lambda pieces: {piece for piece in pieces if len(piece) == 1}  # noqa: E731
    assert single(tokens) < single(more)


def test_a_batch_is_cut_out_of_the_table_padded(tokenizer):
    texts = ["red cat", "", "old horse eats in the river"]
    rows = list(tokenise(tokenizer, texts))
    table = token_table(rows, padding_id=SPECIAL.index(PAD)).to(torch.device("cpu"))
    ids, mask = table.padded(torch.tensor([2, 0]), int(table.lengths.max()))
    assert ids[0].tolist() == rows[2].tolist()
    assert ids[1, : len(rows[0])].tolist() == rows[0].tolist()
    assert ids[1, len(rows[0]) :].eq(SPECIAL.index(PAD)).all()
    assert mask.sum(1).tolist() == [len(rows[2]), len(rows[0])]
    assert all(row.dtype == np.int32 for row in rows)
