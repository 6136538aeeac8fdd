import pytest

from tests.training.benchmarks.benchmark_files import benchmark, cells_by_name, write_objects
from training.benchmarks import belebele
from training.benchmarks.files import BenchmarkInvalid


def rows(*, shift=""):
    for link, number, passage, question in [
        ("a", 1, "1 0", "1 0.1"), ("a", 2, "1 0", "0.1 1"), ("b", 1, "0 1", "0 1"),
    ]:  # fmt: skip
        yield {
            "link": link, "question_number": number, "flores_passage": passage + shift,
            "question": question, "dialect": "x",
        }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for code in ("eng_Latn", "deu_Latn", "fra_Latn"):
        write_objects(tmp_path / "belebele" / f"{code}.jsonl", rows())
    return tmp_path


def test_questions_of_one_passage_share_it(folder):
    cells = cells_by_name(belebele.read(benchmark("belebele"), folder))
    cell = cells["belebele/cross/de-en"]
    assert cell.count == 3
    assert cell.metrics["recall@1"] == pytest.approx(66.6667)
    assert cell.clusters.tolist() == [0, 0, 1]


def test_pairs_are_with_english_unless_all_are_asked_for(folder):
    english = cells_by_name(belebele.read(benchmark("belebele"), folder))
    every = cells_by_name(belebele.read(benchmark("belebele", pairs="all"), folder))
    assert len(english) == 3 + 4
    assert len(every) == 9
    assert set(every) - set(english) == {"belebele/cross/de-fr", "belebele/cross/fr-de"}


def test_a_question_that_occurs_twice_is_refused(folder):
    write_objects(folder / "belebele" / "deu_Latn.jsonl", [*rows(), *rows()])
    with pytest.raises(BenchmarkInvalid, match="a#1 occurs twice"):
        belebele.read(benchmark("belebele"), folder)


def test_an_empty_file_is_refused(folder):
    write_objects(folder / "belebele" / "deu_Latn.jsonl", [])
    with pytest.raises(BenchmarkInvalid, match="empty"):
        belebele.read(benchmark("belebele"), folder)
