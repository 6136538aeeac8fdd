import math

import pytest

from tests.training.benchmarks.benchmark_files import (
    benchmark,
    cells_by_name,
    write_objects,
    write_table,
)
from training.benchmarks import beir
from training.benchmarks.files import BenchmarkInvalid, BenchmarkMissing

HEADER = ("query-id", "corpus-id", "score")


def write_set(folder, *, corpus, queries, qrels, packed=True):
    """Files by language; a text is its numbers, see `spelt`."""
    end = ".gz" if packed else ""
    for language, rows in corpus.items():
        write_objects(folder / f"corpus.{language}.jsonl{end}", rows)
    for language, rows in queries.items():
        write_objects(folder / f"queries.{language}.jsonl{end}", rows)
    for name, rows in qrels.items():
        write_table(folder / name, HEADER, *rows)


@pytest.fixture
def xquad(tmp_path):
    """Three paragraphs; the German q0 is nearest to the wrong one."""
    texts = {"p0": "1 0 0", "p1": "0 1 0", "p2": "0 0 1"}
    corpus = [{"_id": key, "title": "", "text": text} for key, text in texts.items()]
    queries = [{"_id": f"q{n}", "text": f"{texts[f'p{n}']}"} for n in range(3)]
    german = [{"_id": "q0", "text": "2 3 1"}, *queries[1:]]
    write_set(
        tmp_path / "xquad",
        corpus={"en": corpus, "de": corpus},
        queries={"en": queries, "de": german},
        qrels={"qrels.tsv": [(f"q{n}", f"p{n}", 1) for n in range(3)]},
    )
    return tmp_path


def test_xquad_is_measured_in_one_language_and_across_two(xquad):
    cells = cells_by_name(beir.read(benchmark("xquad"), xquad))
    assert list(cells) == [
        "xquad/mono/de-de", "xquad/cross/de-en", "xquad/cross/en-de", "xquad/mono/en-en",
    ]  # fmt: skip
    assert cells["xquad/mono/en-en"].metrics == {
        "ndcg@10": 100.0, "recall@1": 100.0, "recall@10": 100.0, "mrr": 100.0,
    }  # fmt: skip
    german = cells["xquad/cross/de-en"]
    assert german.metrics["ndcg@10"] == pytest.approx(100 * (2 + 1 / math.log2(3)) / 3, abs=1e-3)
    assert german.metrics["recall@1"] == pytest.approx(66.6667)
    assert german.metrics["mrr"] == pytest.approx(83.3333)
    assert german.values.tolist() == pytest.approx([100 / math.log2(3), 100, 100])
    assert german.clusters.tolist() == [0, 1, 2]


def test_questions_of_one_paragraph_are_one_cluster(xquad):
    write_table(
        xquad / "xquad" / "qrels.tsv", HEADER, ("q0", "p1", 1), ("q1", "p1", 1), ("q2", "p2", 1)
    )
    cell = cells_by_name(beir.read(benchmark("xquad"), xquad))["xquad/mono/en-en"]
    assert cell.clusters.tolist() == [0, 0, 1]


def test_only_the_languages_asked_for_and_english(xquad):
    write_objects(xquad / "xquad" / "queries.fr.jsonl", [{"_id": "q0", "text": "1"}])
    write_objects(xquad / "xquad" / "corpus.fr.jsonl", [{"_id": "p0", "text": "1"}])
    found = beir.read(benchmark("xquad", languages=["de"]), xquad)
    assert set(found.queries) == set(found.candidates) == {"de", "en"}


@pytest.fixture
def xquad_r(tmp_path):
    """One answer sentence a language to each of two questions, and a distractor."""

    def sentences(first, second, other):
        rows = [("s0", "p0", first), ("s1", "p0", second), ("s2", "p1", other)]
        return [{"_id": i, "passage_id": p, "text": text} for i, p, text in rows]

    queries = [{"_id": "q0", "text": "1 0 0"}, {"_id": "q1", "text": "0 1 0"}]
    write_set(
        tmp_path / "xquad_r",
        corpus={
            "en": sentences("10 1 0", "1 10 0", "9 2 0"),
            "de": sentences("8 3 0", "0 9 1", "0 0 1"),
        },
        queries={"en": queries, "de": queries},
        qrels={
            "qrels.en.tsv": [("q0", "s0", 1), ("q1", "s1", 1)],
            "qrels.de.tsv": [("q0", "s0", 1), ("q1", "s1", 1), ("q1", "s2", 0)],
        },
        packed=False,
    )
    return tmp_path


