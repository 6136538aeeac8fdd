import json
import math

import numpy as np
import pytest

from tests.training.conftest import write_lines
from training.config import Evaluation
from training.evaluation import BenchmarkMissing, bitext_accuracy, bitext_ndcg, evaluate, ndcg

EYE = np.eye(4, dtype=np.float32)


def test_perfect_vectors_score_a_hundred():
    assert bitext_accuracy(EYE, EYE) == 100.0
    assert ndcg(EYE, EYE, np.arange(4)) == 100.0
    assert bitext_ndcg(EYE, EYE) == 100.0


def test_accuracy_is_the_mean_of_both_directions():
    left = np.array([[1, 0], [0.8, 0.6]], dtype=np.float32)
    right = np.array([[1, 0], [1, 0]], dtype=np.float32) * np.array([[1], [0.5]], dtype=np.float32)
    # Left to right: row 0 finds its own, row 1 finds row 0's. Right to left: both find row 0.
    assert bitext_accuracy(left, right) == 50.0
    assert bitext_ndcg(left, right) == pytest.approx(50 * (1 + 1 / math.log2(3)), abs=0.01)


def test_a_tie_counts_against_the_model():
    same = np.ones((4, 2), dtype=np.float32)
    assert bitext_accuracy(same, same) == 0.0
    assert ndcg(same, same, np.arange(4)) == pytest.approx(100 / math.log2(5), abs=0.01)


def test_the_gain_of_rank_two_is_the_one_of_the_definition():
    queries = np.array([[1, 0]], dtype=np.float32)
    corpus = np.array([[0.5, 0], [1, 0]], dtype=np.float32)
    assert ndcg(queries, corpus, np.array([0])) == pytest.approx(100 / math.log2(3), abs=0.01)


def test_below_rank_ten_nothing_is_gained():
    corpus = np.arange(12, dtype=np.float32)[:, None]
    queries = np.ones((1, 1), dtype=np.float32)
    assert ndcg(queries, corpus, np.array([2])) == pytest.approx(100 / math.log2(11), abs=0.01)
    assert ndcg(queries, corpus, np.array([1])) == 0.0


@pytest.fixture
def benchmarks(tmp_path):
    """Two languages in which everything is written alike, but for one question."""
    for language in ("en", "de"):
        corpus = [{"_id": f"p{i}", "text": f"t{i}"} for i in range(3)]
        asked = [{"_id": f"q{i}", "text": f"t{i}"} for i in range(3)]
        if language == "de":
            asked[0]["text"] = "t1"
        folder = tmp_path / "xquad"
        write_lines(folder / f"corpus.{language}.jsonl.gz", [json.dumps(row) for row in corpus])
        write_lines(folder / f"queries.{language}.jsonl.gz", [json.dumps(row) for row in asked])
    qrels = ["query-id\tcorpus-id\tscore", *(f"q{i}\tp{i}\t1" for i in range(3))]
    (tmp_path / "xquad" / "qrels.tsv").write_text("\n".join(qrels) + "\n", "utf-8")
    write_lines(
        tmp_path / "tatoeba" / "deu.tsv.gz", ["id\tenglish\tforeign", "1\tt0\tt0", '2\t"t1\tt1']
    )
    for code in ("eng", "deu"):
        write_lines(
            tmp_path / "ntrex" / f"{code}.tsv.gz", ["id\tdoc\ttext", "0\td\tt0", "1\td\tt2"]
        )
    return tmp_path


def embed(texts, _role):
    return np.eye(3, dtype=np.float32)[[int(text.strip('"')[1:]) for text in texts]]


def test_every_benchmark_of_the_recipe_is_measured(benchmarks):
    options = Evaluation(xquad=("en", "de"), tatoeba={"de": "deu"}, ntrex={"de": "deu"})
    scores = evaluate(embed, benchmarks, options)
    assert scores.bitext == {"ntrex": {"de": 100.0}, "tatoeba": {"de": 100.0}}
    assert scores.xquad["en"] == {"en": 100.0, "de": 100.0}
    wrong = 100 / 3 * (2 + 1 / math.log2(4))  # the wrong paragraph first, then a tie
    assert scores.xquad["de"]["en"] == pytest.approx(wrong, abs=0.01)
    assert scores.summary()["xquad_same"] == pytest.approx((100 + wrong) / 2, abs=0.01)
    assert scores.summary()["xquad_cross"] == pytest.approx((100 + wrong) / 2, abs=0.01)
    assert scores.as_json()["bitext"] == scores.bitext


def test_no_benchmark_is_no_score(tmp_path):
    assert evaluate(embed, tmp_path, Evaluation()).summary() == {}


def test_one_language_has_no_cross_lingual_score(benchmarks):
    summary = evaluate(embed, benchmarks, Evaluation(xquad=("en",))).summary()
    assert summary == {"xquad_same": 100.0}


def test_a_missing_benchmark_is_named(tmp_path):
    with pytest.raises(BenchmarkMissing, match=r"eng\.tsv\.gz"):
        evaluate(embed, tmp_path, Evaluation(ntrex={"de": "deu"}))
