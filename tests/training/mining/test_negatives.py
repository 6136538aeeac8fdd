"""Which passages become hard negatives, and which never do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.mining.mining_fixtures import Directions, a_corpus, questions
from training.mining import Mining, MiningImpossible, mine
from training.mining.negatives import AT_ONCE, build_index

EVERY = {"first": 1, "last": 100, "share": 1.0, "count": 3}


def test_negatives_are_the_best_ranked_passages_that_score_below_the_positive() -> None:
    corpus = a_corpus(questions([10, 5, 30, 20, 60]))
    mined = mine(corpus, corpus.sets["set"], Directions(), Mining(**EVERY))
    assert mined.negatives[0] == [3, 2, 4]  # 1 scores above the positive
    assert mined.negatives[1] == [0, 3, 2]
    assert mined.negatives[4] == []


def test_ranks_are_counted_without_the_positives() -> None:
    corpus = a_corpus(questions([1, 5, 10, 15, 20, 25]))
    window = Mining(count=9, first=2, last=4, share=1.0)
    mined = mine(corpus, corpus.sets["set"], Directions(), window)
    assert mined.negatives[0] == [2, 3, 4]
    assert mined.negatives[1] == [2, 3, 4]


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"share": 1.0}, [1, 2, 3]),
        ({"share": 0.95}, [2, 3]),  # cos 20 = 0.94 and cos 10 = 0.98 of a positive at 1
        ({"share": 1.0, "margin": 0.1}, [3]),
        ({"share": 0.95, "margin": 0.03}, [2, 3]),
    ],
)
def test_margin_and_share_keep_their_distance_to_the_positive(
    bounds: dict[str, float], expected: list[int]
) -> None:
    corpus = a_corpus(questions([0, 10, 20, 40]))
    mined = mine(corpus, corpus.sets["set"], Directions(), Mining(**{**EVERY, **bounds}))
    assert mined.negatives[0] == expected


def test_below_a_positive_of_negative_cosine_the_share_still_keeps_a_distance() -> None:
    corpus = a_corpus(questions([100, 101, 180]))
    mined = mine(corpus, corpus.sets["set"], Directions(), Mining(**{**EVERY, "share": 0.5}))
    assert mined.negatives[0] == [2]


def test_passages_of_the_own_group_its_copies_and_same_questions_are_no_negatives() -> None:
    groups = [
        {"query": {"en": "Who? @0"}, "passage": {"en": "p @1"}},
        {"query": {"en": "other @50"}, "passage": {"en": "P  @1"}},  # a copy of its passage
        {"query": {"en": "WHO? @0"}, "passage": {"en": "q @5"}},  # the same question
        {"query": {"en": "who so @0", "de": "Wer @0"}, "passage": {"en": "r @7"}},
        {"query": {"en": "who else @0", "de": "wer @0"}, "passage": {"en": "s @9"}},  # in German
        {"passage": {"en": "t @12"}},  # a distractor
    ]
    corpus = a_corpus(groups)
    mined = mine(corpus, corpus.sets["set"], Directions(), Mining(**{**EVERY, "count": 9}))
    assert mined.passages == 5
    assert mined.negatives[0] == [3, 4, 5]
    assert mined.negatives[2] == [3, 4, 5]
    assert mined.negatives[3] == [5]
    assert 5 not in mined.negatives


def test_equal_scores_go_to_the_earlier_group() -> None:
    corpus = a_corpus(questions([0, 20, 20, 20, 20]))
    mined = mine(corpus, corpus.sets["set"], Directions(), Mining(**EVERY))
    assert mined.negatives[0] == [1, 2, 3]
    assert mined.negatives == mine(corpus, corpus.sets["set"], Directions(), Mining(**EVERY)).negatives  # fmt: skip


def test_for_clear_a_negative_has_its_own_question_in_the_language() -> None:
    def group(number: int, angle: float, *languages: str) -> dict[str, dict[str, str]]:
        texts = {language: f"{language} {number} @0" for language in languages}
        return {"query": texts, "passage": {"en": f"p {number} @{angle}"}}

    corpus = a_corpus(
        [
            group(0, 0, "en", "de", "fr"),
            group(1, 10, "en"),
            group(2, 20, "en", "fr"),
            group(3, 30, "en", "de"),
            group(4, 40, "en", "de", "fr"),
            group(5, 50, "en", "de"),
            {"passage": {"en": "nobody asks @15"}},
        ]
    )
    table = corpus.sets["set"]

    def mined(*languages: str, count: int) -> dict[int, list[int]]:
        mining = Mining(**{**EVERY, "count": count}, languages=languages)
        return mine(corpus, table, Directions(), mining).negatives

    german = mined("de", count=2)
    assert german[0] == [3, 4]
    assert set(german) == {0, 3, 4, 5}  # the others have no German question
    both = mined("de", "fr", count=2)
    assert both[0] == [2, 3, 4]  # two in each
    assert both[2] == [4]
    assert mined("de", count=9)[0] == [3, 4, 5]
    for group_number, negatives in both.items():
        spoken = table.texts["query"][[group_number, *negatives]] != -1
        for language in (1, 2):
            if group_number == 0:
                assert spoken[1:, language].sum() >= 2


def test_a_passage_with_several_questions_is_taken_once_and_with_the_most_useful_one() -> None:
    groups = [
        {"query": {"en": "a @0", "de": "A @0", "fr": "Aa @0"}, "passage": {"en": "p @0"}},
        {"query": {"en": "b @0", "de": "B @0"}, "passage": {"en": "same @20"}},
        {"query": {"en": "c @0", "de": "C @0", "fr": "Cc @0"}, "passage": {"en": "same @20"}},
    ]
    corpus = a_corpus(groups)
    mining = Mining(**{**EVERY, "languages": ("de", "fr")})
    mined = mine(corpus, corpus.sets["set"], Directions(), mining)
    assert mined.negatives[0] == [2]
    plain = mine(corpus, corpus.sets["set"], Directions(), Mining(**EVERY))
    assert plain.negatives[0] == [1]


def test_sentences_are_mined_across_languages_with_the_prompt_of_queries() -> None:
    groups = [
        {"sentence": {"en": f"s {i} @{angle}", "de": f"d {i} @{angle}"}}
        for i, angle in enumerate([0, 10, 30])
    ]
    corpus, embed = a_corpus(groups), Directions()
    mining = Mining(**EVERY, roles=("sentence", "sentence"), query_language="de")
    mined = mine(corpus, corpus.sets["set"], embed, mining)
    assert mined.negatives[0] == [1, 2]
    assert set(embed.roles) == {"query"}
    assert {text[0] for text in embed.asked[:3]} == {"s"}


def test_the_report_counts_what_was_found_and_shows_examples() -> None:
    corpus, seen = a_corpus(questions([10, 5, 30, 20, 60])), []
    embed = Directions()
    mined = mine(corpus, corpus.sets["set"], embed, Mining(**EVERY), progress=seen.append)
    assert embed.roles == ["passage", "query"]
    assert sum(seen) == 10
    report = mined.as_json()
    assert report["queries"] == report["passages"] == 5
    assert report["negatives"] == 3 + 3 + 1 + 2 + 0
    assert report["fewer_than_asked"] == 3
    assert report["without_any"] == 1
    assert report["positive_at_rank_1"] == 0.2
    cosines = np.cos(np.radians([10, 5, 30, 20, 60]))
    assert report["mean_cosine_of_positives"] == pytest.approx(cosines.mean(), abs=1e-3)
    taken = np.cos(np.radians([20, 30, 60, 10, 20, 30, 60, 30, 60]))
    assert report["mean_cosine_of_negatives"] == pytest.approx(taken.mean(), abs=1e-3)
    example = report["examples"][0]
    assert example["query"] == "q 0 @0.0"
    assert example["positive"] == "p 0 @10"
    assert example["negatives"][0] == {"rank": 2, "cosine": 0.9397, "passage": "p 3 @20"}


def test_more_queries_than_are_asked_at_once_change_nothing() -> None:
    angles = np.linspace(0, 80, AT_ONCE + 50).tolist()
    corpus = a_corpus(questions(angles))
    mined = mine(corpus, corpus.sets["set"], Directions(), Mining(count=2, first=1, share=1.0))
    assert len(mined.negatives) == len(angles)
    assert mined.negatives[3] == [4, 5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"languages": ("de",)}, "no group of the data set has a text to ask with"),
        ({"query_language": "xx"}, "no text in xx"),
        ({"roles": ("sentence", "passage")}, "set: no group has a sentence"),
    ],
)
def test_what_cannot_be_mined_is_said(changes: dict[str, object], message: str) -> None:
    corpus = a_corpus(questions([1, 2]))
    with pytest.raises(MiningImpossible, match=message):
        mine(corpus, corpus.sets["set"], Directions(), Mining(**{**EVERY, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first": 0}, "--ranks 0-100: the first rank is at least 1"),
        ({"first": 9, "last": 8}, "the last not before it"),
        ({"count": 0}, "count = 0"),
        ({"share": 0.0}, "share = 0.0"),
        ({"share": 1.1}, "share = 1.1"),
        ({"margin": -0.1}, "margin = -0.1"),
        ({"roles": ("sentence", "sentence")}, "every text would find itself"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mining(**{**EVERY, **changes})


def unit_vectors(count: int, width: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 60), st.integers(0, 1000))
def test_the_exact_index_finds_what_all_products_say(count: int, seed: int) -> None:
    vectors, queries = unit_vectors(count, 8, seed), unit_vectors(5, 8, seed + 1)
    cosines, _ = build_index(vectors).search(queries, count)
    expected = -np.sort(-(queries @ vectors.T), axis=1)
    np.testing.assert_allclose(cosines, expected, atol=1e-5)


def test_the_inverted_file_finds_nearly_what_the_exact_index_does_and_is_made_alike_twice() -> None:
    centres = unit_vectors(40, 16, 1)
    near = np.repeat(centres, 50, axis=0) + 0.1 * unit_vectors(2000, 16, 2)
    vectors = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    queries = vectors[::40]
    _, exact = build_index(vectors, "exact").search(queries, 10)
    _, one = build_index(vectors, "ivf").search(queries, 10)
    _, two = build_index(vectors, "ivf").search(queries, 10)
    assert np.array_equal(one, two)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, one, strict=True)])
    assert recall > 0.9


def test_an_index_that_finds_too_few_leaves_no_gaps() -> None:
    corpus = a_corpus(questions([0, *np.linspace(5, 175, 200).tolist()]))
    mined = mine(corpus, corpus.sets["set"], Directions(), Mining(**{**EVERY, "index": "ivf"}))
    assert mined.negatives[0] == [1, 2, 3]
    assert all(negative >= 0 for found in mined.negatives.values() for negative in found)
