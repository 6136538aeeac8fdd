from pathlib import Path

import numpy as np
import pytest

from tests.training.word_fixtures import corpus_of, letter_pieces, small_encoder, texts_of
from training.alignment.links import LinksInvalid
from training.config.batches import Words
from training.word_views.linking import NothingLinked, link_feed, markable

PIECES = letter_pieces()
GROUPS = [
    ("the cat sleeps", "die katze ruht", "le chat dort"),
    ("the dog, 3", "der hund 3", None),
    (None, "nur so", "sans en"),
]
LINKS = {
    (0, "en", "de"): ((0, 0), (1, 1), (2, 2)),
    (0, "fr", "en"): ((1, 1), (2, 2)),
    (1, "en", "de"): ((0, 0), (1, 1), (2, 2)),
    (2, "en", "de"): ((0, 0),),
    (2, "de", "fr"): ((0, 0),),
}
CORPUS = corpus_of(["en", "de", "fr"], GROUPS, links=LINKS)


def feed(**settings):
    return Words(**{"kind": "words", "data": ("pairs",), "aligner": {"kind": "given"}, **settings})


def linked(corpus=CORPUS, cache=None, seed=(1,), folder=Path(), **settings):
    return link_feed(
        corpus,
        PIECES,
        feed(**settings),
        encoder=small_encoder(PIECES.size),
        data_folder=folder,
        seed=seed,
        cache=cache,
    )


def words(pairs, corpus=CORPUS):
    found = set()
    for number in range(len(pairs)):
        source, target = (corpus.texts[int(side[number])] for side in (pairs.source, pairs.target))
        found |= {(source[a:b], target[c:d]) for a, b, c, d in pairs.of(number).tolist()}
    return found


def test_links_of_the_groups_are_found_in_every_language_and_both_directions() -> None:
    assert words(linked()) == {
        ("the", "die"), ("cat", "katze"), ("sleeps", "ruht"), ("cat", "chat"), ("sleeps", "dort"),
        ("the", "der"), ("dog", "hund"), ("3", "3"),
    }  # fmt: skip


def test_only_the_languages_of_the_feed_are_linked() -> None:
    assert words(linked(languages=("en", "fr"))) == {("cat", "chat"), ("sleeps", "dort")}


def test_another_language_may_be_the_pivot() -> None:
    assert ("katze", "cat") in words(linked(pivot="de"))
    with pytest.raises(NothingLinked, match="pivot = 'el', only in en, de, fr"):
        linked(pivot="el")


def test_a_link_of_a_group_beyond_its_words_is_named() -> None:
    corpus = corpus_of(["en", "de"], [("a", "b")], links={(0, "en", "de"): ((0, 1),)})
    with pytest.raises(LinksInvalid, match="links of group 'g0' of pairs: link 0-1"):
        linked(corpus)


def test_links_are_kept_on_disk_and_found_again_by_the_same_stage_alone(tmp_path) -> None:
    (tmp_path / "a.tsv").write_text("en\tde\ncat\tkatze\n", "utf-8")
    settings = {
        "aligner": {"kind": "lexicon", "path": "a.tsv"}, "languages": ("en", "de"), "folder": tmp_path,
    }  # fmt: skip
    cache = tmp_path / "cache"
    first = linked(cache=cache, **settings)
    assert words(first) == {("cat", "katze")}
    assert len(list(cache.iterdir())) == 1
    # Another dictionary under the same name shows which links came from the disk.
    (tmp_path / "a.tsv").write_text("en\tde\nsleeps\truht\n", "utf-8")
    assert words(linked(cache=cache, **settings)) == {("cat", "katze")}
    assert words(linked(cache=cache, seed=(2,), **settings)) == {("sleeps", "ruht")}
    assert words(linked(**settings)) == {("sleeps", "ruht")}


def kept(stop_words, pieces=PIECES):
    pairs = linked(languages=("en", "de"))
    return words(pairs.kept(markable(CORPUS, pieces, pairs, stop_words=stop_words)))


def test_frequent_words_and_numbers_are_not_marked() -> None:
    everything = {
        ("the", "die"),
        ("cat", "katze"),
        ("sleeps", "ruht"),
        ("the", "der"),
        ("dog", "hund"),
    }
    assert kept(0) == everything
    # Of German all words are there once; the first in order is "3", and then "der".
    assert kept(1) == everything - {("the", "die"), ("the", "der")}
    assert kept(2) == everything - {("the", "die"), ("the", "der")}
    assert kept(50) == set()


def test_words_that_are_cut_off_are_not_marked() -> None:
    # [CLS] the cat s [SEP] and [CLS] die katz [SEP]: neither "sleeps" nor "katze" is all there.
    assert kept(0, letter_pieces(9)) == {("the", "die"), ("the", "der"), ("dog", "hund")}


def test_pairs_of_sets_without_sentences_are_none() -> None:
    corpus = corpus_of(["en", "de"], [("a", None), (None, "b")])
    assert len(linked(corpus)) == 0
    assert np.array_equal(texts_of(corpus, 0), [0, -1])
