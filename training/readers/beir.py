"""BEIR folders: queries, a corpus and relevance judgements, in one language or in parallel ones."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from training.config.data import Beir
from training.groups import Group
from training.readers.files import File, find, lines, objects, passage, strings
from training.readers.ledger import DataInvalid, Ledger

LANGUAGE = re.compile(r"\.(?P<language>[a-z]{2,3}(-[A-Za-z]+)?)\.(jsonl|tsv)")
ByLanguage: TypeAlias = dict[str, str]
COLUMNS = 3


def read(folder: Path, settings: Beir, ledger: Ledger, *, key: str) -> Iterator[Group]:
    """A group for a query and a relevant passage, in all their languages.

    Judgements of 0 or less are hard negatives; passages of no such group are groups of their own.
    Ids are the same in every language. `qrels.de.tsv` judges the passages of `corpus.de` alone.

    Raises:
        DataInvalid: one of the three parts is missing.
    """
    queries = _texts(_part(folder, settings, "queries*.jsonl", key), settings, ledger)
    corpus = _texts(_part(folder, settings, "corpus*.jsonl", key), settings, ledger)
    judged = _judgements(_qrels(folder, settings, key), queries, corpus, ledger)
    source = settings.source or Path(settings.path).name
    homes: dict[str, str] = {}
    """The first group of each passage, for those that name it as a negative."""
    groups: list[tuple[str, str, ByLanguage, list[str]]] = []
    for query, passages in judged.items():
        negatives = [name for name, (score, _) in passages.items() if score <= 0]
        for number, (names, texts) in enumerate(_slots(passages, corpus)):
            home = f"{query}#{number}" if number else query
            if settings.rows_per_file is not None and len(groups) >= settings.rows_per_file:
                break
            groups.append((home, query, texts, negatives))
            for name in names:
                homes.setdefault(name, home)
    for home, query, texts, negatives in groups:
        # A passage that stands alone gets an id that no query has.
        named = tuple(homes.get(name, f"passage:{name}") for name in negatives)
        yield Group(home, {"query": queries[query], "passage": texts}, source, negatives=named)
    for name, texts in corpus.items():
        if name not in homes:
            yield Group(f"passage:{name}", {"passage": texts}, source)


def _slots(
    passages: dict[str, tuple[float, frozenset[str]]], corpus: dict[str, ByLanguage]
) -> list[tuple[list[str], ByLanguage]]:
    """Relevant passages, packed so that a language has one in each slot."""
    slots: list[tuple[list[str], ByLanguage]] = []
    for name, (score, languages) in passages.items():
        if score <= 0:
            continue
        texts = {
            language: text
            for language, text in corpus[name].items()
            if not languages or language in languages
        }
        for names, taken in slots:
            if not taken.keys() & texts.keys():
                names.append(name)
                taken.update(texts)
                break
        else:
            slots.append(([name], texts))
    return slots


def _part(folder: Path, settings: Beir, pattern: str, key: str) -> list[File]:
    return find(folder, f"{settings.path}/{pattern}", key=f"{key}.path")


def _qrels(folder: Path, settings: Beir, key: str) -> list[File]:
    try:
        return _part(folder, settings, f"qrels/{settings.split}.tsv", key)
    except DataInvalid:
        return _part(folder, settings, "qrels*.tsv", key)


def _texts(files: list[File], settings: Beir, ledger: Ledger) -> dict[str, ByLanguage]:
    found: dict[str, ByLanguage] = defaultdict(dict)
    for file in files:
        named = LANGUAGE.search(file.path.name)
        for place, row in objects(file, ledger):
            match strings(row, "_id", "text"):
                case [name, text]:
                    said = row.get("lang") or (named["language"] if named else settings.language)
                    if ledger.wants(str(said)):
                        found[name].setdefault(str(said), passage(row, text))
                case why:
                    ledger.bad(place, str(why))
    return dict(found)


def _judgements(
    files: list[File],
    queries: dict[str, ByLanguage],
    corpus: dict[str, ByLanguage],
    ledger: Ledger,
) -> dict[str, dict[str, tuple[float, frozenset[str]]]]:
    """By query and passage, the score and the languages that it holds for (empty: all)."""
    judged: dict[str, dict[str, tuple[float, frozenset[str]]]] = defaultdict(dict)
    for file in files:
        named = LANGUAGE.search(file.path.name)
        languages = frozenset({named["language"]}) if named else frozenset[str]()
        for number, line in lines(file):
            cells = line.split("\t")
            if number == 1 and cells[-1] == "score":
                continue
            ledger.read += 1
            place = f"{file.name}:{number}"
            try:
                query, name, score = cells[0], cells[1], float(cells[COLUMNS - 1])
            except (IndexError, ValueError):
                ledger.bad(place, "not query-id, corpus-id and score")
                continue
            if query not in queries or name not in corpus:
                ledger.left_out["judgement without its query or passage"] += 1
                continue
            _, known = judged[query].get(name, (score, languages))
            judged[query][name] = score, (known | languages if known and languages else frozenset())
    return judged
