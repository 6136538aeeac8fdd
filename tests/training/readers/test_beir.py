import pytest

from tests.training.text_fixtures import groups_of, write, write_rows
from training.readers import DataInvalid

SETTINGS = {"format": "beir", "path": "set"}
HEAD = "query-id\tcorpus-id\tscore"


@pytest.fixture
def folder(tmp_path):
    here = tmp_path / "set"
    write_rows(here / "queries.en.jsonl", {"_id": "q1", "text": "who"}, {"_id": "q2", "text": "no"})
    write_rows(here / "queries.de.jsonl.gz", {"_id": "q1", "text": "wer", "lang": "de"})
    english = [{"_id": f"d{i}", "title": f"t{i}", "text": f"text {i}"} for i in range(1, 5)]
    write_rows(here / "corpus.en.jsonl", *english)
    write_rows(here / "corpus.de.jsonl", {"_id": "d1", "text": "Text 1"})
    write(here / "qrels.tsv", HEAD, "q1\td1\t1", "q1\td2\t0", "q1\td3\t2", "q2\td3\t1")
    return tmp_path


def test_a_query_meets_each_relevant_passage_in_all_their_languages(folder):
    groups, _ = groups_of(folder, SETTINGS)
    by_id = {group.id: group for group in groups}
    query = {"query": {"de": "wer", "en": "who"}}
    assert by_id["q1"].texts == query | {"passage": {"de": "Text 1", "en": "t1\ntext 1"}}
    assert by_id["q1#1"].texts == query | {"passage": {"en": "t3\ntext 3"}}
    assert {group.source for group in groups} == {"set"}


def test_judged_irrelevant_passages_are_negatives_by_the_id_of_a_group(folder):
    write(folder / "set" / "qrels.tsv", "q1\td1\t1", "q1\td2\t0", "q1\td3\t-1", "q2\td3\t1")
    by_id = {group.id: group for group in groups_of(folder, SETTINGS)[0]}
    assert by_id["q1"].negatives == ("passage:d2", "q2")
    assert by_id["passage:d2"].texts == {"passage": {"en": "t2\ntext 2"}}


def test_passages_that_no_query_names_come_alone(folder):
    names = {group.id for group in groups_of(folder, SETTINGS)[0]}
    assert names == {"q1", "q1#1", "q2", "passage:d2", "passage:d4"}


def test_judgements_of_one_language_hold_for_its_corpus_alone(folder):
    (folder / "set" / "qrels.tsv").unlink()
    write_rows(folder / "set" / "corpus.de.jsonl", {"_id": "x1", "text": "Satz"})
    write(folder / "set" / "qrels.en.tsv", HEAD, "q1\td1\t1")
    write(folder / "set" / "qrels.de.tsv", HEAD, "q1\tx1\t1")
    by_id = {group.id: group for group in groups_of(folder, SETTINGS)[0]}
    assert by_id["q1"].texts["passage"] == {"de": "Satz", "en": "t1\ntext 1"}
    assert "q1#1" not in by_id


def test_a_split_has_a_folder_of_its_own(folder):
    write(folder / "set" / "qrels" / "train.tsv", HEAD, "q2\td4\t1")
    names = [group.id for group in groups_of(folder, SETTINGS)[0] if "query" in group.texts]
    assert names == ["q2"]


def test_bad_rows_are_counted_and_dangling_ones_left_out(folder):
    write(folder / "set" / "qrels.tsv", HEAD, "q1\td1\tyes", "q1", "q9\td1\t1", "q1\td1\t1")
    write_rows(folder / "set" / "queries.en.jsonl", {"_id": "q1"})
    _, ledger = groups_of(folder, SETTINGS)
    assert ledger.complaints == [
        "set/queries.en.jsonl:1: no text under text",
        "set/qrels.tsv:2: not query-id, corpus-id and score",
        "set/qrels.tsv:3: not query-id, corpus-id and score",
    ]
    assert ledger.left_out["judgement without its query or passage"] == 1


def test_a_bound_and_a_choice_of_languages_hold(folder):
    groups, _ = groups_of(folder, {**SETTINGS, "rows_per_file": 1}, languages=["fr"])
    queries = [group for group in groups if "query" in group.texts]
    assert [group.texts["query"] for group in queries] == [{"en": "who"}]


def test_a_missing_part_names_the_key(folder):
    for path in (folder / "set").glob("corpus*"):
        path.unlink()
    with pytest.raises(DataInvalid, match=r"data\.sets\.s\.path = 'set/corpus\*\.jsonl'"):
        groups_of(folder, SETTINGS)
