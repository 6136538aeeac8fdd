"""Belebele as retrieval: 900 questions, 488 passages a language, parallel over 122 languages.

The official files are `LANG.jsonl` (`eng_Latn.jsonl`); a passage is told by its `link`, a question
by its link and number, which are the same in every language.
"""

from pathlib import Path

from training.benchmarks.files import BenchmarkInvalid, by_language, chosen, objects
from training.benchmarks.retrieval import Judgements, Retrieval, Texts
from training.benchmarks.tasks import KINDS
from training.config.evaluation import Benchmark

KEYS = ("link", "question_number", "flores_passage", "question")


def read(benchmark: Benchmark, folder: Path) -> Retrieval:
    """Read the files; `folder` is the evaluation folder.

    Raises:
        BenchmarkMissing, BenchmarkInvalid: as `files` says.
    """
    found = by_language(folder / benchmark.place, "", ".jsonl")
    queries, candidates, relevant = {}, {}, {}
    for language, path in chosen(found, benchmark.languages).items():
        queries[language], candidates[language], relevant[language] = _language(path)
    tasks, measures = KINDS["belebele"]
    return Retrieval(
        benchmark.label,
        queries,
        candidates,
        relevant,
        tasks,
        measures,
        with_english=benchmark.pairs == "english",
    )


def _language(path: Path) -> tuple[Texts, Texts, Judgements]:
    passages: dict[str, str] = {}
    questions: dict[str, str] = {}
    relevant: dict[str, dict[str, int]] = {}
    for row in objects(path, *KEYS):
        identity = f"{row['link']}#{row['question_number']}"
        if identity in questions:
            raise BenchmarkInvalid(f"{path}: the question {identity} occurs twice")
        passages.setdefault(row["link"], row["flores_passage"])
        questions[identity] = row["question"]
        relevant[identity] = {row["link"]: 1}
    if not questions:
        raise BenchmarkInvalid(f"{path}: is empty")
    return (
        Texts(tuple(questions), tuple(questions.values())),
        Texts(tuple(passages), tuple(passages.values())),
        relevant,
    )
