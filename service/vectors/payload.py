"""What a point carries in an index beside its vector, and how a filter reads it.

Why one file for both backends: a filter must mean in an index what `filters.matches` says. The
differences between that meaning and Qdrant's are settled here, once: a boolean is stored as 0 or 1
(Edge finds nothing for a boolean), equality of floats and datetimes is a closed range (Qdrant
matches exact keywords and integers only), two bounds on one side become the tighter one, and an
empty interval, an empty list and an empty `AnyOf` are the one condition that nothing satisfies.
What is left is a small neutral tree of lists, which travels to the index host as it is:

    ["all", [condition, …]]   ["any", [condition, …]]   ["not", condition]
    ["match", key, [value, …]]      one of these strings or integers
    ["range", key, "number" | "datetime", {"gt" | "gte" | "lt" | "lte": bound}]
    ["filled", key]                 the field has a value

A declared field is stored under `m_` and its name, so that it never meets the three keys of ours.
"""

import math
import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from service.errors import InvalidInput
from service.filters import (
    LANGUAGE,
    AllOf,
    AnyOf,
    Equals,
    Exists,
    Filter,
    In,
    Not,
    Range,
    kind_of,
)
from service.types import FieldType, Matrix, Scalar
from service.vectors.backend import IndexSpec, Point

DOCUMENT = "document"
REV = "rev"
EXACT_INTEGER = 2**53 - 1
"""Qdrant's range bounds are 64-bit floats: beyond this an integer bound would be rounded."""

Condition: TypeAlias = Sequence[Any]
EVERYTHING: Condition = ["all", []]
NOTHING: Condition = ["any", []]
COMPARISONS = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}
"""They order datetimes too: all are in UTC and in one form, whose order is that of its letters."""


def keys(spec: IndexSpec) -> dict[str, FieldType]:
    """Every payload key of an index with the type of its payload index."""
    own: dict[str, FieldType] = {LANGUAGE: "keyword", DOCUMENT: "integer", REV: "integer"}
    declared: dict[str, FieldType] = {
        key_of(field): "integer" if kind == "boolean" else kind
        for field, kind in spec.fields.items()
    }
    return own | declared


def key_of(field: str) -> str:
    """The payload key of a declared field; no two fields share one, and none is a JSON path."""
    if field == LANGUAGE:
        return LANGUAGE
    return "m_" + re.sub(r"[^A-Za-z0-9_]", lambda found: f"-{ord(found[0]):x}-", field)


def payload(point: Point, fields: Mapping[str, FieldType]) -> dict[str, Any]:
    """The payload of a point; refuses fields that are not declared and values JSON cannot hold."""
    carried: dict[str, Any] = {
        LANGUAGE: _storable(point.language),
        DOCUMENT: point.document,
        REV: point.rev,
    }
    for field, value in point.metadata.items():
        kind_of(field, fields)
        many = isinstance(value, list | tuple)
        carried[key_of(field)] = [_storable(one) for one in value] if many else _storable(value)
    return carried


def matrix(points: Sequence[Point], spec: IndexSpec) -> Matrix:
    """The vectors of points, one a row; refuses another dimension, NaN and infinity."""
    for point in points:
        if point.vector.shape != (spec.dimension,):
            raise InvalidInput(
                f"point {point.id}: a vector of shape {point.vector.shape} in index {spec.name!r},"
                f" which holds vectors of dimension {spec.dimension}"
            )
    rows = np.array([point.vector for point in points], dtype=np.float32)
    finite = np.isfinite(rows).all(axis=-1)
    if not finite.all():
        culprit = points[int(np.argmin(finite))].id
        raise InvalidInput(f"point {culprit}: the vector has a component that is not finite")
    return rows


def sought(vector: Matrix, spec: IndexSpec) -> Matrix:
    """The vector of a query, as contiguous float32; refuses what `matrix` refuses."""
    if vector.shape != (spec.dimension,):
        raise InvalidInput(
            f"a query vector of shape {vector.shape} in index {spec.name!r},"
            f" which holds vectors of dimension {spec.dimension}"
        )
    if not np.isfinite(vector).all():
        raise InvalidInput("the query vector has a component that is not finite")
    return np.ascontiguousarray(vector, dtype=np.float32)


def disjoint(upserts: Sequence[Point], deletes: Sequence[int]) -> None:
    """Refuse a batch in which an id occurs twice: its outcome would depend on an order."""
    ids = [point.id for point in upserts] + list(deletes)
    if len(set(ids)) != len(ids):
        twice = next(one for one in ids if ids.count(one) > 1)
        raise InvalidInput(f"point {twice} occurs twice in one batch")


def lowered(threshold: float | None) -> float | None:
    """A threshold for Qdrant, whose own means "more than", so that it means "at least"."""
    return None if threshold is None else float(np.nextafter(np.float32(threshold), np.float32(-9)))


