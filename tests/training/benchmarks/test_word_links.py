import numpy as np
import pytest

from tests.training.benchmarks.benchmark_files import benchmark, cells_by_name, spelt, write
from training.benchmarks import read, word_links
from training.benchmarks.files import BenchmarkInvalid
from training.metrics import error_rate


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "alignment"
    write(place / "en-de.en", ["x11 x21 x12", "x31 x13"])
    write(place / "en-de.de", ["y11 y12 y21", "y13 y31 y22"])
    write(place / "en-de.gold", ["0-0 1-2 2-1", "0-1 1-0 1?2"])
    return tmp_path


def by_digits(texts, _role="query"):
    """x21 and y21 are one direction: the last two characters."""
    return spelt([f"{text[1]} {text[2]}" for text in texts], "query")


class Shown:
    def __call__(self, texts, role):
        raise AssertionError("words are not asked for with a prompt")

    def alone(self, texts):
        return by_digits(texts)

    def static(self, texts):
        return spelt([f"{len(texts) - n} {n}" for n, _ in enumerate(texts)], "query")

    def contextual(self, sentences):
        for sentence in sentences:
            vectors = by_digits(sentence)
            vectors[-1] = 0  # beyond the limit
            yield vectors


def test_words_that_are_each_others_nearest_are_linked():
    left = spelt(["1 0", "0 1", "1 1"], "query")
    right = spelt(["0 2", "3 0"], "query")
    assert word_links.mutual_links(left, right) == ((0, 1), (1, 0))


def test_of_equal_words_the_first_are_linked_and_unseen_ones_not_at_all():
    same = spelt(["1 0", "1 0"], "query")
    assert word_links.mutual_links(same, same) == ((0, 0),)
    unseen = np.zeros((1, 4), dtype=np.float32)
    assert word_links.mutual_links(unseen, same) == ()
    assert word_links.mutual_links(-same, unseen) == ()


def test_an_encoder_that_knows_the_words_makes_no_error(folder):
    cells = cells_by_name(read(benchmark("alignment"), folder), by_digits)
    (cell,) = cells.values()
    assert cell.name == "alignment/alone/en-de"
    assert cell.count == 2
    assert cell.metrics == {"f1": 100.0, "precision": 100.0, "recall": 100.0, "error_rate": 0.0}


def test_all_kinds_of_vectors_are_measured_where_they_are_shown(folder):
    cells = cells_by_name(read(benchmark("alignment"), folder), Shown())
    assert {cell.task for cell in cells.values()} == {"alone", "static", "contextual"}
    assert cells["alignment/alone/en-de"].metrics["f1"] == 100.0
    # Without each sentence's last word 0-0 and, in the second one, 0-1 are left.
    found = cells["alignment/contextual/en-de"].metrics
    assert found["precision"] == 100.0
    assert found["recall"] == pytest.approx(100 * 2 / 5)
    assert found["error_rate"] == pytest.approx(100 * (1 - 4 / 7), abs=1e-3)
    assert found["f1"] == pytest.approx(100 * 2 * 0.4 / 1.4, abs=1e-3)


def test_possible_links_are_no_errors_and_need_not_be_found(folder):
    (linked,) = read(benchmark("alignment"), folder).pairs.values()
    assert linked.sure[1] == ((0, 1), (1, 0))
    assert linked.possible[1] == ((0, 1), (1, 0), (1, 2))
    write(folder / "alignment" / "en-de.gold", ["0-0 1-2 2-1", "0-1 1-0 1p2"])
    assert read(benchmark("alignment"), folder).pairs["de"] == linked
    assert error_rate([linked.possible[1]], [linked.sure[1]], [linked.possible[1]]) == 0.0


def test_texts_are_the_sentences(folder):
    found = list(read(benchmark("alignment"), folder).texts())
    assert ("en", "x11 x21 x12") in found
    assert ("de", "y13 y31 y22") in found
    assert len(found) == 4


def test_nothing_found_has_scores_of_zero(folder):
    write(folder / "alignment" / "en-de.gold", ["0-1", "0-0"])
    (cell,) = cells_by_name(read(benchmark("alignment"), folder), by_digits).values()
    assert cell.metrics == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "error_rate": 100.0}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["0-0"], "1 lines of links for 2 English and 2"),
        (["0-0", "0:1"], "line 2: '0:1' is no link"),
        (["0-0", "2-0"], "line 2: '2-0' is no link i-j or i[?]j between 2 and 3 words"),
        (["0-3", "0-0"], "line 1: '0-3' is no link"),
    ],
)
def test_gold_that_does_not_fit_its_sentences_is_refused(lines, message, folder):
    write(folder / "alignment" / "en-de.gold", lines)
    with pytest.raises(BenchmarkInvalid, match=message):
        read(benchmark("alignment"), folder)
