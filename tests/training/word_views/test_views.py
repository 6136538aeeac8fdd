from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.training.word_fixtures import corpus_of, letter_pieces, small_encoder, texts_of
from training.config.batches import Translation, Words
from training.config.methods import InfoNce, MlCtl, Weam
from training.losses import NO_LABEL
from training.word_views import NoMaskPiece, NothingLinked, WordViews
from training.word_views.tokens import joined
from training.word_views.views import partners

PIECES = letter_pieces()
GROUPS = [("ab c, de", "fg hi jklm"), ("ab", "fg no"), ("zz top", "ww")]
LINKS = {(0, "en", "xx"): ((0, 1), (1, 0), (2, 2)), (1, "en", "xx"): ((0, 0),)}
CORPUS = corpus_of(["en", "xx"], GROUPS, links=LINKS)
SOURCE, TARGET = texts_of(CORPUS, 0), texts_of(CORPUS, 1)
ML_CTL, WEAM = MlCtl(method="ml_ctl"), Weam(method="weam")
GIVEN = {"data": ("pairs",), "aligner": {"kind": "given"}}
WORDS = Words(kind="words", stop_words=0, **GIVEN)
TRANSLATION = Translation(kind="translation", **GIVEN)


def views_of(feed, methods, pieces=PIECES, corpus=CORPUS):
    encoder = small_encoder(pieces.size)
    return WordViews(corpus, pieces, feed, methods, encoder=encoder, data_folder=Path())


def built(feed, methods, rows=(0, 1), seed=0, pieces=PIECES):
    rows = list(rows)
    rng = np.random.default_rng(seed)
    return views_of(feed, methods, pieces).build(SOURCE[rows], TARGET[rows], rng)


def marked(view, row, pieces=PIECES):
    first, last = view.extra["span"][row].tolist()
    return pieces.tokenizer.decode(view.ids[row, first : last + 1].tolist()).replace(" ##", "")


def test_rows_without_links_are_not_usable_in_either_kind_and_direction() -> None:
    for feed, method in ((WORDS, ML_CTL), (TRANSLATION, WEAM)):
        views = views_of(feed, [method])
        assert views.usable(SOURCE, TARGET).tolist() == [True, True, False]
        assert views.usable(TARGET, SOURCE).tolist() == [True, True, False]
        assert views.usable(SOURCE[:1], TARGET[1:2]).tolist() == [False]


def test_the_marked_words_of_a_row_are_linked_and_all_links_are_drawn() -> None:
    views = views_of(WORDS, [ML_CTL])
    rng = np.random.default_rng(0)
    drawn = set()
    for _ in range(60):
        found = views.build(SOURCE[:1], TARGET[:1], rng)
        drawn.add((marked(found["source"], 0), marked(found["target"], 0)))
    assert drawn == {("ab", "hi"), ("c", "fg"), ("de", "jklm")}


def test_either_language_may_be_the_source() -> None:
    views = views_of(WORDS, [ML_CTL])
    found = views.build(TARGET[1:2], SOURCE[1:2], np.random.default_rng(0))
    assert (marked(found["source"], 0), marked(found["target"], 0)) == ("fg", "ab")
    joint = views_of(TRANSLATION, [WEAM]).build(TARGET[1:2], SOURCE[1:2], np.random.default_rng(0))
    # [CLS] f ##g n ##o [SEP] a ##b [SEP]
    assert joint["joined"].extra["partner"].tolist() == [[0, 6, 7, 3, 4, 5, 1, 2, 8]]


def test_masked_copies_are_there_if_the_method_reads_them() -> None:
    plain = MlCtl(method="ml_ctl", mlm_weight=0.0)
    assert set(built(WORDS, [plain])) == {"source", "target"}
    for settings in (ML_CTL, MlCtl(method="ml_ctl", mlm_weight=0.0, mask_views=True)):
        found = built(WORDS, [settings])
        assert set(found) == {"source", "target", "masked_source", "masked_target"}
        for side in ("source", "target"):
            clean, masked = found[side], found[f"masked_{side}"]
            labels = masked.extra["labels"]
            assert torch.equal(masked.extra["span"], clean.extra["span"])
            assert torch.equal(torch.where(labels == NO_LABEL, masked.ids, labels), clean.ids)
            assert (labels[clean.mask == 0] == NO_LABEL).all()
            assert not torch.isin(labels, torch.tensor(sorted(PIECES.special))).any()


def test_batches_are_the_same_for_the_same_draw_alone() -> None:
    for feed, method, name in ((WORDS, ML_CTL, "masked_source"), (TRANSLATION, WEAM, "joined")):
        one, again = built(feed, [method])[name], built(feed, [method])[name]
        assert torch.equal(one.ids, again.ids)
        assert torch.equal(one.extra["labels"], again.extra["labels"])
        others = [built(feed, [method], seed=seed)[name].extra["labels"] for seed in range(1, 6)]
        assert not all(torch.equal(one.extra["labels"], other) for other in others)


