"""Training text: reads a data folder into one table of distinct texts and rows that point into it.

A row has a left and a right side and, for each, the English text whose teacher vector it should
reproduce. The sources:

- `bitext`: English sentence | its translation;
- `pivot`: two translations of one English sentence (both languages foreign);
- `question`: question in any language | the English passage that answers it;
- `english`: an English text alone;
- `joined`: several sentences of one language and source in a row | the same in the other language,
  because the parallel text is short and passages are long;
- `cloze`: one sentence | the joined text that holds its translation.
"""

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.config import Data, Recipe, SourceName
from training.reader import Reader

Ids: TypeAlias = NDArray[np.int64]
ENGLISH = "en"
NOTHING = -1
HELD_OUT_PER_LANGUAGE = 256
UNSPACED = frozenset({"ja", "zh"})


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one source, as parallel arrays; `right` is NOTHING where there is no right side.

    `left` and `right` are positions in `Corpus.texts`; the targets are positions in
    `Corpus.taught` followed by `Corpus.mixtures`; `language` is a position in `Corpus.languages`.
    """

    left: Ids
    right: Ids
    left_target: Ids
    right_target: Ids
    language: Ids

    def __len__(self) -> int:
        return len(self.left)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A pair that training never sees."""

    language: str
    english: str
    foreign: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """Everything that a run trains on."""

    texts: Sequence[str]
    text_language: Ids
    groups: Ids
    """Texts that differ only in case, width or spacing have the same group."""
    taught: Ids
    """The English texts that the teacher must encode, as positions in `texts`."""
    mixtures: Sequence[Sequence[int]]
    """Targets beyond `taught`, each the mean of some of its vectors: those of joined texts, whose
    own vectors would cost more than all the others together."""
    languages: Sequence[str]
    rows: dict[SourceName, Rows]
    held_out: Sequence[HeldOut]
    reader: Reader
    """What was read: sources with licences and hashes, malformed rows."""


