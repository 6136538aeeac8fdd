"""One data set of a recipe as a stream of groups, whatever its format."""

from collections.abc import Iterator
from pathlib import Path

from training.config.data import (
    Beir,
    Cloze,
    DataSet,
    Hub,
    Joined,
    JsonLines,
    Moses,
    Questions,
    Squad,
    Tmx,
    Triples,
    Tsv,
)
from training.groups import Group
from training.readers import beir, groups, hub, moses, questions, squad, tmx, triples, tsv
from training.readers.files import File, find
from training.readers.ledger import DataInvalid, Ledger


def read_set(name: str, settings: DataSet, folder: Path, ledger: Ledger) -> Iterator[Group]:
    """Stream the groups of a set, without those of excluded sources.

    Raises:
        DataInvalid: no such file, one that cannot be read, or one that is not what the recipe says.
    """
    key = f"data.sets.{name}"
    match settings:
        case Triples():
            files = find(folder, settings.path, key=f"{key}.path")
            passages = find(folder, settings.passages, key=f"{key}.passages")
            yield from triples.read(files, passages, settings, ledger)
        case Squad():
            files = find(folder, settings.path, key=f"{key}.path")
            yield from squad.read(files, settings, ledger)
        case Beir():
            yield from beir.read(folder, settings, ledger, key=key)
        case Hub():
            found = hub.read(folder, settings, ledger, key=key)
            yield from ledger.kept(found, at_most=settings.rows)
        case Joined() | Cloze():
            raise TypeError(f"{key} is made of another set; training.data.derived makes it")
        case Moses():
            for left, right in _moses_pairs(folder, settings, f"{key}.path"):
                found = moses.read(left, right, settings, ledger)
                yield from ledger.kept(found, at_most=settings.rows_per_file)
        case Tsv() | Tmx() | JsonLines() | Questions():
            for file in find(folder, settings.path, key=f"{key}.path"):
                found = _one(file, settings, ledger, key=key)
                yield from ledger.kept(found, at_most=settings.rows_per_file)


def _moses_pairs(folder: Path, settings: Moses, key: str) -> list[tuple[File, File]]:
    left, right = (
        find(folder, f"{settings.path}.{language}", key=key) for language in settings.languages
    )
    if [file.star for file in left] != [file.star for file in right]:
        names = (", ".join(file.name for file in files) for files in (left, right))
        raise DataInvalid(f"{key}: {' and '.join(names)} are no pairs of files")
    return list(zip(left, right, strict=True))


def _one(
    file: File, settings: Tsv | Tmx | JsonLines | Questions, ledger: Ledger, *, key: str
) -> Iterator[Group]:
    match settings:
        case Tsv():
            if settings.columns or file.star is None or ledger.wants(file.star):
                yield from tsv.read(file, settings, ledger, key=key)
        case Tmx():
            yield from tmx.read(file, settings, ledger)
        case JsonLines():
            yield from groups.read(file, settings, ledger)
        case Questions():
            yield from questions.read(file, settings, ledger)