def test_a_translation_is_one_sequence_with_its_partners_words_and_clean_pieces() -> None:
    view = built(TRANSLATION, [WEAM])["joined"]
    # [CLS] a ##b c , d ##e [SEP] f ##g h ##i j ##k ##l ##m [SEP]
    assert view.extra["clean"][0].tolist() == PIECES.tokenizer.encode(*GROUPS[0]).ids
    partner, words = view.extra["partner"][0].tolist(), view.extra["words"][0].tolist()
    assert partner[0] == 0
    assert partner[1:3] == [10, 11]
    assert partner[3] == 8
    assert partner[4] == 4
    assert partner[5:7] == [12, 13]
    assert partner[8:10] == [3, 3]
    assert partner[10:12] == [1, 2]
    assert partner[12:16] == [5, 6, 6, 6]
    assert words == [-1, 0, 0, 1, -1, 2, 2, -1, 3, 3, 4, 4, 5, 5, 5, 5, -1]
    assert view.mask.sum(1).tolist() == [17, 9]
    pads = view.mask[1] == 0
    assert (view.extra["words"][1][pads] == -1).all()
    assert (view.extra["labels"][1][pads] == NO_LABEL).all()
    assert view.extra["partner"][1][pads].tolist() == list(range(9, 17))


def test_links_beyond_the_cut_are_dropped() -> None:
    view = built(TRANSLATION, [WEAM], rows=(0,), pieces=letter_pieces(9))["joined"]
    # [CLS] a ##b c [SEP] f ##g h [SEP]: of hi only h is left, so ab has no partner.
    assert view.extra["partner"].tolist() == [[0, 1, 2, 5, 4, 3, 3, 7, 8]]


# At most 32 pieces a side, which with the special ones fit the 80 of the tokenizer.
TEXT = st.lists(st.sampled_from(["a", "bc", "def", "gh.", "(ij)"]), min_size=1, max_size=8)


@examples(deadline=None)
@given(TEXT, TEXT, st.data())
def test_partners_are_a_swap_for_words_of_equal_length_and_never_special(left, right, data) -> None:
    source, target = " ".join(left), " ".join(right)
    tokens = joined(letter_pieces(80), [source], [target])[0]
    size = min(len(left), len(right))
    ones = data.draw(st.permutations(range(len(left))))[:size]
    others = data.draw(st.permutations(range(len(right))))[:size]
    starts = [np.cumsum([0, *(len(word) + 1 for word in words)]) for words in (left, right)]
    places = np.array(
        [
            (starts[0][i], starts[0][i] + len(left[i]), starts[1][j], starts[1][j] + len(right[j]))
            for i, j in zip(ones, others, strict=True)
        ]
    )
    partner = partners(tokens, places)
    assert (partner[tokens.side == -1] == np.flatnonzero(tokens.side == -1)).all()
    for i, j in zip(ones, others, strict=True):
        one = tokens.pieces((starts[0][i], starts[0][i] + len(left[i])), 0)
        other = tokens.pieces((starts[1][j], starts[1][j] + len(right[j])), 1)
        inside = np.arange(one[0], one[1] + 1)
        assert set(partner[inside]) <= set(range(other[0], other[1] + 1))
        if one[1] - one[0] == other[1] - other[0]:
            assert (partner[partner[inside]] == inside).all()
    linked = partner != np.arange(len(partner))
    assert (tokens.side[partner[linked]] == 1 - tokens.side[linked]).all()


def test_words_that_share_a_piece_with_another_linked_word_are_not_exchanged() -> None:
    tokens = joined(letter_pieces(whole=["##bc"]), ["abcd"], ["x y z"])[0]
    # b and c are one piece; both are linked, to x and to y. d and z are not concerned.
    places = np.array([(1, 2, 0, 1), (2, 3, 2, 3), (3, 4, 4, 5)])
    partner = partners(tokens, places)
    assert np.flatnonzero(partner != np.arange(len(partner))).tolist() == [3, 7]


def test_chinese_characters_in_one_piece_are_one_word() -> None:
    pieces = letter_pieces(letters="abcd", whole=["喜欢"])
    corpus = corpus_of(["en", "zh"], [("ab c", "喜欢")], links={(0, "en", "zh"): ((0, 0),)})
    view = views_of(TRANSLATION, [WEAM], pieces, corpus).build(
        np.array([0]), np.array([1]), np.random.default_rng(0)
    )["joined"]
    # The group's links count words at white space: 喜欢 is one of them, and two characters here.
    assert view.extra["words"].tolist() == [[-1, 0, 0, 1, -1, 2, -1]]
    assert view.extra["partner"].tolist() == [[0, 5, 5, 3, 4, 1, 6]]


def test_without_any_link_there_is_nothing_to_do() -> None:
    with pytest.raises(NothingLinked, match="words batches of pairs: aligner 'given' left no"):
        views_of(WORDS, [ML_CTL], corpus=corpus_of(["en", "xx"], GROUPS))


def test_a_method_that_masks_needs_a_mask_piece() -> None:
    pieces = letter_pieces(mask=False)
    for feed, method in ((WORDS, ML_CTL), (TRANSLATION, WEAM)):
        with pytest.raises(NoMaskPiece):
            views_of(feed, [method], pieces)
    views_of(WORDS, [MlCtl(method="ml_ctl", mlm_weight=0.0)], pieces)


def test_a_method_that_predicts_nothing_gets_clean_text() -> None:
    view = built(TRANSLATION, [InfoNce(method="info_nce")])["joined"]
    assert torch.equal(view.ids, view.extra["clean"])
    assert (view.extra["labels"] == NO_LABEL).all()
