"""SQuAD, XQuAD and MLQA JSON: questions inside the paragraphs that answer them.

The same question id in several files is one group in several languages, so these files are joined
in memory; they are small (MLQA: 46 files, 100 MB).
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from training.config.data import Squad
from training.groups import Group, Texts
from training.readers.files import File, opened, strings
from training.readers.ledger import DataInvalid, Ledger

CONTEXT_QUESTION = re.compile(r"context-(?P<passage>[a-z-]+?)-question-(?P<query>[a-z-]+?)\.json")
"""MLQA's names say both languages."""
LAST_PART = re.compile(r"\.(?P<language>[a-z]{2,3}(-[A-Za-z]+)?)\.json")
"""XQuAD's names end in one."""


def read(files: Sequence[File], settings: Squad, ledger: Ledger) -> Iterator[Group]:
    """A group a question id; of two wordings in one language the first stays.

    Raises:
        DataInvalid: a file is not of this format.
    """
    joined: dict[str, Group] = {}
    for file in files:
        query, passage = _languages(file, settings.language)
        if not (ledger.wants(query) and ledger.wants(passage)):
            continue
        for group in ledger.kept(
            _questions(file, settings, ledger, query=query, passage=passage),
            at_most=settings.rows_per_file,
        ):
            known = joined.setdefault(group.id, group)
            if known is not group:
                joined[group.id] = _merged(known, group)
    yield from joined.values()


def _questions(
    file: File, settings: Squad, ledger: Ledger, *, query: str, passage: str
) -> Iterator[Group]:
    with opened(file) as raw:
        try:
            whole: Any = orjson.loads(raw.read())
        except orjson.JSONDecodeError as error:
            raise DataInvalid(f"{file.path}:{error.lineno}: not JSON: {error.msg}") from error
    for number, paragraph in enumerate(_paragraphs(whole, file), start=1):
        for question in paragraph.get("qas", []):
            ledger.read += 1
            row = {**question, "context": paragraph.get("context")}
            match strings(row, "id", "question", "context"):
                case [name, text, context]:
                    texts: Texts = {"query": {query: text}, "passage": {passage: context}}
                    yield Group(name, texts, settings.source or file.stem)
                case why:
                    ledger.bad(f"{file.name}: paragraph {number}", str(why))


def _paragraphs(whole: Any, file: File) -> list[dict[str, Any]]:
    try:
        return [paragraph for article in whole["data"] for paragraph in article["paragraphs"]]
    except (KeyError, TypeError) as error:
        raise DataInvalid(
            f"{file.path}: not SQuAD's format, data[].paragraphs[].qas[]: {error!r}"
        ) from error


def _languages(file: File, default: str) -> tuple[str, str]:
    name = file.path.name.removesuffix(".gz")
    if both := CONTEXT_QUESTION.search(name):
        return both["query"], both["passage"]
    if one := LAST_PART.search(name):
        return one["language"], one["language"]
    return default, default


def _merged(one: Group, other: Group) -> Group:
    texts = {role: {**other.texts[role], **one.texts[role]} for role in one.texts}
    return Group(one.id, texts, one.source)
