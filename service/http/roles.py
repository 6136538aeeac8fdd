"""The ways in which clients say what a text is: a query or a passage."""

from collections.abc import Mapping
from typing import Final

from service.errors import InvalidInput
from service.http.limits import shown
from service.types import Role

DEFAULT: Final[Role] = "passage"
"""The role of texts that come without one; most clients that cannot say it index documents."""

NAMES: Final[Mapping[str, Role]] = {
    "query": "query",
    "search_query": "query",
    "retrieval.query": "query",
    "passage": "passage",
    "document": "passage",
    "search_document": "passage",
    "retrieval.passage": "passage",
}
DESCRIPTION: Final = "One of " + ", ".join(f"`{name}`" for name in NAMES) + "."


def said(names: Mapping[str, str | None]) -> Role | None:
    """The role that the first of these request fields says, or None if none of them is given."""
    for key, name in names.items():
        if name is not None:
            role = NAMES.get(name.lower())
            if role is None:
                known = ", ".join(NAMES)
                raise InvalidInput(
                    f"{shown(name)} is no role; one of {known} is", pointer=f"/{key}"
                )
            return role
    return None
