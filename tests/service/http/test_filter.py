import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidInput
from service.filters import AllOf, AnyOf, Equals, Exists, In, Not, Range
from service.http.filter import parse, pointing
from service.http.limits import Limits

LIMITS = Limits(max_filter_depth=3, max_filter_clauses=6)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"field": "a", "equals": 1}, Equals("a", 1)),
        ({"field": "a", "equals": False}, Equals("a", False)),
        ({"field": "a", "in": ["x", "y"]}, In("a", ["x", "y"])),
        ({"field": "a", "in": []}, In("a", [])),
        ({"field": "a", "gte": 1, "lt": 2.5}, Range("a", gte=1, lt=2.5)),
        ({"field": "a", "exists": True}, Exists("a")),
        ({"field": "a", "exists": False}, Not(Exists("a"))),
        ({"all": []}, AllOf([])),
        (
            {"any": [{"not": {"field": "a", "equals": "x"}}, {"field": "b", "gt": 0}]},
            AnyOf([Not(Equals("a", "x")), Range("b", gt=0)]),
        ),
    ],
)
def test_every_form_is_read(value, expected):
    assert parse(value, LIMITS, pointer="/filter") == expected


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        ([], "/filter"),
        ("x", "/filter"),
        ({"all": {}}, "/filter"),
        ({"all": [], "any": []}, "/filter"),
        ({"all": [{"field": "a", "equals": 1}, 5]}, "/filter/all/1"),
        ({"not": {"field": 5, "equals": 1}}, "/filter/not"),
        ({"field": "a"}, "/filter"),
        ({"field": "a", "equals": 1, "in": [2]}, "/filter"),
        ({"field": "a", "equals": None}, "/filter/equals"),
        ({"field": "a", "equals": float("nan")}, "/filter/equals"),
        ({"field": "a", "in": [1, {}]}, "/filter/in/1"),
        ({"field": "a", "exists": 1}, "/filter"),
        ({"field": "a", "gte": []}, "/filter/gte"),
        ({"field": "a", "between": [1, 2]}, "/filter"),
        ({"not": {"not": {"not": {"all": []}}}}, "/filter/not/not/not"),
        ({"field": "a", "in": [1] * 6}, "/filter/in"),
        ({"all": [{"all": []}] * 6}, "/filter/all/5"),
    ],
)
def test_what_is_no_filter_is_pointed_at(value, pointer):
    with pytest.raises(InvalidInput) as refused:
        parse(value, LIMITS, pointer="/filter")
    assert refused.value.pointer == pointer


def test_a_filter_that_is_too_deep_or_too_long_names_the_knob():
    deep = {"not": {"not": {"not": {"all": []}}}}
    with pytest.raises(InvalidInput, match="ISOGLOSS_MAX_FILTER_DEPTH"):
        parse(deep, LIMITS, pointer="")
    with pytest.raises(InvalidInput, match="ISOGLOSS_MAX_FILTER_CLAUSES"):
        parse({"field": "a", "in": [1] * 6}, LIMITS, pointer="")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["all", "any", "not", "field", "equals", "in", "exists", "gt", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_json_is_a_filter_or_refused_within_it(value):
    pointer = "/filter"
    try:
        parse(value, LIMITS, pointer=pointer)
    except InvalidInput as error:
        pointer = error.pointer
    assert pointer.startswith("/filter")


def test_an_error_from_below_points_at_the_filter_if_it_points_at_nothing():
    for own, shown in (("", "/filter"), ("/queries/1", "/queries/1")):
        with pytest.raises(InvalidInput) as refused, pointing():
            raise InvalidInput("x", pointer=own)
        assert refused.value.pointer == shown
