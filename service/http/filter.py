"""The filter algebra as JSON: from a request's `filter` to `service.filters`.

{"all": […]}  {"any": […]}  {"not": {…}}
{"field": "topic", "equals": "bees"}      {"field": "topic", "in": ["bees", "honey"]}
{"field": "year", "gte": 2000, "lt": 2010}      {"field": "year", "exists": true}
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from service.errors import InvalidInput
from service.filters import AllOf, AnyOf, Equals, Exists, Filter, In, Not, Range
from service.http.limits import Limits, over, shown, step
from service.types import Scalar

BOUNDS: Final = frozenset({"gt", "gte", "lt", "lte"})
FORMS: Final = (
    'one of {"all": […]}, {"any": […]}, {"not": {…}}, {"field": …, "equals": …},'
    ' {"field": …, "in": […]}, {"field": …, "exists": true},'
    ' {"field": …, "gt" | "gte" | "lt" | "lte": …}'
)
SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "minProperties": 1,
    "description": f"Over declared fields and `language`: {FORMS}.",
    "examples": [
        {"field": "topic", "equals": "bees"},
        {"all": [{"field": "year", "gte": 2000, "lt": 2010}, {"field": "topic", "in": ["bees"]}]},
    ],
}


def parse(value: Any, limits: Limits, *, pointer: str) -> Filter:
    """The filter that a JSON value says, or `InvalidInput` that points at what is wrong in it."""
    return _Parser(limits).clause(value, pointer, depth=1)


@contextmanager
def pointing() -> Iterator[None]:
    """Let an error about the fields or values of a valid filter point at the filter."""
    try:
        yield
    except InvalidInput as error:
        if not error.pointer:
            raise type(error)(error.detail, pointer="/filter") from error
        raise


class _Parser:
    """Counts what it has read: conditions and the values of `in` share one limit."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._clauses = 0

    def clause(self, value: Any, pointer: str, *, depth: int) -> Filter:
        if depth > self._limits.max_filter_depth:
            limit = self._limits.max_filter_depth
            raise InvalidInput(
                over(depth, limit, "max_filter_depth", "levels of the filter"), pointer=pointer
            )
        self._count(1, pointer)
        if not isinstance(value, dict):
            raise InvalidInput(f"{shown(value)} is not a filter: {FORMS}", pointer=pointer)
        match value:
            case {"all": list(parts)} if len(value) == 1:
                return AllOf(self._parts(parts, step(pointer, "all"), depth))
            case {"any": list(parts)} if len(value) == 1:
                return AnyOf(self._parts(parts, step(pointer, "any"), depth))
            case {"not": part} if len(value) == 1:
                return Not(self.clause(part, step(pointer, "not"), depth=depth + 1))
            case {"field": str(field)}:
                rest = {name: part for name, part in value.items() if name != "field"}
                return self._condition(field, rest, pointer)
            case _:
                raise InvalidInput(f"not a filter; it is {FORMS}", pointer=pointer)

    def _parts(self, parts: list[Any], pointer: str, depth: int) -> list[Filter]:
        return [
            self.clause(part, f"{pointer}/{index}", depth=depth + 1)
            for index, part in enumerate(parts)
        ]

    def _condition(self, field: str, rest: Mapping[str, Any], pointer: str) -> Filter:
        match rest:
            case {"equals": value} if len(rest) == 1:
                return Equals(field, _scalar(value, step(pointer, "equals")))
            case {"in": list(values)} if len(rest) == 1:
                at = step(pointer, "in")
                self._count(len(values), at)
                return In(field, [_scalar(v, f"{at}/{index}") for index, v in enumerate(values)])
            case {"exists": bool(wanted)} if len(rest) == 1:
                return Exists(field) if wanted else Not(Exists(field))
            case _:
                return self._range(field, rest, pointer)

    def _range(self, field: str, rest: Mapping[str, Any], pointer: str) -> Filter:
        if rest and rest.keys() <= BOUNDS:
            bounds = {name: _scalar(value, step(pointer, name)) for name, value in rest.items()}
            return Range(field, **bounds)
        raise InvalidInput(f"no condition on {shown(field)}; it is {FORMS}", pointer=pointer)

    def _count(self, more: int, pointer: str) -> None:
        self._clauses += more
        limit = self._limits.max_filter_clauses
        if self._clauses > limit:
            raise InvalidInput(
                over(self._clauses, limit, "max_filter_clauses", "conditions and values"),
                pointer=pointer,
            )


def _scalar(value: Any, pointer: str) -> Scalar:
    if isinstance(value, bool | str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise InvalidInput(f"{shown(value)} is not a string, a number or a boolean", pointer=pointer)
