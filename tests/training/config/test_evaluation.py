import pytest
from pydantic import ValidationError

from training.config.evaluation import Benchmark, Evaluation


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("xquad", {"unit": "sentence_in_passage"}, "xquad has no unit; only mlqa_r, xquad_r have"),
        ("tatoeba", {"pairs": "all"}, "tatoeba has no pairs"),
        ("ntrex", {"split": "dev"}, "ntrex has no split"),
        ("mkqa", {"training_rows": 3}, "mkqa has no training_rows; only paws_x, xnli have"),
        ("xquad", {"depth": 3}, "Extra inputs are not permitted"),
        ("squad", {}, "Input should be"),
    ],
)
def test_an_option_that_a_benchmark_does_not_have_is_refused(name, options, message):
    with pytest.raises(ValidationError, match=message):
        Benchmark.model_validate({"name": name, **options})


def test_a_set_is_named_by_its_folder_and_unit():
    assert Benchmark(name="xquad_r").label == "xquad_r"
    assert Benchmark(name="beir", path="tldr").label == "tldr"
    assert Benchmark(name="xquad_r", unit="sentence_in_passage").label == "xquad_r+passage"


def test_a_set_that_is_named_twice_is_refused():
    whole, bare = Benchmark(name="xquad_r", unit="sentence_in_passage"), Benchmark(name="xquad_r")
    assert Evaluation(benchmarks=(whole, bare)).benchmarks == (whole, bare)
    with pytest.raises(ValidationError, match="a set is named twice: xquad_r, xquad_r"):
        Evaluation(benchmarks=(bare, bare))
