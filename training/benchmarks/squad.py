"""The official JSON files of XQuAD (`xquad.LANG.json`) and of LAReQA's XQuAD-R and MLQA-R (`LANG.json`).

XQuAD's candidates are whole paragraphs. Those of XQuAD-R and MLQA-R are the sentences that the
release marks in them, and the relevant one is where the answer starts; sentences that occur twice
stay two candidates. With all files of the release this gives the published counts of candidates
(en 1180, de 1276 … in XQuAD-R; en 6264, de 2362 … in MLQA-R).
"""

import json
from pathlib import Path
from typing import Any

from training.benchmarks.files import (
    BenchmarkInvalid,
    BenchmarkMissing,
    by_language,
    chosen,
)
from training.benchmarks.retrieval import Judgements, Retrieval, Texts
from training.benchmarks.tasks import KINDS
from training.config.evaluation import Benchmark

BEFORE = {"xquad": "xquad.", "xquad_r": "", "mlqa_r": ""}


def is_here(benchmark: Benchmark, folder: Path) -> bool:
    """Whether the folder holds the official files."""
    place, before = folder / benchmark.place, BEFORE.get(benchmark.name)
    return before is not None and next(place.glob(f"{before}*.json"), None) is not None


def read(benchmark: Benchmark, folder: Path) -> Retrieval:
    """Read the files; `folder` is the evaluation folder.

    Raises:
        BenchmarkMissing, BenchmarkInvalid: as `files` says.
    """
    found = by_language(folder / benchmark.place, BEFORE[benchmark.name], ".json")
    queries, candidates, relevant = {}, {}, {}
    for language, path in chosen(found, benchmark.languages).items():
        queries[language], candidates[language], relevant[language] = _language(benchmark, path)
    tasks, measures = KINDS[benchmark.name]
    return Retrieval(benchmark.label, queries, candidates, relevant, tasks, measures)


def _language(benchmark: Benchmark, path: Path) -> tuple[Texts, Texts, Judgements]:
    asked: dict[str, str] = {}
    documents: list[tuple[str, str, str]] = []
    relevant: dict[str, dict[str, int]] = {}
    for number, paragraph in enumerate(_paragraphs(path)):
        passage = f"p{number:05}"
        context: str = paragraph["context"]
        if benchmark.name == "xquad":
            documents.append((passage, context, passage))
        else:
            sentences = _sentences(path, passage, paragraph)
            tail = f" {context}" if benchmark.unit == "sentence_in_passage" else ""
            documents += [(f"{passage}-{n:03}", f"{s}{tail}", passage) for n, s in sentences]
        for question in paragraph["qas"]:
            identity, start = str(question["id"]), question["answers"][0]["answer_start"]
            asked[identity] = question["question"]
            if benchmark.name == "xquad":
                relevant[identity] = {passage: 1}
            else:
                place = _holding(path, identity, paragraph["sentence_breaks"], start)
                relevant[identity] = {f"{passage}-{place:03}": 1}
    ids, texts, passages = zip(*documents, strict=True) if documents else ((), (), ())
    if not asked:
        raise BenchmarkInvalid(f"{path}: holds no question")
    return Texts(tuple(asked), tuple(asked.values())), Texts(ids, texts, passages), relevant


def _paragraphs(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text("utf-8"))
        return [paragraph for article in content["data"] for paragraph in article["paragraphs"]]
    except OSError as error:
        raise BenchmarkMissing(f"{path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkInvalid(f"{path}: no SQuAD file: {error!r}") from error


def _sentences(path: Path, passage: str, paragraph: dict[str, Any]) -> list[tuple[int, str]]:
    try:
        spans, context = paragraph["sentence_breaks"], paragraph["context"]
    except KeyError as error:
        raise BenchmarkInvalid(
            f"{path}: paragraph {passage} has no {error}: sentences are marked in LAReQA's release"
            " only"
        ) from error
    return [(number, context[start:end]) for number, (start, end) in enumerate(spans)]


def _holding(path: Path, identity: str, spans: list[list[int]], start: int) -> int:
    for number, (first, end) in enumerate(spans):
        if first <= start < end:
            return number
    raise BenchmarkInvalid(
        f"{path}: the answer of question {identity} starts at {start}, in no sentence"
    )
