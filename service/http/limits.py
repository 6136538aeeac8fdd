"""What a request may hold: the limits, and the checks of the values that every route shares.

A check names the value, the limit and the variable that moves it, and points at the value.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from service.errors import InvalidInput, TooLarge

ID_CHARACTERS = 512
TITLE_CHARACTERS = 1000
SHOWN_CHARACTERS = 80

_COLLECTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ESCAPES = (b"\\u0000", b"\\ud", b"\\uD")


class EmptyInput(InvalidInput):
    """There is nothing to embed, to store or to search for."""

    code = "empty_input"


class TokenInputUnsupported(InvalidInput):
    """Token ids came where text is wanted; whose vocabulary they are in, nobody says."""

    code = "token_input_unsupported"


@dataclass(frozen=True, slots=True)
class Limits:
    """The numbers; each field is the setting ISOGLOSS_<FIELD> of the same name."""

    max_body_bytes: int = 32 * 2**20
    max_line_bytes: int = 2 * 2**20
    max_items: int = 2048
    max_characters: int = 200_000
    max_documents: int = 1000
    max_queries: int = 256
    max_limit: int = 1000
    max_offset: int = 10_000
    max_filter_depth: int = 8
    max_filter_clauses: int = 128
    request_deadline_s: float = 30.0

    def at_most(self, count: int, name: str, what: str, *, pointer: str) -> None:
        """Raise `TooLarge` if there is more of something than the limit `name` allows."""
        limit = getattr(self, name)
        if count > limit:
            raise TooLarge(over(count, limit, name, what), pointer=pointer)

    def between(self, value: int, low: int, name: str, what: str, *, pointer: str) -> None:
        """Raise `InvalidInput` if a number is not between `low` and the limit `name`."""
        limit = getattr(self, name)
        if value > limit:
            raise InvalidInput(over(value, limit, name, what), pointer=pointer)
        if value < low:
            raise InvalidInput(f"{what}: {value} is less than {low}", pointer=pointer)

    def text(self, text: Any, *, pointer: str, blank: bool = False) -> str:
        """The text, if it is one, has something in it, and is not too long."""
        if not isinstance(text, str):
            raise InvalidInput(f"{shown(text)} is not a string", pointer=pointer)
        if not (text if blank else text.strip()):
            raise EmptyInput("the text is empty", pointer=pointer)
        self.at_most(len(text), "max_characters", "characters in a text", pointer=pointer)
        return text

    def texts(self, value: Any, *, pointer: str) -> list[str]:
        """One text or a list of texts, as a list; a text may be blank, but not empty."""
        if isinstance(value, str):
            return [self.text(value, pointer=pointer, blank=True)]
        if not isinstance(value, list):
            raise InvalidInput("neither a string nor a list of strings", pointer=pointer)
        if not value:
            raise EmptyInput("the list of texts is empty", pointer=pointer)
        if _tokens(value[0]):
            raise TokenInputUnsupported(
                "token ids are not accepted, send text; in LangChain, use"
                " OpenAIEmbeddings(check_embedding_ctx_length=False)",
                pointer=pointer,
            )
        self.at_most(len(value), "max_items", "texts in a request", pointer=pointer)
        return [
            self.text(text, pointer=f"{pointer}/{index}", blank=True)
            for index, text in enumerate(value)
        ]


@contextmanager
def pointing(pointer: str, *, single: bool) -> Iterator[None]:
    """Let an error about text n of a call point at text n of the request, or at its only text."""
    try:
        yield
    except InvalidInput as error:
        if error.pointer.startswith("/inputs/"):
            rest = "" if single else error.pointer.removeprefix("/inputs")
            raise type(error)(error.detail, pointer=pointer + rest) from error
        raise


def over(count: int, limit: int, name: str, what: str) -> str:
    """The sentence that every passed limit says."""
    return f"{what}: {count} exceeds the limit of {limit} (ISOGLOSS_{name.upper()})"


def sound(raw: bytes, value: Any) -> None:
    """Raise `InvalidInput` if a string in the JSON value holds NUL or half of a surrogate pair.

    Raw JSON cannot hold either unless it is escaped, so only texts with such an escape are walked.
    """
    if not any(escape in raw for escape in _ESCAPES):
        return
    for pointer, text in _strings(value):
        if "\0" in text:
            raise InvalidInput("the text holds the character NUL", pointer=pointer)
        if not _encodable(text):
            raise InvalidInput("the text holds half of a surrogate pair", pointer=pointer)


def identifier(value: str, *, pointer: str, what: str = "id") -> str:
    """A document's id: any text of 1 to 512 characters without control characters."""
    if not 0 < len(value) <= ID_CHARACTERS:
        raise InvalidInput(
            f"{what}: {len(value)} characters; 1 to {ID_CHARACTERS} are allowed", pointer=pointer
        )
    if any(character < " " or character == "\x7f" for character in value):
        raise InvalidInput(f"{what}: control characters are not allowed", pointer=pointer)
    return value


def collection_name(value: str, *, pointer: str) -> str:
    """The name of a collection: letters, digits, `.`, `_` and `-`, at most 64."""
    if not _COLLECTION.fullmatch(value):
        raise InvalidInput(
            f"{shown(value)} is no name for a collection: 1 to 64 letters, digits, '.', '_', '-',"
            " a letter or a digit first",
            pointer=pointer,
        )
    return value


def shown(value: Any) -> str:
    """A value as an error may show it: short, and printable whatever it holds."""
    if isinstance(value, str):
        value = value[: SHOWN_CHARACTERS + 1]
    elif isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def step(pointer: str, key: str | int) -> str:
    """A JSON pointer, one level deeper."""
    return f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}"


def _tokens(first: Any) -> bool:
    if isinstance(first, Sequence) and not isinstance(first, str) and first:
        first = first[0]
    return isinstance(first, int) and not isinstance(first, bool)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _strings(value: Any) -> Iterator[tuple[str, str]]:
    """Every string with its pointer, keys included. With a stack, so that depth is no danger."""
    todo: list[tuple[str, Any]] = [("", value)]
    while todo:
        pointer, part = todo.pop()
        if isinstance(part, str):
            yield pointer, part
        elif isinstance(part, list):
            todo += [(f"{pointer}/{index}", item) for index, item in enumerate(part)]
        elif isinstance(part, dict):
            yield from ((pointer, key) for key in part)
            todo += [(step(pointer, key), item) for key, item in part.items()]
