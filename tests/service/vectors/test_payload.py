"""The neutral conditions; that they mean what `filters.matches` means is in the contract suite."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidInput
from service.filters import AllOf, AnyOf, Equals, Exists, In, Not, Range
from service.vectors.backend import IndexSpec, Point
from service.vectors.payload import (
    EVERYTHING,
    NOTHING,
    condition,
    key_of,
    keys,
    lowered,
    matrix,
    payload,
)

FIELDS = {"kind": "keyword", "n": "integer", "x": "float", "at": "datetime", "ok": "boolean"}
NOON = "2024-02-29T12:00:00+00:00"
A = Equals("kind", "a")
IS_A = ["match", "m_kind", ["a"]]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (None, EVERYTHING),
        (AllOf([]), EVERYTHING),
        (AnyOf([]), NOTHING),
        (Not(AllOf([])), NOTHING),
        (Not(AnyOf([])), EVERYTHING),
        (AllOf([A, AllOf([])]), IS_A),
        (AllOf([A, AnyOf([])]), NOTHING),
        (AnyOf([A, AllOf([])]), EVERYTHING),
        (AnyOf([A, AnyOf([])]), IS_A),
        (Not(Not(A)), IS_A),
        (Not(A), ["not", IS_A]),
        (AnyOf([A, Exists("n")]), ["any", [IS_A, ["filled", "m_n"]]]),
        (In("n", []), NOTHING),
        (In("x", []), NOTHING),
        (In("ok", [True, False]), ["match", "m_ok", [1, 0]]),
        (Equals("language", "en"), ["match", "language", ["en"]]),
        (Equals("x", 0.5), ["range", "m_x", "number", {"gte": 0.5, "lte": 0.5}]),
        (Equals("at", NOON), ["range", "m_at", "datetime", {"gte": NOON, "lte": NOON}]),
        (Range("n"), ["filled", "m_n"]),
        (Range("n", gt=3, lt=3), NOTHING),
        (Range("n", gte=3, lt=3), NOTHING),
        (Range("n", gte=3, lte=3), ["range", "m_n", "number", {"gte": 3, "lte": 3}]),
        (Range("n", gt=5, lt=2), NOTHING),
        (Range("n", gt=1, gte=2), ["range", "m_n", "number", {"gte": 2}]),
        (Range("n", gt=2, gte=2), ["range", "m_n", "number", {"gt": 2}]),
        (Range("n", lt=2, lte=1), ["range", "m_n", "number", {"lte": 1}]),
        (Range("n", lt=2, lte=2), ["range", "m_n", "number", {"lt": 2}]),
    ],
)
def test_a_filter_has_one_small_form(where, expected):
    assert condition(where, FIELDS) == expected


@given(st.sets(st.text(max_size=8), max_size=20))
def test_no_two_fields_share_a_key_and_none_is_a_path(fields):
    own = {key_of(field) for field in fields}
    assert len(own) == len(fields)
    assert not any(set(key) & set('."[] ') for key in own)
    assert not {"document", "rev"} & own


def test_every_field_has_an_index_and_a_boolean_is_an_integer():
    assert keys(IndexSpec("a", "s", 2, {"ok": "boolean", "a.b": "float"})) == {
        "language": "keyword",
        "document": "integer",
        "rev": "integer",
        "m_ok": "integer",
        "m_a-2e-b": "float",
    }


def test_a_list_is_stored_value_by_value():
    point = Point(1, np.zeros(2, np.float32), 3, 2, "en", {"ok": [True, False], "kind": ("a", "b")})
    assert payload(point, FIELDS) == {
        "language": "en",
        "document": 2,
        "rev": 3,
        "m_ok": [1, 0],
        "m_kind": ["a", "b"],
    }


def test_the_bad_vector_of_a_batch_is_named():
    good = Point(1, np.ones(2, np.float32), 1, 1, "en", {})
    bad = Point(7, np.array([1, np.nan], np.float32), 1, 1, "en", {})
    with pytest.raises(InvalidInput, match="point 7"):
        matrix([good, bad], IndexSpec("a", "s", 2, {}))


@given(st.floats(-1, 1, width=32))
def test_a_lowered_threshold_lets_its_own_score_through_and_none_below(score):
    assert lowered(score) < score
    assert not any(
        lowered(score) < below < score
        for below in [np.nextafter(np.float32(score), np.float32(-9))]
    )
    assert lowered(None) is None
