import pytest

from tests.training.benchmarks.benchmark_files import (
    benchmark,
    cells_by_name,
    write_objects,
    write_table,
)
from training import benchmarks
from training.benchmarks.files import BenchmarkMissing
from training.config.evaluation import Benchmark


@pytest.fixture
def folder(tmp_path):
    for name in ("xquad", "tldr"):
        write_objects(tmp_path / name / "queries.en.jsonl.gz", [{"_id": "q", "text": "1"}])
        write_objects(tmp_path / name / "corpus.en.jsonl.gz", [{"_id": "p", "text": "1 1"}])
        write_table(
            tmp_path / name / "qrels.tsv", ("query-id", "corpus-id", "score"), ("q", "p", 1)
        )
    write_table(tmp_path / "tatoeba" / "deu.tsv", ("english", "foreign"), ("1", "0 1"))
    (tmp_path / "notes").mkdir()
    (tmp_path / "README.md").write_text("x")
    return tmp_path


def test_everything_that_lies_in_a_folder_is_found(folder):
    found = benchmarks.lying_in(folder)
    assert [(one.name, one.place) for one in found] == [
        ("tatoeba", "tatoeba"), ("beir", "tldr"), ("xquad", "xquad"),
    ]  # fmt: skip
    for one in found:
        assert cells_by_name(benchmarks.read(one, folder))


def test_benchmarks_are_named_with_their_languages(folder):
    found = benchmarks.named("xquad, tatoeba:de+en,tldr:en", folder)
    assert [(one.name, one.place, one.languages) for one in found] == [
        ("xquad", "xquad", ()), ("tatoeba", "tatoeba", ("de", "en")), ("beir", "tldr", ("en",)),
    ]  # fmt: skip


@pytest.mark.parametrize("spec", ["none", "xquad,", "notes"])
def test_a_name_that_is_no_benchmark_is_refused(folder, spec):
    with pytest.raises(BenchmarkMissing, match="is none of xquad, "):
        benchmarks.named(spec, folder)


def test_a_folder_without_benchmarks_is_named(folder):
    with pytest.raises(BenchmarkMissing, match="holds no benchmark"):
        benchmarks.lying_in(folder / "notes")
    with pytest.raises(BenchmarkMissing, match="no such folder"):
        benchmarks.lying_in(folder / "none")


def test_the_texts_of_a_benchmark_are_told_with_their_languages(folder):
    assert list(benchmarks.texts(benchmark("tatoeba"), folder)) == [("de", "0 1"), ("en", "1")]
    assert list(benchmarks.texts(benchmark("xquad"), folder)) == [("en", "1"), ("en", "1 1")]


def test_a_benchmark_without_a_reader_is_an_error_that_names_the_others(folder):
    unknown = Benchmark.model_construct(name="other")
    with pytest.raises(BenchmarkMissing, match="other has no reader; there are xquad, "):
        benchmarks.read(unknown, folder)
