from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from training.config.recipe import Vocabulary
from training.corpus import Corpus
from training.vocabulary import (
    END,
    MASK,
    PAD,
    SPECIAL,
    START,
    UNKNOWN,
    Pieces,
    TokenizerUnsupported,
    TokenTable,
    VocabularyTooSmall,
    train_tokenizer,
)

OPTIONS = Vocabulary(pieces=420, sample_characters=12_000)
WORDS = {
    "en": (["red", "blue", "old"], ["cat", "dog", "horse"], ["sleeps", "eats", "waits"]),
    "de": (["rot", "blau", "alt"], ["Katze", "Hund", "Pferd"], ["schläft", "frisst", "wartet"]),
    "ru": (["красный", "синий", "старый"], ["кошка", "собака"], ["спит", "ест", "ждёт"]),
}


@pytest.fixture(scope="module")
def corpus():
    texts = {code: [" ".join(words) for words in product(*WORDS[code])] for code in WORDS}
    texts["ru"].append("ⵣ")
    languages = np.repeat(np.arange(len(WORDS)), [len(texts[code]) for code in WORDS])
    every = [text for code in WORDS for text in texts[code]]
    return Corpus(every, languages, np.arange(len(every)), list(WORDS), {}, [], [], {})


@pytest.fixture(scope="module")
def tokenizer(corpus):
    return train_tokenizer(corpus, OPTIONS, seed=1, max_tokens=16)


def word_tokenizer(special, template):
    """Words w0 to w9, and special pieces under any names and numbers."""
    names = [f"w{i}" for i in range(10)]
    vocabulary = {name: number for number, name in enumerate([*names, *special])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(special))
    tokenizer.post_processor = TemplateProcessing(
        single=template,
        special_tokens=[(name, vocabulary[name]) for name in special if name in template],
    )
    return tokenizer


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


def test_a_vocabulary_smaller_than_the_alphabet_names_the_knob(corpus):
    with pytest.raises(VocabularyTooSmall, match=r"vocabulary\.pieces = 300"):
        train_tokenizer(corpus, Vocabulary(pieces=300), seed=1, max_tokens=16)


def test_rare_characters_get_no_pieces(corpus):
    def single(coverage):
        options = OPTIONS.model_copy(update={"character_coverage": coverage})
        pieces = train_tokenizer(corpus, options, seed=1, max_tokens=16).get_vocab()
        return {piece for piece in pieces if len(piece) == 1}

    assert "ⵣ" in single(1.0)
    assert "ⵣ" not in single(0.99)


def test_our_own_tokenizer_names_its_special_pieces(tokenizer):
    pieces = Pieces.of(tokenizer, 16)
    found = [pieces.pad, pieces.start, pieces.end, pieces.mask]
    assert found == [SPECIAL.index(piece) for piece in (PAD, START, END, MASK)]
    assert pieces.special == frozenset(range(len(SPECIAL)))
    assert pieces.size == tokenizer.get_vocab_size()


@pytest.mark.parametrize(
    ("special", "template", "start", "end"),
    [
        (["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"], "[CLS] $A [SEP]", 12, 13),
        (["<unk>", "<pad>", "<s>", "</s>", "<mask>"], "<s> $A </s>", 12, 13),
        (["<unk>", "<pad>", "</s>", "<mask>"], "$A </s>", None, 12),
        (["<unk>", "<pad>"], "$A", None, None),
    ],
)
def test_special_pieces_of_any_tokenizer_are_found(special, template, start, end):
    pieces = Pieces.of(word_tokenizer(special, template), 8)
    assert (pieces.pad, pieces.start, pieces.end) == (11, start, end)
    assert pieces.mask == (10 + len(special) - 1 if "mask" in special[-1].lower() else None)
    assert pieces.special == frozenset(range(10, 10 + len(special)))
    assert pieces.size == 10 + len(special)


def test_the_padding_piece_may_be_named_by_the_tokenizers_own_padding():
    tokenizer = word_tokenizer(["<unk>", "</s>"], "$A </s>")
    tokenizer.enable_padding(pad_id=11, pad_token="</s>")
    assert Pieces.of(tokenizer, 8).pad == 11
    assert tokenizer.padding is not None  # the caller's is left as it was


def test_a_tokenizer_without_padding_is_refused():
    with pytest.raises(TokenizerUnsupported, match="no padding piece"):
        Pieces.of(word_tokenizer(["<unk>"], "$A"), 8)


@given(st.lists(st.lists(st.integers(0, 9), max_size=20), min_size=1, max_size=9))
def test_texts_are_cut_to_the_limit_and_keep_their_end(numbers):
    for special, template in (
        (["<unk>", "<pad>", "<s>", "</s>"], "<s> $A </s>"),
        (["<unk>", "<pad>", "<s>"], "<s> $A"),
    ):
        tokenizer = word_tokenizer(special, template)
        tokenizer.enable_padding(length=40, pad_id=11, pad_token="<pad>")  # as some files do
        tokenizer.enable_truncation(3)
        pieces = Pieces.of(tokenizer, 8)
        ends = [] if pieces.end is None else [pieces.end]
        found = pieces.encode([" ".join(f"w{i}" for i in row) for row in numbers])
        for row, ids in zip(numbers, found, strict=True):
            assert ids.tolist() == [pieces.start, *row[: 7 - len(ends)], *ends]
            assert ids.dtype == np.int32


@given(st.lists(st.lists(st.integers(5, 99), max_size=7), min_size=1, max_size=9), st.data())
def test_a_batch_is_cut_out_of_the_table_padded(rows, data):
    table = TokenTable.of([np.array(row, dtype=np.int32) for row in rows], padding_id=3)
    numbers = st.integers(0, len(rows) - 1)
    chosen = data.draw(st.lists(numbers, min_size=1, max_size=5))
    longest = max(len(rows[number]) for number in chosen)
    ids, mask = table.to(torch.device("cpu")).padded(torch.tensor(chosen), longest)
    gaps = [longest - len(rows[number]) for number in chosen]
    assert ids.tolist() == [rows[n] + [3] * gap for n, gap in zip(chosen, gaps, strict=True)]
    assert mask.sum(1).tolist() == [len(rows[number]) for number in chosen]
    assert mask.shape == ids.shape
