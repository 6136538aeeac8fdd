import numpy as np
import pytest

from tests.training.benchmarks.benchmark_files import benchmark, cells_by_name, spelt, write_table
from tests.training.benchmarks.benchmark_files import write as write_lines
from training import metrics
from training.benchmarks import read, words
from training.benchmarks.embedding import Memory
from training.benchmarks.files import BenchmarkInvalid, BenchmarkMissing

PAIRS = [
    ("cat 9 1", "Katze 9 1"),
    ("cat 9 1", "Kater 8 2"),
    ("dog 0 9", "Hund 1 9"),
    ("bird 0 0 9", "Vogel 0 1 9"),
    ("fish 0 0 1 9", "Fisch 0 0 0 9"),
    ("cow 5 5", "Kuh 2 9"),  # the tomcat is nearer
    ("owl 1 0 8", "Eule 2 0 8"),
]


@pytest.fixture
def folder(tmp_path):
    write_table(tmp_path / "bli" / "en-de.tsv", ("english", "foreign", "source"), *[(*pair, "m") for pair in PAIRS])  # fmt: skip
    return tmp_path


class Shown:
    """An encoder that shows its words: static ones are turned round, the others as they are spelt."""

    def __init__(self):
        self.sentences = []

    def __call__(self, texts, role):
        raise AssertionError("words are not asked for with a prompt")

    def alone(self, texts):
        return spelt(texts, "query")

    def static(self, texts):
        return spelt(texts, "query")[::-1].copy()

    def contextual(self, sentences):
        """The first letter decides: words of equal ones are equal; long words are not seen."""
        self.sentences += sentences
        for sentence in sentences:
            vectors = np.zeros((len(sentence), 26), dtype=np.float32)
            for row, word in enumerate(sentence):
                if len(word) < 9:
                    letter = word.strip("(").casefold()[0]
                    vectors[row, ord(letter) - ord("a")] = 1
            yield vectors


def test_a_word_is_found_if_one_of_its_translations_is(folder):
    cells = cells_by_name(read(benchmark("bli"), folder))
    assert list(cells) == ["bli/alone/en-de"]
    cell = cells["bli/alone/en-de"]
    assert cell.count == 6
    assert cell.metrics["p@1"] == pytest.approx(100 * 5 / 6, abs=1e-3)
    assert cell.metrics["p@5"] == 100.0
    assert cell.metrics["mrr"] == pytest.approx(100 * (5 + 1 / rank_of_the_cow()) / 6, abs=1e-3)
    assert next(iter(cell.metrics)) == "csls_p@1"
    assert cell.values is not None
    assert cell.values.mean() == pytest.approx(cell.metrics["csls_p@1"], abs=1e-3)


def rank_of_the_cow():
    cow = spelt(["5 5"], "query")[0]
    foreign = spelt([foreign for _, foreign in PAIRS], "query") @ cow
    return 1 + int((foreign > foreign[5]).sum())


def test_csls_is_twice_the_cosine_minus_both_neighbourhoods():
    left = spelt(["1 0", "0 1", "1 1"], "query")
    right = spelt(["1 0", "1 1"], "query")
    cosines, scores = words.csls(left, right)
    root = 2**-0.5
    expected = np.array([[1, root], [0, root], [root, 1]])
    np.testing.assert_allclose(cosines, expected, atol=1e-6)
    there, back = expected.mean(axis=1), expected.mean(axis=0)  # fewer than ten neighbours
    np.testing.assert_allclose(scores, 2 * expected - there[:, None] - back, atol=1e-6)


def test_csls_takes_a_hub_back():
    # The first foreign word is near to everything; each English word has its own beside it.
    left = spelt(["9 4 0 0", "9 0 4 0", "9 0 0 4"], "query")
    right = spelt(["9 1 1 1", "3 6 0 0", "3 0 6 0", "3 0 0 6"], "query")
    gold = [frozenset({1}), frozenset({2}), frozenset({3})]
    cosines, scores = words.csls(left, right)
    order = metrics.order_of(["a", "b", "c", "d"])
    assert (words.best_ranks(cosines, gold, order) == 2).all()
    assert (words.best_ranks(scores, gold, order) == 1).all()


def test_only_the_ten_nearest_make_the_neighbourhood():
    left = spelt(["1 0"], "query")
    right = spelt(["1 0", *[f"0 {number + 1}" for number in range(30)]], "query")
    _, scores = words.csls(left, right)
    assert scores[0, 0] == pytest.approx(2 - 1 / 10 - 1)


def test_equal_scores_go_to_the_later_word_and_the_best_translation_counts():
    scores = np.array([[0.5, 0.5, 0.9, 0.1]], dtype=np.float32)
    order = metrics.order_of(["a", "b", "c", "d"])

    def rank(*right):
        return words.best_ranks(scores, [frozenset(right)], order)[0]

    assert [rank(0), rank(1), rank(2), rank(3)] == [3, 2, 1, 4]
    assert rank(0, 1) == rank(1, 3) == 2
    assert rank(0, 3) == 3


