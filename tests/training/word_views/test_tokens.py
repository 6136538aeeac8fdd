import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.training.word_fixtures import letter_pieces
from training.alignment.words import split
from training.vocabulary import Pieces
from training.word_views.corruption import OUTSIDE
from training.word_views.tokens import SPECIAL, joined, single

TEXT = st.text("abc .,", min_size=1, max_size=30).filter(lambda text: text.strip())


def shown(pieces, tokens):
    return [pieces.tokenizer.id_to_token(number) for number in tokens.ids.tolist()]


@examples(deadline=None)
@given(TEXT, st.integers(4, 20))
def test_a_text_is_cut_as_the_text_table_cuts_it(text, most) -> None:
    pieces = letter_pieces(most)
    assert single(pieces, [text])[0].ids.tolist() == pieces.encode([text])[0].tolist()


def test_a_pair_is_joined_by_the_tokenizers_template() -> None:
    pieces = letter_pieces()
    tokens = joined(pieces, ["ab"], ["c"])[0]
    assert shown(pieces, tokens) == ["[CLS]", "a", "##b", "[SEP]", "c", "[SEP]"]
    assert tokens.side.tolist() == [SPECIAL, 0, 0, SPECIAL, 1, SPECIAL]


def test_without_a_template_for_pairs_start_and_end_are_put_in() -> None:
    pieces = letter_pieces(pair_template=False)
    tokens = joined(pieces, ["ab"], ["c"])[0]
    assert shown(pieces, tokens) == ["[CLS]", "a", "##b", "[SEP]", "c", "[SEP]"]
    assert tokens.side.tolist() == [SPECIAL, 0, 0, SPECIAL, 1, SPECIAL]
    assert tokens.pieces((0, 1), 1) == (4, 4)


def test_a_tokenizer_without_any_frame_joins_bare_texts() -> None:
    plain = letter_pieces()
    plain.tokenizer.post_processor = None
    pieces = Pieces.of(plain.tokenizer, 10)
    assert shown(pieces, joined(pieces, ["ab"], ["c"])[0]) == ["a", "##b", "c"]


@pytest.mark.parametrize(
    ("source", "target", "kept"),
    [
        ("abcdef", "ab", ("abcde", "ab")),
        ("ab", "abcdef", ("ab", "abcde")),
        ("abcdef", "abcdef", ("abcd", "abc")),
    ],
)
def test_of_two_texts_the_longer_one_is_cut_first(source, target, kept) -> None:
    pieces = letter_pieces(10)
    tokens = joined(pieces, [source], [target])[0]
    assert len(tokens.ids) == 10
    assert tuple(int((tokens.side == side).sum()) for side in (0, 1)) == tuple(map(len, kept))
    assert int((tokens.side == SPECIAL).sum()) == 3


def test_the_pieces_of_a_word_are_found_by_its_characters() -> None:
    pieces = letter_pieces()
    tokens = single(pieces, ["Abc, de"])[0]
    assert tokens.pieces((0, 3), 0) == (1, 3)
    assert tokens.pieces((5, 7), 0) == (5, 6)
    assert tokens.pieces((4, 5), 0) is None


def test_a_word_that_is_cut_has_no_pieces() -> None:
    tokens = single(letter_pieces(6), ["abc de"])[0]
    assert tokens.limits[0] == 5
    assert tokens.pieces((0, 3), 0) == (1, 3)
    assert tokens.pieces((4, 6), 0) is None


@examples(deadline=None)
@given(TEXT)
def test_every_piece_has_the_word_that_its_characters_are_in(text) -> None:
    tokens = single(letter_pieces(), [text])[0]
    spans = split(text, "en")
    owners = tokens.owners(spans, 0)
    for place in range(len(owners)):
        expected = [
            number
            for number, (start, stop) in enumerate(spans)
            if tokens.side[place] == 0 and start <= tokens.begin[place] < stop
        ]
        assert owners[place] == (expected[0] if expected else OUTSIDE)


def test_words_that_share_a_piece_are_one() -> None:
    pieces = letter_pieces(whole=["##bc"])
    tokens = single(pieces, ["abcd"])[0]
    assert shown(pieces, tokens) == ["[CLS]", "a", "##bc", "##d", "[SEP]"]
    words = [(0, 1), (1, 2), (2, 3), (3, 4)]
    owners = tokens.owners(words, 0)
    assert owners.tolist() == [OUTSIDE, 0, 1, 2, OUTSIDE]
    two = tokens.owners([(0, 2), (2, 4)], 0)
    assert two.tolist() == [OUTSIDE, 0, 0, 0, OUTSIDE]


def test_a_side_without_words_has_no_owners() -> None:
    tokens = single(letter_pieces(), ["ab"])[0]
    assert (tokens.owners([], 0) == OUTSIDE).all()
    assert (tokens.owners([(0, 2)], 1) == OUTSIDE).all()
    assert np.array_equal(tokens.owners([(0, 2)], 0), [OUTSIDE, 0, 0, OUTSIDE])