def condition(where: Filter | None, fields: Mapping[str, FieldType]) -> Condition:
    """The neutral condition of a resolved filter (see `filters.resolve`)."""
    match where:
        case None:
            return EVERYTHING
        case AllOf(clauses):
            return _all([condition(clause, fields) for clause in clauses])
        case AnyOf(clauses):
            return _any([condition(clause, fields) for clause in clauses])
        case Not(clause):
            return _not(condition(clause, fields))
        case Exists(field):
            kind_of(field, fields)
            return ["filled", key_of(field)]
        case Equals(field, value):
            return _one_of(field, [value], kind_of(field, fields))
        case In(field, values):
            return _one_of(field, values, kind_of(field, fields))
        case Range(field):
            return _between(where, kind_of(field, fields))


def holds(condition: Condition, carried: Mapping[str, Any]) -> bool:
    """Whether a payload satisfies a condition; what an index does, for the few points at hand."""
    match condition:
        case ["all", clauses]:
            return all(holds(clause, carried) for clause in clauses)
        case ["any", clauses]:
            return any(holds(clause, carried) for clause in clauses)
        case ["not", clause]:
            return not holds(clause, carried)
        case ["match", key, values]:
            return any(value in values for value in _values(carried, key))
        case ["range", key, _, bounds]:
            return any(_within(value, bounds) for value in _values(carried, key))
        case ["filled", key]:
            return bool(_values(carried, key))
        case _:
            raise ValueError(f"unknown condition {condition!r}")


def read_by(condition: Condition) -> set[str]:
    """The payload keys that a condition reads."""
    match condition:
        case ["all" | "any", clauses]:
            return {key for clause in clauses for key in read_by(clause)}
        case ["not", clause]:
            return read_by(clause)
        case _:
            return {condition[1]}


def _values(carried: Mapping[str, Any], key: str) -> list[Any]:
    value = carried.get(key, [])
    return value if isinstance(value, list) else [value]


def _within(value: Any, bounds: Mapping[str, Any]) -> bool:
    return all(COMPARISONS[name](value, bound) for name, bound in bounds.items())


def _all(clauses: Sequence[Condition]) -> Condition:
    if NOTHING in clauses:
        return NOTHING
    kept = [clause for clause in clauses if clause != EVERYTHING]
    return kept[0] if len(kept) == 1 else ["all", kept]


def _any(clauses: Sequence[Condition]) -> Condition:
    if EVERYTHING in clauses:
        return EVERYTHING
    kept = [clause for clause in clauses if clause != NOTHING]
    return kept[0] if len(kept) == 1 else ["any", kept]


def _not(clause: Condition) -> Condition:
    match clause:
        case ["all", []]:
            return NOTHING
        case ["any", []]:
            return EVERYTHING
        case ["not", inner]:
            return [*inner]
        case _:
            return ["not", clause]


def _one_of(field: str, values: Sequence[Scalar], kind: FieldType) -> Condition:
    key = key_of(field)
    if kind in {"keyword", "integer", "boolean"}:
        return ["match", key, [_storable(value) for value in values]] if values else NOTHING
    scale = "datetime" if kind == "datetime" else "number"
    return _any([["range", key, scale, {"gte": value, "lte": value}] for value in values])


def _between(where: Range, kind: FieldType) -> Condition:
    key, bounds = key_of(where.field), where.bounds()
    if kind not in {"integer", "float", "datetime"}:
        raise InvalidInput(f"a range needs a number or a datetime; {where.field!r} is {kind}")
    if not bounds:
        return ["filled", key]
    if kind == "integer" and any(abs(bound) > EXACT_INTEGER for bound in bounds.values()):  # type: ignore[arg-type]
        raise InvalidInput(
            f"a range on the integer field {where.field!r} needs bounds within ±{EXACT_INTEGER}"
            " (2^53 - 1); equality has no such limit"
        )
    bounds = _tightest(bounds)
    low, high = bounds.get("gt", bounds.get("gte")), bounds.get("lt", bounds.get("lte"))
    if low is not None and high is not None:
        closed = "gte" in bounds and "lte" in bounds
        if low > high or (low == high and not closed):  # type: ignore[operator]
            return NOTHING
    return ["range", key, "datetime" if kind == "datetime" else "number", bounds]


def _tightest(bounds: Mapping[str, Any]) -> dict[str, Any]:
    kept = dict(bounds)
    if "gt" in kept and "gte" in kept:
        del kept["gte" if kept["gt"] >= kept["gte"] else "gt"]
    if "lt" in kept and "lte" in kept:
        del kept["lte" if kept["lt"] <= kept["lte"] else "lt"]
    return kept


def _storable(value: Scalar) -> str | int | float:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(f"{value} is not a number that an index can hold")
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"{value!r} is not valid Unicode: a lone surrogate") from error
    return value