def test_lexical_similarity_is_that_of_pairs_minus_that_of_random_ones():
    cosines = np.full((3, 4), 0.2, dtype=np.float32)
    gold = [frozenset({0, 1}), frozenset({2}), frozenset({3})]
    for row, right in enumerate(gold):
        cosines[row, sorted(right)] = 0.7
    assert words.lexical_similarity(cosines, gold) == pytest.approx(0.5)
    assert words.lexical_similarity(np.ones((3, 4), dtype=np.float32), gold) == 0.0


def test_fewer_wrong_pairs_than_right_ones_are_drawn_twice_and_none_are_refused():
    cosines = np.array([[0.9, 0.9], [0.1, 0.9]], dtype=np.float32)
    gold = [frozenset({0, 1}), frozenset({1})]
    assert words.lexical_similarity(cosines, gold) == pytest.approx(0.8)
    with pytest.raises(ValueError, match="no random pairs"):
        words.lexical_similarity(cosines, [frozenset({0, 1}), frozenset({0, 1})])


def test_random_pairs_are_the_same_each_time(folder):
    measured = read(benchmark("bli"), folder)
    one, two = (cells_by_name(measured)["bli/alone/en-de"].metrics for _ in range(2))
    assert one == two
    assert 0 < one["lexical_similarity"] < 100


def test_an_encoder_that_shows_its_words_is_measured_with_each_kind_of_vector(folder):
    for embed in (Shown(), Memory(Shown())):
        cells = cells_by_name(read(benchmark("bli"), folder), embed)
        assert list(cells) == ["bli/alone/en-de", "bli/static/en-de"]
    plain = cells_by_name(read(benchmark("bli"), folder))["bli/alone/en-de"]
    assert cells["bli/alone/en-de"].metrics == plain.metrics
    assert cells["bli/static/en-de"].metrics != plain.metrics


LETTERS = [("ape", "affe"), ("bee", "biene"), ("cat", "chat"), ("dog", "dhund"), ("Elk", "elch"),
           ("fox", "fuchs"), ("goose", "gans"), ("horse", "hengst")]  # fmt: skip


@pytest.fixture
def with_sentences(tmp_path):
    place = tmp_path / "bli"
    write_table(place / "en-de.tsv", ("english", "foreign"), *LETTERS)
    english = ["the (ape) saw a bee, a cat.", "dog elk fox goose", "unrelated"]
    write_lines(place / "sentences.en.txt", english)
    write_lines(place / "sentences.de.txt.gz", ["Affe Biene chat dhund", "Elch fuchs gans hengst"])
    return tmp_path


def test_sentences_give_contextual_vectors_of_the_words_that_occur(with_sentences):
    shown = Shown()
    measured = read(benchmark("bli", languages=["de"]), with_sentences)
    # Words of this fixture carry no numbers, so that only the contextual vectors are asked for.
    shown.alone = shown.static = lambda texts: spelt([f"{n} 1" for n, _ in enumerate(texts)], "")
    cells = cells_by_name(measured, shown)
    cell = cells["bli/contextual/en-de"]
    assert cell.count == 7  # no horse in English
    assert cell.metrics["p@1"] == cell.metrics["csls_p@1"] == 100.0
    assert cell.metrics["lexical_similarity"] == 100.0
    assert ["dog", "elk", "fox", "goose"] in shown.sentences
    found = list(measured.texts())
    assert ("de", "Elch fuchs gans hengst") in found
    assert ("en", "ape") in found
    assert ("de", "affe") in found


def test_too_few_words_in_the_sentences_give_no_contextual_scores(with_sentences):
    write_lines(with_sentences / "bli" / "sentences.en.txt", ["ape bee"])
    shown = Shown()
    shown.alone = shown.static = lambda texts: spelt([f"{n} 1" for n, _ in enumerate(texts)], "")
    cells = cells_by_name(read(benchmark("bli"), with_sentences), shown)
    assert "bli/contextual/en-de" not in cells


def test_languages_are_chosen_and_a_missing_one_is_named(folder):
    assert list(read(benchmark("bli", languages=["en", "de"]), folder).lexicons) == ["de"]
    with pytest.raises(BenchmarkMissing, match="no file for fr"):
        read(benchmark("bli", languages=["fr"]), folder)


def test_a_lexicon_of_a_few_words_is_refused(folder):
    write_table(folder / "bli" / "en-fr.tsv", ("english", "foreign"), ("cat", "chat"))
    with pytest.raises(BenchmarkInvalid, match=r"en-fr\.tsv: has only 1 pairs"):
        read(benchmark("bli"), folder)
