"""Questions in two languages whose passage lies in another file, under `passage_id`."""

from collections.abc import Iterator, Sequence

from training.config.batches import ENGLISH
from training.config.data import Triples
from training.groups import Group
from training.readers.files import File, objects, passage, strings
from training.readers.ledger import Ledger


def read(
    files: Sequence[File], passages: Sequence[File], settings: Triples, ledger: Ledger
) -> Iterator[Group]:
    """A group a question, and one for each passage that no question asks for.

    All passages are in memory, since any question may ask for any.
    """
    known: dict[str, Group] = {}
    for file in passages:
        for group in ledger.kept(_passages(file, settings, ledger), at_most=None):
            known[group.id] = group
    asked: set[str] = set()
    for file in files:
        if file.star is None or ledger.wants(file.star):
            groups = _questions(file, known, asked, ledger)
            yield from ledger.kept(groups, at_most=settings.rows_per_file)
    yield from (group for name, group in known.items() if name not in asked)


def _passages(file: File, settings: Triples, ledger: Ledger) -> Iterator[Group]:
    for place, row in objects(file, ledger):
        match strings(row, "_id", "text"):
            case [name, text]:
                texts = {str(row.get("lang", ENGLISH)): passage(row, text)}
                source = str(row.get("source") or settings.source or file.stem)
                yield Group(name, {"passage": texts}, source)
            case why:
                ledger.bad(place, str(why))


def _questions(
    file: File, known: dict[str, Group], asked: set[str], ledger: Ledger
) -> Iterator[Group]:
    for place, row in objects(file, ledger):
        match strings(row, "question_en", "question", "passage_id", "lang"):
            case [english, foreign, wanted, language]:
                if wanted not in known:  # of an excluded source, or not there at all
                    ledger.left_out["passage_id without a passage"] += 1
                    continue
                asked.add(wanted)
                yield Group(
                    str(row.get("id") or place),
                    {"query": {ENGLISH: english, language: foreign}, **known[wanted].texts},
                    str(row.get("source") or known[wanted].source),
                )
            case why:
                ledger.bad(place, str(why))
