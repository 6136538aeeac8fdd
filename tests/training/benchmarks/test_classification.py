import numpy as np
import pytest

from tests.training.benchmarks.benchmark_files import (
    benchmark,
    cells_by_name,
    spelt,
    write_table,
)
from training.benchmarks import classification
from training.benchmarks.classification import Examples, features
from training.benchmarks.files import BenchmarkInvalid, BenchmarkMissing

HEADER = ("id", "sentence1", "sentence2", "label")


def paws(seed, count, *, flip=0):
    """Label 1 where the two texts are the same direction; the first `flip` labels are wrong."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        one = rng.integers(1, 9, 3)
        same = number % 2
        other = one if same else one[::-1] + np.array([4, 0, 0])
        label = same if number >= flip else 1 - same
        yield number, " ".join(map(str, one)), " ".join(map(str, other)), label


@pytest.fixture
def paws_x(tmp_path):
    write_table(tmp_path / "paws_x" / "en" / "train.tsv", HEADER, *paws(0, 80))
    write_table(tmp_path / "paws_x" / "en" / "test_2k.tsv", HEADER, *paws(1, 20))
    write_table(tmp_path / "paws_x" / "de" / "test_2k.tsv", HEADER, *paws(2, 20, flip=5))
    return tmp_path


def test_the_features_are_both_vectors_their_distance_and_product():
    one = Examples(("0.6 0.8",), ("1 0",), ("x",))
    expected = [0.6, 0.8, 0, 0, 1, 0, 0, 0, 0.4, 0.8, 0, 0, 0.6, 0, 0, 0]
    assert features(one, spelt)[0].tolist() == pytest.approx(expected)


def test_a_head_trained_on_english_is_tested_in_every_language(paws_x):
    cells = cells_by_name(classification.read_paws_x(benchmark("paws_x"), paws_x))
    assert list(cells) == ["paws_x/zero_shot/de-de", "paws_x/zero_shot/en-en"]
    assert cells["paws_x/zero_shot/en-en"].metrics == {"accuracy": 100.0}
    german = cells["paws_x/zero_shot/de-de"]
    assert german.metrics == {"accuracy": 75.0}
    assert german.values.tolist() == [0.0] * 5 + [100.0] * 15


def test_the_head_is_the_same_every_time(paws_x):
    found = classification.read_paws_x(benchmark("paws_x"), paws_x)
    given = features(found.training, spelt)
    one, two = (classification.Head.fit(given, found.training.labels, ["0", "1"]) for _ in range(2))
    assert (one.layer.weight == two.layer.weight).all()
    assert one.layer.weight.abs().sum() > 0


def test_fewer_pairs_may_be_trained_on(paws_x):
    found = classification.read_paws_x(benchmark("paws_x", training_rows=10), paws_x)
    assert len(found.training.labels) == 10


def test_the_english_training_part_is_no_evaluated_text(paws_x):
    found = classification.read_paws_x(benchmark("paws_x", languages=["en"]), paws_x)
    assert len(list(found.texts())) == 40


@pytest.fixture
def xnli(tmp_path):
    rows = [
        ("en", "entailment", "1 0", "1 0"), ("en", "neutral", "1 0", "1 1"),
        ("en", "contradiction", "1 0", "0 1"), ("en", "-", "1 0", "0 1"),
        ("sw", "contradiction", "1 0", "0 1"),
    ]  # fmt: skip
    write_table(
        tmp_path / "xnli" / "xnli.test.tsv",
        ("language", "gold_label", "sentence1", "sentence2"),
        *rows,
    )
    training = [
        ("1 0", "1 0", "entailment"),
        ("1 0", "1 1", "neutral"),
        ("1 0", "0 1", "contradictory"),
    ]
    write_table(
        tmp_path / "xnli" / "multinli.train.en.tsv", ("premise", "hypo", "label"), *training * 3
    )
    return tmp_path


def test_xnli_is_read_as_it_is_published(xnli):
    cells = cells_by_name(classification.read_xnli(benchmark("xnli"), xnli))
    assert {name: cell.metrics["accuracy"] for name, cell in cells.items()} == {
        "xnli/zero_shot/en-en": 100.0,
        "xnli/zero_shot/sw-sw": 100.0,
    }
    english = cells["xnli/zero_shot/en-en"]
    assert english.count == 3, "a pair without a label is left out"
    assert english.clusters.tolist() == [0, 0, 0], "hypotheses of one premise belong together"


def test_a_language_that_is_not_there_is_named(xnli, paws_x):
    with pytest.raises(BenchmarkMissing, match="nothing in fr"):
        classification.read_xnli(benchmark("xnli", languages=["fr"]), xnli)
    with pytest.raises(BenchmarkMissing, match="fr"):
        classification.read_paws_x(benchmark("paws_x", languages=["fr"]), paws_x)
    with pytest.raises(BenchmarkMissing, match=r"holds no LANGUAGE/test_2k\.tsv"):
        classification.read_paws_x(benchmark("paws_x", path="xnli"), xnli)


def test_a_label_that_was_not_trained_is_refused(paws_x):
    write_table(paws_x / "paws_x" / "de" / "test_2k.tsv", HEADER, (1, "1", "1", "maybe"))
    with pytest.raises(BenchmarkInvalid, match="'maybe'"):
        cells_by_name(classification.read_paws_x(benchmark("paws_x"), paws_x))


def test_a_file_without_labelled_pairs_is_refused(paws_x):
    write_table(paws_x / "paws_x" / "en" / "train.tsv", HEADER, (1, "1", "1", "-"))
    with pytest.raises(BenchmarkInvalid, match="no labelled pair"):
        classification.read_paws_x(benchmark("paws_x"), paws_x)
