import operator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidInput, UnknownField
from service.filters import (
    AllOf,
    AnyOf,
    Equals,
    Exists,
    In,
    Not,
    Range,
    declared,
    matches,
    resolve,
    typed,
)

FIELDS = {
    "topic": "keyword",
    "year": "integer",
    "score": "float",
    "day": "datetime",
    "draft": "boolean",
}
VALUES = {"topic": ["sea", "sky"], "year": 2020, "score": 0.5, "draft": False, "language": "de"}


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        (Equals("topic", "sky"), True),
        (Equals("topic", "earth"), False),
        (Equals("language", "de"), True),
        (Equals("draft", False), True),
        (Equals("draft", True), False),
        (Equals("day", "2020-01-01T00:00:00+00:00"), False),
        (In("year", [1999, 2020]), True),
        (In("year", []), False),
        (Range("year", gt=2019, lt=2021), True),
        (Range("year", gt=2020), False),
        (Range("year", gte=2020, lte=2020), True),
        (Range("score", lt=0.5), False),
        (Exists("day"), False),
        (Exists("topic"), True),
        (AllOf([]), True),
        (AnyOf([]), False),
        (AllOf([Equals("year", 2020), Not(Exists("day"))]), True),
        (AnyOf([Equals("year", 1), Equals("topic", "sea")]), True),
        (Not(AnyOf([Exists("day"), Exists("year")])), False),
    ],
)
def test_a_filter_means_what_it_says(where, holds):
    assert matches(resolve(where, FIELDS), VALUES) is holds


@pytest.mark.parametrize("values", [{}, {"topic": None}, {"topic": []}, {"topic": ()}])
def test_a_field_without_a_value_does_not_exist(values):
    assert not matches(Exists("topic"), values)


def test_true_is_not_one():
    assert not matches(Equals("draft", 1), {"draft": True})
    assert not matches(Equals("year", True), {"year": 1})


def test_a_list_satisfies_a_range_if_one_of_its_values_lies_within_all_bounds():
    assert matches(Range("year", gt=1, lt=4), {"year": [0, 3]})
    assert not matches(Range("year", gt=1, lt=4), {"year": [0, 5]})


@pytest.mark.parametrize(
    "where",
    [
        Equals("colour", "red"),
        In("colour", ["red"]),
        Range("colour", gt=1),
        Exists("colour"),
        AllOf([Not(AnyOf([Exists("colour")]))]),
    ],
)
def test_an_undeclared_field_is_refused_with_the_ones_that_there_are(where):
    with pytest.raises(UnknownField, match=r"'colour'.*day, draft, language, score, topic, year"):
        resolve(where, FIELDS)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (Range("topic", gt="a"), "keyword"),
        (Range("draft", gt=False), "boolean"),
        (Range("language", gt="a"), "keyword"),
        (Range("year"), "no bound"),
        (Equals("year", "2020"), "declared as integer"),
        (Equals("year", True), "declared as integer"),
        (Equals("year", 2**63), "64 bits"),
        (Equals("score", True), "declared as float"),
        (Equals("score", float("nan")), "not a finite number"),
        (Equals("score", 10**400), "does not fit"),
        (Equals("draft", 1), "declared as boolean"),
        (Equals("topic", 1), "declared as keyword"),
        (Equals("day", "yesterday"), "RFC 3339"),
        (Equals("day", "0001-01-01T00:00:00+14:00"), "RFC 3339"),
        (Equals("day", 20200101), "declared as datetime"),
        (In("year", [1, "2"]), "declared as integer"),
        (Range("year", gte=1, lt=2.5), "declared as integer"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(where, message):
    with pytest.raises(InvalidInput, match=message):
        resolve(where, FIELDS)


def test_metadata_becomes_the_declared_values_alone():
    metadata = {
        "topic": ["sea", "sky"],
        "score": 1,
        "day": "2020-05-01T02:00:00+02:00",
        "year": None,
        "other": {"nested": True},
    }
    assert declared(metadata, FIELDS) == {
        "topic": ["sea", "sky"],
        "score": 1.0,
        "day": "2020-05-01T00:00:00+00:00",
    }


def test_a_wrong_value_in_metadata_is_refused_with_its_pointer():
    with pytest.raises(InvalidInput, match="'year' is declared as integer") as error:
        declared({"year": [2020, "2021"]}, FIELDS)
    assert error.value.pointer == "/year"


offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
days = st.integers(2, 3_600_000).map(lambda day: datetime(1, 1, 1, tzinfo=UTC) + timedelta(day))
aware = st.builds(
    lambda day, second, offset: (day + timedelta(seconds=second)).astimezone(offset),
    days,
    st.floats(0, 86_400),
    offsets,
)


@given(aware, aware, st.sampled_from(["gt", "gte", "lt", "lte"]))
def test_datetimes_compare_as_moments_whatever_their_offsets(one, other, bound):
    fields = {"day": "datetime"}
    where = resolve(Range("day", **{bound: other.isoformat()}), fields)
    compare = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}[bound]
    assert matches(where, declared({"day": one.isoformat()}, fields)) is compare(one, other)


@given(st.datetimes())
def test_a_datetime_without_an_offset_is_taken_as_utc(moment):
    assert (
        typed(moment.isoformat(), "datetime", name="day") == moment.replace(tzinfo=UTC).isoformat()
    )


scalars = st.sampled_from(["sea", "sky"]), st.integers(-3, 3), st.floats(-3, 3), st.booleans()
leaves = st.one_of(
    st.builds(Equals, st.just("topic"), scalars[0]),
    st.builds(In, st.just("year"), st.lists(scalars[1], max_size=3)),
    st.builds(Range, st.just("score"), gte=scalars[2], lt=st.none() | scalars[2]),
    st.builds(Equals, st.just("draft"), scalars[3]),
    st.builds(Exists, st.sampled_from(["topic", "year", "score", "draft"])),
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(AllOf, st.lists(inner, max_size=3)),
        st.builds(AnyOf, st.lists(inner, max_size=3)),
        st.builds(Not, inner),
    ),
    max_leaves=8,
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "topic": scalars[0] | st.lists(scalars[0], max_size=2),
        "year": scalars[1],
        "score": scalars[2],
        "draft": scalars[3],
    },
)


@given(st.lists(trees, max_size=3), documents)
def test_all_and_any_are_the_opposites_of_each_other(clauses, metadata):
    values = declared(metadata, FIELDS)
    every = resolve(AllOf(clauses), FIELDS)
    some = resolve(AnyOf([Not(clause) for clause in clauses]), FIELDS)
    assert matches(every, values) is not matches(some, values)
    assert resolve(every, FIELDS) == every  # resolving twice changes nothing
