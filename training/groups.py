"""The group: one meaning in several languages and roles, the record that all training data becomes."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, get_args

from service.types import Role
from training.config.batches import TextRole

Links: TypeAlias = tuple[tuple[int, int], ...]
"""Word links between two texts, as pairs of word numbers from 0 (Pharaoh's `i-j`)."""
Texts: TypeAlias = Mapping[TextRole, Mapping[str, str]]
ROLES: tuple[TextRole, ...] = get_args(TextRole)
PROMPTED: dict[TextRole, Role] = {"query": "query", "passage": "passage", "sentence": "query"}
"""Whose prompt a text has. Two sentences are alike in role, and E5's advice for such pairs is the
query's prompt on both."""
_KEYS = frozenset({"id", "texts", "source", "negatives", "links", "taught"})


class GroupInvalid(ValueError):
    """A JSON object that is no group; the message says why."""


@dataclass(frozen=True, slots=True)
class Group:
    """Parallel texts by role and language, and what is known of them.

    Texts of one role are translations of each other; a passage answers the query of its group.
    """

    id: str
    texts: Texts
    source: str
    negatives: tuple[str, ...] = ()
    """Ids of groups of the same set whose passages are hard negatives (and, for CLEAR, whose
    queries are: slot k of both belongs together)."""
    links: Mapping[tuple[str, str], Links] = field(default_factory=dict)
    """Between the sentences of two languages; words are split at whitespace."""
    taught: Mapping[TextRole, tuple[str, ...]] = field(default_factory=dict)
    """English texts whose mean teacher vector is the target of a role; its own English if empty."""

    def as_json(self) -> dict[str, Any]:
        """An object for a line of JSON; what is empty is left out, links are as Pharaoh's."""
        whole: dict[str, Any] = {
            "id": self.id,
            "texts": {role: dict(texts) for role, texts in self.texts.items()},
            "source": self.source,
            "negatives": list(self.negatives),
            "links": {f"{a}-{b}": pharaoh(links) for (a, b), links in self.links.items()},
            "taught": {role: list(texts) for role, texts in self.taught.items()},
        }
        return {key: value for key, value in whole.items() if value}

    @classmethod
    def from_json(cls, row: object, *, source: str = "") -> "Group":
        """Read what `as_json` wrote; `source` is for an object that names none.

        Raises:
            GroupInvalid: an unknown key, no text, or a link to a word that is not there.
        """
        if not isinstance(row, dict):
            raise GroupInvalid("not an object")
        if unknown := row.keys() - _KEYS:
            raise GroupInvalid(f"unknown keys {', '.join(sorted(map(str, unknown)))}")
        texts = _texts(row.get("texts"))
        taught = _by_role(row.get("taught", {}), "taught")
        return cls(
            id=_string(row.get("id"), "id"),
            texts=texts,
            source=_string(row.get("source", source), "source"),
            negatives=_strings(row.get("negatives", []), "negatives"),
            links=_links(row.get("links", {}), texts.get("sentence", {})),
            taught={role: _strings(value, f"taught.{role}") for role, value in taught.items()},
        )


def normalised(text: str) -> str:
    """What two texts must share to count as the same one: all but case, width and spacing."""
    if text.isascii():  # the same result, in a third of the time
        return " ".join(text.lower().split())
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def pharaoh(links: Links) -> str:
    """Links as `i-j` words, the format of fast_align and Moses."""
    return " ".join(f"{i}-{j}" for i, j in links)


def from_pharaoh(line: str) -> Links:
    """Read `i-j` words.

    Raises:
        ValueError: a word is not `i-j`.
    """
    links = []
    for word in line.split():
        i, dash, j = word.partition("-")
        if not (dash and i.isdecimal() and j.isdecimal()):
            raise ValueError(f"{word!r} is no link i-j")
        links.append((int(i), int(j)))
    return tuple(links)


def _texts(value: object) -> dict[TextRole, dict[str, str]]:
    texts: dict[TextRole, dict[str, str]] = {}
    for role, by_language in _by_role(value, "texts").items():
        if not isinstance(by_language, dict) or not by_language:
            raise GroupInvalid(f"texts.{role} is not an object of language and text")
        texts[role] = {
            language: _string(text, f"texts.{role}.{language}")
            for language, text in by_language.items()
        }
    if not texts:
        raise GroupInvalid("no texts")
    return texts


def _by_role(value: object, name: str) -> dict[TextRole, object]:
    if not isinstance(value, dict):
        raise GroupInvalid(f"{name} is not an object")
    if unknown := value.keys() - set(ROLES):
        raise GroupInvalid(
            f"{name} has the roles {', '.join(sorted(unknown))}; known: {', '.join(ROLES)}"
        )
    return {role: value[role] for role in ROLES if role in value}


def _links(value: object, sentences: Mapping[str, str]) -> dict[tuple[str, str], Links]:
    if not isinstance(value, dict):
        raise GroupInvalid("links is not an object")
    known = {f"{one}-{other}": (one, other) for one in sentences for other in sentences}
    links = {}
    for name, line in value.items():
        if name not in known:
            raise GroupInvalid(f"links.{name}: there are no such two sentences")
        try:
            links[known[name]] = read = from_pharaoh(_string(line, f"links.{name}"))
        except ValueError as error:
            raise GroupInvalid(f"links.{name}: {error}") from error
        ends = [len(sentences[language].split()) for language in known[name]]
        if outside := [link for link in read if link[0] >= ends[0] or link[1] >= ends[1]]:
            raise GroupInvalid(
                f"links.{name}: {pharaoh(tuple(outside[:1]))} is beyond the"
                f" {ends[0]} and {ends[1]} words"
            )
    return links


def _string(value: object, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise GroupInvalid(f"no text under {name}")
    return value


def _strings(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise GroupInvalid(f"{name} is not a list")
    return tuple(_string(item, name) for item in value)
