import pytest

from tests.training.benchmarks.benchmark_files import spelt, write_objects, write_table
from training.benchmarks.files import BenchmarkMissing
from training.config.evaluation import Benchmark, Evaluation
from training.evaluation import evaluate


@pytest.fixture
def data(tmp_path):
    """Two sets that ask the same question."""
    for name in ("xquad", "xquad_r"):
        place = tmp_path / "eval" / name
        for language in ("en", "de"):
            write_objects(place / f"queries.{language}.jsonl", [{"_id": "q", "text": "1"}])
            write_objects(
                place / f"corpus.{language}.jsonl",
                [{"_id": "p", "text": "2"}, {"_id": "o", "text": "0 1"}],
            )
        write_table(place / "qrels.tsv", ("query-id", "corpus-id", "score"), ("q", "p", 1))
    return tmp_path


def options(*names, **changes):
    return Evaluation(
        benchmarks=tuple(Benchmark.model_validate({"name": name}) for name in names), **changes
    )


def test_every_benchmark_of_the_recipe_is_measured_in_turn(data):
    told = []
    found = evaluate(
        spelt,
        data,
        options("xquad", "xquad_r"),
        model="m",
        facts={"space": "s"},
        progress=told.append,
    )
    assert told == ["xquad", "xquad_r"]
    assert found.model == "m"
    assert found.summary()["xquad cross ndcg@10"] == 100.0
    assert found.summary()["xquad_r pool rank_distance"] == 1.0
    assert found.facts["space"] == "s"
    assert [one["name"] for one in found.facts["benchmarks"]] == ["xquad", "xquad_r"]
    assert set(found.facts["libraries"]) >= {"ir_measures"}


def test_a_question_of_two_benchmarks_is_embedded_once(data):
    asked = []

    def embed(texts, role):
        asked.append((role, tuple(texts)))
        return spelt(texts, role)

    evaluate(embed, data, options("xquad", "xquad_r"), model="m")
    assert asked == [("passage", ("2", "0 1")), ("query", ("1",)), ("passage", ("2", "0 1"))]


def test_no_benchmark_is_no_score(tmp_path):
    assert evaluate(spelt, tmp_path, Evaluation(), model="m").summary() == {}


def test_the_folder_of_the_benchmarks_is_the_recipes(data):
    (data / "eval").rename(data / "other")
    assert evaluate(spelt, data, options("xquad", folder="other"), model="m").cells
    with pytest.raises(BenchmarkMissing, match="eval/xquad: no such folder"):
        evaluate(spelt, data, options("xquad"), model="m")