def test_the_pool_holds_the_answers_of_all_languages_and_gives_the_rank_distance(xquad_r):
    cells = cells_by_name(beir.read(benchmark("xquad_r"), xquad_r))
    pool = cells["xquad_r/pool/en-*"]
    # q0: en s0, en s2, de s0, … so ranks 1 and 3. q1: de s1, en s1, so 1 and 2.
    assert pool.metrics["rank_distance"] == pytest.approx((2 + 1) / 2)
    assert pool.metrics["map"] == pytest.approx(100 * (5 / 6 + 1) / 2, abs=1e-3)
    assert pool.metrics["recall@1"] == 50.0
    assert pool.metrics["recall@10"] == 100.0
    assert pool.clusters.tolist() == [0, 0]
    assert next(iter(pool.metrics)) == "map"


def test_one_language_has_no_rank_distance(xquad_r):
    cells = cells_by_name(beir.read(benchmark("xquad_r"), xquad_r))
    assert "rank_distance" not in cells["xquad_r/mono/en-en"].metrics
    assert cells["xquad_r/mono/en-en"].metrics["map"] == 100.0


def test_a_line_of_score_0_is_no_answer(xquad_r):
    found = beir.read(benchmark("xquad_r"), xquad_r)
    assert found.relevant["de"]["q1"] == {"s1": 1}


def test_a_sentence_may_be_embedded_with_its_passage(xquad_r):
    found = beir.read(benchmark("xquad_r", unit="sentence_in_passage"), xquad_r)
    assert found.candidates["en"].texts == (
        "10 1 0 10 1 0 1 10 0",
        "1 10 0 10 1 0 1 10 0",
        "9 2 0 9 2 0",
    )
    write_objects(xquad_r / "xquad_r" / "corpus.de.jsonl", [{"_id": "s0", "text": "1"}])
    with pytest.raises(BenchmarkInvalid, match="passage_id"):
        beir.read(benchmark("xquad_r", unit="sentence_in_passage"), xquad_r)


def test_everything_that_is_embedded_is_told_for_the_leak_check(xquad_r):
    found = list(beir.read(benchmark("xquad_r"), xquad_r).texts())
    assert len(found) == 2 * 2 + 2 * 3
    assert ("de", "0 9 1") in found
    assert ("en", "1 0 0") in found


def test_a_title_goes_before_its_text(tmp_path):
    write_set(
        tmp_path / "tldr",
        corpus={"en": [{"_id": "p", "title": "tar", "text": "1 2"}]},
        queries={"de": [{"_id": "q", "text": "1 2"}]},
        qrels={"qrels.tsv": [("q", "p", 1)]},
    )
    found = beir.read(benchmark("beir", path="tldr"), tmp_path)
    assert found.candidates["en"].texts == ("tar 1 2",)
    cells = cells_by_name(found)
    assert list(cells) == ["tldr/cross/de-en"]
    assert cells["tldr/cross/de-en"].metrics["recall@100"] == 100.0


@pytest.fixture
def miracl(tmp_path):
    for language, split in (("de", "dev"), ("sw", "dev")):
        folder = tmp_path / "miracl" / language
        write_objects(
            folder / "corpus.jsonl.gz", [{"_id": "a", "text": "1"}, {"_id": "b", "text": "0 1"}]
        )
        write_objects(
            folder / "queries.jsonl.gz",
            [
                {"_id": "1", "text": "1 1"},
                {"_id": "2", "text": "0 1"},
                {"_id": "of-train", "text": "1"},
            ],
        )
        write_table(
            folder / "qrels" / f"{split}.tsv", HEADER, ("1", "a", 2), ("1", "b", 1), ("2", "b", 1)
        )
    return tmp_path


