import numpy as np
import pytest

from tests.training.benchmarks.benchmark_files import benchmark, spelt, write
from training.benchmarks import mining
from training.benchmarks.files import BenchmarkInvalid, BenchmarkMissing


def test_the_threshold_is_where_f1_is_best():
    scores = np.array([1.4, 1.3, 1.2, 1.1, 1.0], dtype=np.float32)
    found = [(0, 0), (1, 1), (9, 9), (2, 2), (8, 8)]
    gold = frozenset({(0, 0), (1, 1), (2, 2)})
    # F1 by length: 1/2, 4/5, 2/3, 6/7, 3/4.
    assert mining.best_threshold(scores, found, gold) == pytest.approx(1.1)


def test_pairs_of_equal_scores_are_kept_or_left_together():
    scores = np.array([1.4, 1.2, 1.2, 1.2], dtype=np.float32)
    found = [(0, 0), (1, 1), (8, 8), (9, 9)]
    assert mining.best_threshold(scores, found, frozenset({(0, 0), (1, 1)})) == pytest.approx(1.4)


def write_part(folder, split, *, german, english, gold):
    stem = folder / "bucc" / "de-en" / f"de-en.{split}"
    write(stem.with_name(f"{stem.name}.de"), [f"de-{n}\t{text}" for n, text in enumerate(german)])
    write(stem.with_name(f"{stem.name}.en"), [f"en-{n}\t{text}" for n, text in enumerate(english)])
    write(stem.with_name(f"{stem.name}.gold"), [f"de-{a}\ten-{b}" for a, b in gold])


@pytest.fixture
def bucc(tmp_path):
    """Two true pairs are near; the third German sentence has no partner."""
    texts = {"german": ["9 1 0", "0 9 1", "1 1 9"], "english": ["1 9 0", "9 0 1", "5 5 1 9"]}
    for split in ("training", "test"):
        write_part(tmp_path, split, **texts, gold=[(0, 1), (1, 0)])
    return tmp_path


def test_the_hidden_translations_are_mined(bucc):
    (cell,) = mining.read(benchmark("bucc"), bucc).cells(spelt)
    assert cell.name == "bucc/mining/de-en"
    assert cell.metrics == {"f1": 100.0, "precision": 100.0, "recall": 100.0}
    assert cell.count == 2
    assert cell.values is None


def test_each_sentence_is_in_one_pair_at_most_and_the_best_come_first(bucc):
    (_, measured) = mining.read(benchmark("bucc"), bucc).pairs["de"]
    scores, found = mining.mine(measured, spelt)
    assert (np.diff(scores) <= 0).all()
    assert len({row for row, _ in found}) == len({column for _, column in found}) == len(found)
    assert set(found[:2]) == {(0, 1), (1, 0)}


def test_the_threshold_is_not_tuned_on_what_is_measured(bucc):
    # In the training part only the best pair is a translation: so high is the threshold then.
    (tuning, _) = mining.read(benchmark("bucc"), bucc).pairs["de"]
    best = mining.mine(tuning, spelt)[1][0]
    write(bucc / "bucc" / "de-en" / "de-en.training.gold", [f"de-{best[0]}\ten-{best[1]}"])
    (cell,) = mining.read(benchmark("bucc"), bucc).cells(spelt)
    assert cell.metrics == {"f1": 66.6667, "precision": 100.0, "recall": 50.0}


def test_nothing_found_is_a_score_of_zero(bucc):
    write_part(bucc, "test", german=["1"], english=["1", "0 1"], gold=[(0, 1)])
    (cell,) = mining.read(benchmark("bucc"), bucc).cells(spelt)
    assert cell.metrics == {"f1": 0.0, "precision": 0.0, "recall": 0.0}


def test_texts_are_those_of_both_parts(bucc):
    found = list(mining.read(benchmark("bucc", languages=["de", "en"]), bucc).texts())
    assert len(found) == 12
    assert ("de", "0 9 1") in found


def test_what_is_not_there_is_named(bucc, tmp_path):
    with pytest.raises(BenchmarkMissing, match=r"de-en\.sample\.de"):
        mining.read(benchmark("bucc", split="sample"), bucc)
    with pytest.raises(BenchmarkMissing, match="no folder fr-en; there are de"):
        mining.read(benchmark("bucc", languages=["fr"]), bucc)
    with pytest.raises(BenchmarkMissing, match="no such folder"):
        mining.read(benchmark("bucc", path="none"), bucc)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BenchmarkMissing, match="holds no folder"):
        mining.read(benchmark("bucc", path="empty"), bucc)


def test_the_part_that_is_tuned_on_cannot_be_measured(bucc):
    with pytest.raises(BenchmarkInvalid, match="tuned on"):
        mining.read(benchmark("bucc", split="training"), bucc)


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("gold", ["de-0\ten-7"], "names a sentence that is not there"),
        ("gold", [], "empty"),
        ("de", ["no tab"], "not an id, a tab and a text"),
    ],
)
def test_files_that_contradict_each_other_are_refused(bucc, name, lines, message):
    write(bucc / "bucc" / "de-en" / f"de-en.test.{name}", lines)
    with pytest.raises(BenchmarkInvalid, match=message):
        mining.read(benchmark("bucc"), bucc)