def normalised(text: str) -> str:
    """What two texts must share to count as the same one."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


class _Table:
    """Distinct texts while they are being collected."""

    def __init__(self, languages: Sequence[str]) -> None:
        self.texts: list[str] = []
        self.language: list[int] = []
        self.groups: list[int] = []
        self.codes = {code: number for number, code in enumerate(languages)}
        self._ids: dict[str, int] = {}
        self._groups: dict[str, int] = {}
        self._targets: dict[int, int] = {}
        self.mixtures: list[list[int]] = []
        self._rows: dict[SourceName, list[tuple[int, int, int, int, int]]] = defaultdict(list)

    def text(self, text: str, language: str) -> int:
        known = self._ids.get(text)
        if known is not None:
            return known
        number = self._ids[text] = len(self.texts)
        self.texts.append(text)
        self.language.append(self.codes[language])
        self.groups.append(self._groups.setdefault(normalised(text), len(self._groups)))
        return number

    def row(
        self, source: SourceName, sides: tuple[int, int], english: tuple[int, int], language: str
    ) -> None:
        """Add a row: its two texts, and the English of each (a text, NOTHING, or a mixture)."""
        left, right = (self._target(text) for text in english)
        self._rows[source].append((*sides, left, right, self.codes[language]))

    def mixture(self, texts: Sequence[int]) -> int:
        """The target that is the mean of some English texts' vectors, to be given to `row`."""
        self.mixtures.append([self._target(text) for text in texts])
        return NOTHING - len(self.mixtures)

    def rows(self) -> dict[SourceName, Rows]:
        tables = {
            source: np.array(rows, dtype=np.int64).T.copy() for source, rows in self._rows.items()
        }
        for table in tables.values():  # mixtures follow the texts, whose number is known now
            targets = table[2:4]
            mixed = targets < NOTHING
            targets[mixed] = len(self._targets) + NOTHING - 1 - targets[mixed]
        return {source: Rows(*table) for source, table in tables.items()}

    def _target(self, text: int) -> int:
        if text <= NOTHING:
            return text
        return self._targets.setdefault(text, len(self._targets))

    @property
    def taught(self) -> Ids:
        return np.array(list(self._targets), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class _Pair:
    english: int
    foreign: int
    language: str
    source: str


def read_corpus(folder: Path, recipe: Recipe) -> Corpus:
    """Read `parallel/` and, where it is there, `qa/` of a data folder.

    Raises:
        DataInvalid: a language is missing, a file cannot be read, too many rows are malformed.
    """
    options, reader = recipe.data, Reader(recipe.data)
    files = reader.parallel_files(folder / "parallel")
    table = _Table([ENGLISH, *files])
    held_out: list[HeldOut] = []
    pairs: list[_Pair] = []
    for language, path in files.items():
        aside: list[HeldOut] = []
        for english, foreign, source in reader.pairs(path):
            if _is_held_out(english, options.held_out_share):
                aside.append(HeldOut(language, english, foreign))
            else:
                reader.used(source, f"{english}\t{foreign}")
                sides = table.text(english, ENGLISH), table.text(foreign, language)
                pairs.append(_Pair(*sides, language, source))
        held_out += aside[:HELD_OUT_PER_LANGUAGE]
    for pair in pairs:
        table.row("bitext", (pair.english, pair.foreign), (pair.english,) * 2, pair.language)
    _add_pivots(table, pairs)
    _add_questions(table, folder / "qa", reader, options)
    _add_joined(table, pairs, options, np.random.default_rng([recipe.seed, 1]))
    reader.check()
    return Corpus(
        texts=table.texts,
        text_language=np.array(table.language, dtype=np.int64),
        groups=np.array(table.groups, dtype=np.int64),
        taught=table.taught,
        mixtures=table.mixtures,
        languages=list(table.codes),
        rows=table.rows(),
        held_out=held_out,
        reader=reader,
    )


def _is_held_out(english: str, share: float) -> bool:
    # By a hash of the English side, so that a sentence is held out in all languages or in none.
    digest = hashlib.blake2b(normalised(english).encode(), digest_size=4).digest()
    return int.from_bytes(digest) < share * 2**32


def _add_pivots(table: _Table, pairs: Sequence[_Pair]) -> None:
    translations: dict[int, list[_Pair]] = defaultdict(list)
    for pair in pairs:
        translations[pair.english].append(pair)
    for english, group in translations.items():
        for one, other in zip(group, [*group[1:], group[0]], strict=True):
            if one.language != other.language:
                table.row("pivot", (one.foreign, other.foreign), (english,) * 2, one.language)


def _add_questions(table: _Table, folder: Path, reader: Reader, options: Data) -> None:
    passages: dict[str, int] = {}
    path = folder / "passages.en.jsonl.gz"
    if path.is_file():
        for row in reader.objects(path, ("_id", "text", "source")):
            passage = _passage(row.get("title", ""), row["text"], options)
            reader.used(row["source"], passage)
            passages[row["_id"]] = number = table.text(passage, ENGLISH)
            table.row("english", (number, NOTHING), (number, NOTHING), ENGLISH)
    for path in sorted(folder.glob("triples.*.jsonl.gz")):
        if path.name.split(".")[1] in table.codes:
            _add_triples(table, path, reader, passages)
    path = folder / "clapnq.en.jsonl.gz"
    if path.is_file():
        for row in reader.objects(path, ("question", "passage")):
            reader.used("clapnq", f"{row['question']}\t{row['passage']}")
            passage = _passage(row.get("title", ""), row["passage"], options)
            sides = table.text(row["question"], ENGLISH), table.text(passage, ENGLISH)
            table.row("question", sides, sides, ENGLISH)


def _add_triples(table: _Table, path: Path, reader: Reader, passages: dict[str, int]) -> None:
    for row in reader.objects(path, ("question_en", "question", "passage_id", "lang")):
        passage = passages.get(row["passage_id"])
        if passage is not None:  # else it is of an excluded source
            english = table.text(row["question_en"], ENGLISH)
            foreign = table.text(row["question"], row["lang"])
            for question, language in ((foreign, row["lang"]), (english, ENGLISH)):
                table.row("question", (question, passage), (english, passage), language)


def _passage(title: str, text: str, options: Data) -> str:
    """A passage as the service embeds it: the title, a line end, the text."""
    return (f"{title}\n{text}" if title else text)[: options.max_characters]


def _add_joined(
    table: _Table, pairs: Sequence[_Pair], options: Data, rng: np.random.Generator
) -> None:
    buckets: dict[tuple[str, str], list[_Pair]] = defaultdict(list)
    for pair in pairs:
        buckets[pair.language, pair.source].append(pair)
    usable = [bucket for bucket in buckets.values() if len(bucket) >= options.joined_sentences]
    if not usable or not options.joined_rows:
        return
    weights = np.sqrt([len(bucket) for bucket in usable])
    drawn = rng.choice(len(usable), options.joined_rows, p=weights / weights.sum())
    for number in drawn:
        bucket = usable[number]
        count = int(rng.integers(2, options.joined_sentences + 1))
        chosen = [bucket[i] for i in rng.choice(len(bucket), count, replace=False)]
        language = chosen[0].language
        gap = "" if language in UNSPACED else " "
        english = " ".join(table.texts[pair.english] for pair in chosen)
        foreign = gap.join(table.texts[pair.foreign] for pair in chosen)
        long_en = table.text(english[: options.max_characters], ENGLISH)
        long_xx = table.text(foreign[: options.max_characters], language)
        whole = table.mixture([pair.english for pair in chosen])
        table.row("joined", (long_en, long_xx), (whole, whole), language)
        part = chosen[int(rng.integers(count))]
        sides = (part.foreign, long_en) if rng.random() < 0.5 else (part.english, long_xx)  # noqa: PLR2004
        table.row("cloze", sides, (part.english, whole), language)