def test_miracl_is_a_folder_a_language_and_never_crosses_languages(miracl):
    cells = cells_by_name(beir.read(benchmark("miracl"), miracl))
    assert list(cells) == ["miracl/mono/de-de", "miracl/mono/sw-sw"]
    cell = cells["miracl/mono/de-de"]
    assert cell.count == 2, "a query of another split must not count"
    # a and b score the same for query 1, so b, the later id, comes first: graded gain.
    graded = (1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3))
    assert cell.metrics["ndcg@10"] == pytest.approx(100 * (graded + 1) / 2, abs=1e-3)
    assert cell.metrics["recall@100"] == 100.0


def test_a_split_that_is_not_there_is_named(miracl):
    with pytest.raises(BenchmarkMissing, match=r"qrels/test\.tsv"):
        beir.read(benchmark("miracl", split="test"), miracl)


def test_a_split_means_nothing_where_qrels_are_not_by_split(tmp_path, xquad):
    (tmp_path / "xquad").rename(tmp_path / "other")
    with pytest.raises(BenchmarkInvalid, match="split = 'dev'"):
        beir.read(benchmark("beir", path="other", split="dev"), tmp_path)


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        (
            [("q0", "p0", 0), ("q1", "p1", 1), ("q2", "p2", 1)],
            "query 'q0' has no relevant candidate",
        ),
        ([("q0", "p9", 1), ("q1", "p1", 1), ("q2", "p2", 1)], "'p9', which is not in the corpus"),
        ([("q0", "p0", 1), ("q1", "p1", 1)], "1 queries in de are in no qrels.*'q2'"),
        ([("q0", "p0", "high")], "the score 'high' is no number"),
    ],
)
def test_files_that_contradict_each_other_are_refused(xquad, qrels, message):
    write_table(xquad / "xquad" / "qrels.tsv", HEADER, *qrels)
    with pytest.raises(BenchmarkInvalid, match=message):
        cells_by_name(beir.read(benchmark("xquad"), xquad))


def test_an_id_that_occurs_twice_is_refused(xquad):
    twice = [{"_id": "p0", "text": "1"}, {"_id": "p0", "text": "2"}]
    write_objects(xquad / "xquad" / "corpus.de.jsonl.gz", twice)
    with pytest.raises(BenchmarkInvalid, match="the id 'p0' occurs 2 times"):
        beir.read(benchmark("xquad"), xquad)


def test_an_empty_file_is_refused(xquad):
    write_objects(xquad / "xquad" / "queries.de.jsonl.gz", [])
    with pytest.raises(BenchmarkInvalid, match="empty"):
        beir.read(benchmark("xquad"), xquad)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(BenchmarkMissing, match=r"xquad: no such folder"):
        beir.read(benchmark("xquad"), tmp_path)


def test_a_question_that_a_language_does_not_answer_is_not_asked_there(tmp_path):
    write_set(
        tmp_path / "mlqa_r",
        corpus={
            "en": [{"_id": "a", "text": "1"}, {"_id": "b", "text": "0 1"}],
            "de": [{"_id": "a", "text": "1"}],
        },
        queries={"en": [{"_id": "q0", "text": "1"}, {"_id": "q1", "text": "0 1"}]},
        qrels={"qrels.en.tsv": [("q0", "a", 1), ("q1", "b", 1)], "qrels.de.tsv": [("q0", "a", 1)]},
    )
    cells = cells_by_name(beir.read(benchmark("mlqa_r"), tmp_path))
    assert {name: cell.count for name, cell in cells.items()} == {
        "mlqa_r/cross/en-de": 1,
        "mlqa_r/mono/en-en": 2,
        "mlqa_r/pool/en-*": 2,
    }


def test_two_languages_that_share_no_question_have_no_cell(tmp_path):
    write_set(
        tmp_path / "own",
        corpus={tag: [{"_id": f"{tag}-p", "text": "1"}] for tag in ("de", "en")},
        queries={tag: [{"_id": f"{tag}-q", "text": "1"}] for tag in ("de", "en")},
        qrels={f"qrels.{tag}.tsv": [(f"{tag}-q", f"{tag}-p", 1)] for tag in ("de", "en")},
    )
    cells = cells_by_name(beir.read(benchmark("beir", path="own"), tmp_path))
    assert list(cells) == ["own/mono/de-de", "own/mono/en-en"]
