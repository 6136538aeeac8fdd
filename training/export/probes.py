"""Texts that a bundle is checked on: held-out ones of a run, a user's own, or the few that come along."""

import csv
from collections.abc import Sequence
from pathlib import Path

from service.probes import Probes
from service.types import Role
from training.config.batches import ENGLISH
from training.corpus import HeldOut
from training.export.gate import texts_by_language
from training.export.graph import ExportFailed

BUILT_IN = Path(__file__).with_name("probes.tsv")
PROBES_PER_LANGUAGE = 4
COLUMNS = ["language", "text", "english"]


def read_pairs(path: Path = BUILT_IN) -> list[HeldOut]:
    """Rows of a tab-separated file `language, text, english`; the last may be empty or missing.

    Raises:
        ExportFailed: another header, or a row without a language or a text; names the line.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    if not rows or rows[0] not in (COLUMNS, COLUMNS[:2]):
        raise ExportFailed(f"{path}: its first line must be {' TAB '.join(COLUMNS)}")
    pairs = []
    for number, row in enumerate(rows[1:], start=2):
        if not 2 <= len(row) <= len(COLUMNS) or not row[0] or not row[1].strip():  # noqa: PLR2004
            raise ExportFailed(f"{path}:{number}: no language and text in {row}")
        pairs.append(HeldOut(row[0], row[2] if len(row) == len(COLUMNS) else "", row[1]))
    return pairs


def built_in(languages: Sequence[str]) -> list[HeldOut]:
    """The sentences that come along, in these languages; in all of them if none of these is there."""
    pairs = read_pairs(BUILT_IN)
    english = dict.fromkeys(pair.english for pair in pairs)
    chosen = [pair for pair in pairs if not languages or pair.language in languages]
    if ENGLISH in languages:
        chosen += [HeldOut(ENGLISH, "", text) for text in english]
    return chosen or pairs


def probes_of(pairs: Sequence[HeldOut]) -> Probes:
    """A few texts of each language, in turn as passage and as query, without vectors yet."""
    texts: list[str] = []
    languages: list[str] = []
    for language, own in texts_by_language(pairs).items():
        texts += own[:PROBES_PER_LANGUAGE]
        languages += [language] * len(own[:PROBES_PER_LANGUAGE])
    roles: list[Role] = ["query" if number % 2 else "passage" for number in range(len(texts))]
    return Probes(texts, roles, languages, {})
