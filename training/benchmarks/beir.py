"""BEIR-like folders of several languages: XQuAD, XQuAD-R, MLQA-R, MIRACL, and any other of that form.

`queries.LANG.jsonl` (`_id`, `text`), `corpus.LANG.jsonl` (`_id`, `text`, perhaps `title` and
`passage_id`), and `qrels.tsv` for all languages or `qrels.LANG.tsv` for the corpus of one; or a
folder a language as BEIR has it: `LANG/queries.jsonl`, `LANG/corpus.jsonl`, `LANG/qrels/SPLIT.tsv`.
All files may be `.gz`. Lines of the qrels with a score of 0 are no positives.

XQuAD asks all 1,190 questions in every language, keyed by id, also those that share their text
with another one (mteb drops these in its monolingual task).
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from training.benchmarks.files import (
    ENGLISH,
    BenchmarkInvalid,
    BenchmarkMissing,
    by_language,
    chosen,
    iso,
    located,
    objects,
    rows,
)
from training.benchmarks.retrieval import Judgements, Retrieval, Texts
from training.benchmarks.tasks import KINDS
from training.config.evaluation import Benchmark

Unit = Literal["sentence", "sentence_in_passage"]
DEFAULT_SPLITS = {"miracl": "dev"}
"""The others have `test`."""


def read(benchmark: Benchmark, folder: Path) -> Retrieval:
    """Read the files of a benchmark of this form; `folder` is the evaluation folder.

    Raises:
        BenchmarkMissing, BenchmarkInvalid: as `files` says.
    """
    place = folder / benchmark.place
    nested = _nested(place)
    if nested:
        asked = {tag: path / "queries.jsonl" for tag, path in nested.items()}
        found = {tag: path / "corpus.jsonl" for tag, path in nested.items()}
    else:
        asked = by_language(place, "queries.", ".jsonl")
        found = by_language(place, "corpus.", ".jsonl")
    asked = chosen(asked, benchmark.languages)
    wanted = {ENGLISH, *(benchmark.languages or found)}
    available = {tag: path for tag, path in found.items() if tag in wanted}
    if benchmark.split is not None and not nested:
        raise BenchmarkInvalid(
            f"{place}: split = {benchmark.split!r}, but its qrels are not by split"
            " (LANG/qrels/SPLIT.tsv)"
        )
    split = benchmark.split or DEFAULT_SPLITS.get(benchmark.name, "test")
    candidates = {tag: _corpus(path, benchmark.unit) for tag, path in available.items()}
    relevant = {tag: _judgements(place, path, split, nested) for tag, path in available.items()}
    queries = {tag: _queries(path) for tag, path in asked.items()}
    _check_all_asked(benchmark.label, queries, relevant, skip=bool(nested))
    tasks, measures = KINDS[benchmark.name]
    return Retrieval(benchmark.label, queries, candidates, relevant, tasks, measures)


def is_here(place: Path) -> bool:
    """Whether a folder has this form."""
    flat = next(place.glob("queries.*.jsonl*"), None) is not None
    return flat or next(place.glob("*/queries.jsonl*"), None) is not None


def _nested(place: Path) -> dict[str, Path]:
    if not place.is_dir():
        raise BenchmarkMissing(
            f"{place}: no such folder; see evaluation.benchmarks of the recipe, --benchmarks"
            " and --data"
        )
    folders = (path for path in sorted(place.iterdir()) if path.is_dir())
    return {iso(path.name): path for path in folders if located(path / "queries.jsonl")}


def _queries(path: Path) -> Texts:
    records = list(objects(path, "_id", "text"))
    return _unique(path, tuple(r["_id"] for r in records), tuple(r["text"] for r in records))


def _corpus(path: Path, unit: Unit) -> Texts:
    records = list(objects(path, "_id", "text"))
    ids = tuple(record["_id"] for record in records)
    texts = [f"{record.get('title') or ''} {record['text']}".strip() for record in records]
    clusters: tuple[str, ...] = ()
    if records and all("passage_id" in record for record in records):
        clusters = tuple(record["passage_id"] for record in records)
    if unit == "sentence_in_passage":
        if not clusters:
            raise BenchmarkInvalid(f"{path}: unit sentence_in_passage needs passage_id everywhere")
        passages: dict[str, list[str]] = {}
        for cluster, text in zip(clusters, texts, strict=True):
            passages.setdefault(cluster, []).append(text)
        texts = [
            f"{text} {' '.join(passages[cluster])}"
            for cluster, text in zip(clusters, texts, strict=True)
        ]
    return _unique(path, ids, tuple(texts), clusters)


def _unique(
    path: Path, ids: tuple[str, ...], texts: tuple[str, ...], clusters: tuple[str, ...] = ()
) -> Texts:
    if not ids:
        raise BenchmarkInvalid(f"{path}: is empty")
    identity, count = Counter(ids).most_common(1)[0]
    if count > 1:
        raise BenchmarkInvalid(f"{path}: the id {identity!r} occurs {count} times")
    return Texts(ids, texts, clusters)


def _judgements(place: Path, corpus: Path, split: str, nested: Mapping[str, Path]) -> Judgements:
    if nested:
        path = corpus.parent / "qrels" / f"{split}.tsv"
    else:
        path = place / f"qrels.{corpus.name.removeprefix('corpus.').removesuffix('.jsonl')}.tsv"
        path = path if located(path) else place / "qrels.tsv"
    relevant: dict[str, dict[str, int]] = {}
    for row in rows(path, "query-id", "corpus-id", "score"):
        try:
            grade = int(row["score"])
        except ValueError as error:
            raise BenchmarkInvalid(f"{path}: the score {row['score']!r} is no number") from error
        judged = relevant.setdefault(row["query-id"], {})
        if grade > 0:
            judged[row["corpus-id"]] = grade
    return relevant


def _check_all_asked(
    name: str, queries: Mapping[str, Texts], relevant: Mapping[str, Judgements], *, skip: bool
) -> None:
    """A query that no qrels name would be left out in silence; BEIR's files hold other splits too."""
    named = {query for judgements in relevant.values() for query in judgements}
    for language, own in queries.items():
        if not skip and (unknown := [identity for identity in own.ids if identity not in named]):
            raise BenchmarkInvalid(
                f"{name}: {len(unknown)} queries in {language} are in no qrels, the first one is"
                f" {unknown[0]!r}"
            )
