"""The filter algebra: all, any and not over equals, in, range and exists on declared fields.

Why here and not in an index: three readers must agree on what a filter means, the two index
backends and the catalog (deletion by filter), and `matches` is the meaning that they are tested
against.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

from service.errors import InvalidInput, UnknownField
from service.types import FieldType, Scalar

LANGUAGE = "language"
"""The built-in field that every passage has beside the declared ones."""


@dataclass(frozen=True, slots=True)
class Equals:
    """The field has this value; a field with a list of values has it among them."""

    field: str
    value: Scalar


@dataclass(frozen=True, slots=True)
class In:
    """The field has one of these values."""

    field: str
    values: Sequence[Scalar]


@dataclass(frozen=True, slots=True)
class Range:
    """The field lies between bounds, each of which may be left out."""

    field: str
    gt: Scalar | None = None
    gte: Scalar | None = None
    lt: Scalar | None = None
    lte: Scalar | None = None

    def bounds(self) -> dict[str, Scalar]:
        """The bounds that are given, by name."""
        named = {"gt": self.gt, "gte": self.gte, "lt": self.lt, "lte": self.lte}
        return {name: bound for name, bound in named.items() if bound is not None}


@dataclass(frozen=True, slots=True)
class Exists:
    """The field has a value."""

    field: str


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every clause holds; with no clause, everything does."""

    clauses: Sequence["Filter"]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one clause holds; with no clause, nothing does."""

    clauses: Sequence["Filter"]


@dataclass(frozen=True, slots=True)
class Not:
    """The clause does not hold."""

    clause: "Filter"


Filter: TypeAlias = Equals | In | Range | Exists | AllOf | AnyOf | Not


def resolve(where: Filter, fields: Mapping[str, FieldType]) -> Filter:
    """The filter with its values as they are stored; refuses undeclared fields and wrong types."""
    match where:
        case AllOf(clauses):
            return AllOf([resolve(clause, fields) for clause in clauses])
        case AnyOf(clauses):
            return AnyOf([resolve(clause, fields) for clause in clauses])
        case Not(clause):
            return Not(resolve(clause, fields))
        case Exists(field):
            kind_of(field, fields)
            return where
        case Equals(field, value):
            return Equals(field, typed(value, kind_of(field, fields), name=field))
        case In(field, values):
            kind = kind_of(field, fields)
            return In(field, [typed(value, kind, name=field) for value in values])
        case Range(field):
            kind = kind_of(field, fields)
            bounds = where.bounds().items()
            if kind in {"keyword", "boolean"}:
                raise InvalidInput(f"a range needs a number or a datetime; {field!r} is {kind}")
            if not bounds:
                raise InvalidInput(f"the range of {field!r} has no bound: gt, gte, lt or lte")
            return Range(field, **{name: typed(bound, kind, name=field) for name, bound in bounds})


def kind_of(field: str, fields: Mapping[str, FieldType]) -> FieldType:
    """The declared type of a field, or `UnknownField` with the ones that there are."""
    if field == LANGUAGE:
        return "keyword"
    if field not in fields:
        known = ", ".join(sorted({*fields, LANGUAGE}))
        raise UnknownField(f"the collection declares no field {field!r}; it has: {known}")
    return fields[field]


def declared(
    metadata: Mapping[str, Any], fields: Mapping[str, FieldType]
) -> dict[str, Scalar | list[Scalar]]:
    """The declared fields that have a value in a document's metadata, as the index stores them."""
    values: dict[str, Scalar | list[Scalar]] = {}
    for name, kind in fields.items():
        value = metadata.get(name)
        try:
            if isinstance(value, list | tuple):
                values[name] = [typed(item, kind, name=name) for item in value]
            elif value is not None:
                values[name] = typed(value, kind, name=name)
        except InvalidInput as error:
            raise InvalidInput(error.detail, pointer=f"/{name}") from error
    return values


def typed(value: Any, kind: FieldType, *, name: str) -> Scalar:
    """The value as the index stores it (a datetime in UTC), or `InvalidInput` if it has another type."""
    match kind:
        case "keyword" if isinstance(value, str):
            return value
        case "boolean" if isinstance(value, bool):
            return value
        case "integer" if isinstance(value, int) and not isinstance(value, bool):
            if -(2**63) <= value < 2**63:
                return value
            raise InvalidInput(f"field {name!r}: {value} does not fit in 64 bits")
        case "float" if isinstance(value, int | float) and not isinstance(value, bool):
            return _finite(value, name=name)
        case "datetime" if isinstance(value, str):
            return instant(value, name=name).isoformat()
        case _:
            raise InvalidInput(f"field {name!r} is declared as {kind}, but {value!r} is not one")


def instant(value: str, *, name: str) -> datetime:
    """An RFC 3339 string as a point in time, in UTC; without an offset it is taken as UTC."""
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"field {name!r}: {value!r} is not an RFC 3339 date-time") from error


def _finite(value: float, *, name: str) -> float:
    try:
        number = float(value)
    except OverflowError as error:
        raise InvalidInput(f"field {name!r}: the number does not fit in a float") from error
    if not math.isfinite(number):
        raise InvalidInput(f"field {name!r}: {number} is not a finite number")
    return number


def matches(where: Filter, values: Mapping[str, Any]) -> bool:
    """Whether a passage with these stored values (see `typed`) satisfies a valid filter."""
    match where:
        case AllOf(clauses):
            return all(matches(clause, values) for clause in clauses)
        case AnyOf(clauses):
            return any(matches(clause, values) for clause in clauses)
        case Not(clause):
            return not matches(clause, values)
        case Exists(field):
            return bool(_stored(values, field))
        case Equals(field, value):
            return any(_same(have, value) for have in _stored(values, field))
        case In(field, wanted):
            return any(_same(have, value) for have in _stored(values, field) for value in wanted)
        case Range():
            return any(_within(have, where) for have in _stored(values, where.field))


def _stored(values: Mapping[str, Any], field: str) -> Sequence[Any]:
    value = values.get(field)
    if value is None:
        return []
    return value if isinstance(value, list | tuple) else [value]


def _same(have: Any, value: Scalar) -> bool:
    return isinstance(have, bool) == isinstance(value, bool) and bool(have == value)


def _within(have: Any, where: Range) -> bool:
    tests = {
        "gt": lambda bound: have > bound,
        "gte": lambda bound: have >= bound,
        "lt": lambda bound: have < bound,
        "lte": lambda bound: have <= bound,
    }
    return all(tests[name](bound) for name, bound in where.bounds().items())
