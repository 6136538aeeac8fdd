import pytest
import torch

from tests.training.methods.pooled_fixtures import all_different, changed
from training.methods.candidates import false_negatives, numbered, stacked

NAMES = ["query", "positive", "negative0", "negative1"]


def masked(facts) -> list[tuple[int, int]]:
    found = false_negatives(
        facts, anchor="query", positive="positive", others=["negative0", "negative1"]
    )
    assert found.shape == (3, 9)
    return [(row, column) for row, column in found.nonzero().tolist()]


def test_views_are_ordered_by_their_number_and_not_by_their_name():
    names = [f"negative{k}" for k in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)]
    assert numbered([*names, "query", "cross_negative0", "negatives"], "negative") == [
        f"negative{k}" for k in range(11)
    ]


def test_a_gap_among_the_numbers_is_refused():
    with pytest.raises(ValueError, match=r"negative\* are numbered \[0, 2\]"):
        numbered(["negative0", "negative2"], "negative")


def test_candidates_stand_view_by_view():
    rows = {name: torch.full((2, 1), float(k)) for k, name in enumerate(NAMES)}
    assert stacked(rows, NAMES[1:]).flatten().tolist() == [1, 1, 2, 2, 3, 3]


def test_different_texts_of_different_groups_are_all_negatives():
    assert masked(all_different(NAMES, 3)) == []


def test_another_row_with_the_same_passage_is_no_negative():
    facts = changed(all_different(NAMES, 3), keys={"positive": [7, 8, 7]})
    assert masked(facts) == [(0, 2), (2, 0)]


def test_another_row_of_the_same_group_is_no_negative():
    facts = changed(all_different(NAMES, 3), groups={"query": [0, 1, 0], "positive": [0, 1, 0]})
    assert masked(facts) == [(0, 2), (2, 0)]


def test_a_candidate_of_the_anchors_group_is_no_negative_where_its_positive_is_of_another():
    facts = changed(all_different(NAMES, 3), groups={"query": [0, 1, 2], "positive": [5, 6, 0]})
    assert masked(facts) == [(0, 2)]


def test_a_row_with_the_same_query_is_no_negative_but_its_hard_negatives_are():
    facts = changed(all_different(NAMES, 3), keys={"query": [7, 7, 9]})
    assert masked(facts) == [(0, 1), (1, 0)]


def test_a_hard_negative_with_the_text_or_the_group_of_a_positive_is_none():
    facts = changed(
        all_different(NAMES, 3),
        keys={"positive": [1, 2, 3], "negative0": [50, 51, 1]},
        groups={"negative1": [90, 1, 91]},
    )
    assert masked(facts) == [(0, 3 + 2), (1, 6 + 1)]
