"""Questions beside their passages, all in one language, as lines of JSON."""

from collections.abc import Iterator

from training.config.data import Questions
from training.groups import Group
from training.readers.files import File, objects, passage, strings
from training.readers.ledger import Ledger


def read(file: File, settings: Questions, ledger: Ledger) -> Iterator[Group]:
    """A group a line: `question`, `passage`, and perhaps `title`, `id` and `source`."""
    for place, row in objects(file, ledger):
        match strings(row, "question", "passage"):
            case [question, text]:
                language = settings.language
                yield Group(
                    str(row.get("id") or place),
                    {"query": {language: question}, "passage": {language: passage(row, text)}},
                    str(row.get("source") or settings.source or file.stem),
                )
            case why:
                ledger.bad(place, str(why))
