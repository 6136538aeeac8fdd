"""Parallel text in tab-separated columns under a header line."""

from collections.abc import Iterator

from training.config.batches import ENGLISH
from training.config.data import Tsv
from training.groups import Group
from training.readers.files import File, lines
from training.readers.ledger import DataInvalid, Ledger


def read(file: File, settings: Tsv, ledger: Ledger, *, key: str) -> Iterator[Group]:
    """A group a row, with the sentences of its columns.

    Raises:
        DataInvalid: a column that the recipe names is not in the header.
    """
    rows = lines(file)
    _, head = next(rows, (0, ""))
    header = head.split("\t")
    columns = _columns(file, settings, header, key=key)
    source_at = header.index("source") if "source" in header else None
    for number, line in rows:
        ledger.read += 1
        place = f"{file.name}:{number}"
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) != len(header):
            ledger.bad(place, f"{len(cells)} columns instead of {len(header)}")
            continue
        texts = {language: cells[at] for at, language in columns if cells[at]}
        if len(texts) < min(len(columns), 2):
            ledger.bad(place, "an empty side")
            continue
        named = cells[source_at] if source_at is not None else ""
        yield Group(place, {"sentence": texts}, named or settings.source or file.stem)


def _columns(file: File, settings: Tsv, header: list[str], *, key: str) -> list[tuple[int, str]]:
    languages = settings.columns
    if not languages:
        if file.star is None:
            raise DataInvalid(
                f"{key}.columns: say which column holds which language, or let a * in the path"
                " stand for the foreign one"
            )
        languages = {"english": ENGLISH, "foreign": file.star}
    if missing := [column for column in languages if column not in header]:
        raise DataInvalid(
            f"{file.path}: no column {', '.join(missing)} among {', '.join(header)} ({key}.columns)"
        )
    return [(header.index(column), language) for column, language in languages.items()]
