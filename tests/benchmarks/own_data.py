"""Questions and passages of somebody's own, for `docs/own-data.md`: news that the shipped encoder never saw.

    python -m tests.benchmarks.own_data --data FOLDER --out own

Of the rows of `lafand-ict` in Swahili (not for commercial use, and therefore left out of the
shipped encoder), 200 become `own/pairs.jsonl`. 300 others, whose passages lie apart from those, and
all their passages become the benchmark `own/eval/mine`.
"""

import argparse
import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LANGUAGE = "sw"
SOURCE = "lafand-ict"
TAUGHT, ASKED = 200, 300
GAP = 50
"""Passages between both: a window of an article may hold sentences of its neighbours."""


def main() -> None:
    options = parse_options()
    questions, passages = read(options.data / "qa")
    taught, asked = questions[:TAUGHT], questions[-ASKED:]
    bench = options.out / "eval" / "mine"
    bench.mkdir(parents=True, exist_ok=True)
    write(options.out / "pairs.jsonl", (group(row, passages) for row in taught))
    for language, key in ((LANGUAGE, "question"), ("en", "question_en")):
        rows = ({"_id": row["id"], "text": row[key]} for row in asked)
        write(bench / f"queries.{language}.jsonl", rows)
    found = [row["passage_id"] for row in questions[TAUGHT + GAP :]]
    write(bench / "corpus.en.jsonl", ({"_id": one, "text": passages[one]} for one in found))
    lines = [f"{row['id']}\t{row['passage_id']}\t1\n" for row in asked]
    (bench / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines), "utf-8")
    print(f"{len(taught)} pairs; {len(asked)} other questions to {len(found):,} passages")


def read(folder: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The questions in the order of their articles, one of a passage, and passages by id."""
    passages = {row["_id"]: row["text"] for row in lines_of(folder / "passages.en.jsonl.gz")}
    rows = lines_of(folder / f"triples.{LANGUAGE}.jsonl.gz")
    by_passage = {row["passage_id"]: row for row in rows if row["source"] == SOURCE}
    return sorted(
        by_passage.values(), key=lambda row: int(row["passage_id"].rpartition("-")[2])
    ), passages


def group(row: dict[str, Any], passages: dict[str, str]) -> dict[str, Any]:
    asked = {"en": row["question_en"], LANGUAGE: row["question"]}
    texts = {"query": asked, "passage": {"en": passages[row["passage_id"]]}}
    return {"id": row["id"], "texts": texts}


def lines_of(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def parse_options() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--out", type=Path, default=Path("own"))
    return options.parse_args()


if __name__ == "__main__":
    main()
