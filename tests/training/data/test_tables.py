import numpy as np
import pytest

from tests.training.text_fixtures import recipe_of
from training.corpus import NOTHING
from training.data import read_corpus
from training.groups import Group
from training.readers import DataInvalid, write_groups

SETTINGS = {"format": "groups", "path": "g.jsonl"}


def corpus_of(folder, *groups, settings=SETTINGS, **options):
    write_groups(folder / "g.jsonl", groups)
    return read_corpus(folder, recipe_of({"g": settings}, **options))


def asked(name, passage=None, **more):
    texts = {"query": {"en": f"who is {name}?"}, "passage": {"en": passage or f"about {name}"}}
    return Group(name, texts, "s", **more)


def test_numbers_of_texts_and_languages_point_at_the_right_ones(tmp_path):
    corpus = corpus_of(
        tmp_path,
        Group("1", {"sentence": {"fr": "un", "en": "one"}}, "s"),
        Group("2", {"query": {"de": "wer"}, "passage": {"en": "one", "fr": "un"}}, "s"),
    )
    table = corpus.sets["g"]
    assert list(table.ids) == ["1", "2"]
    for role, dense in table.texts.items():
        assert dense.dtype == np.int32
        assert dense.shape == (2, 3)
        for group, language in zip(*np.nonzero(dense != NOTHING), strict=True):
            assert corpus.text_language[dense[group, language]] == language, role
    first, second = table.texts["sentence"][0], table.texts["passage"][1]
    assert np.array_equal(first, second)
    assert sorted(corpus.texts) == ["one", "un", "wer"]
    assert corpus.facts["sets"]["g"] == {
        "groups": 2,
        "texts": {
            "query": {"de": 1},
            "passage": {"en": 1, "fr": 1},
            "sentence": {"en": 1, "fr": 1},
        },
    }


def test_one_spelling_in_two_languages_is_two_texts_with_one_key(tmp_path):
    corpus = corpus_of(tmp_path, Group("1", {"sentence": {"en": "OK", "de": "OK"}}, "s"))
    assert list(corpus.texts) == ["OK", "OK"]
    assert corpus.keys[0] == corpus.keys[1]


def test_a_target_is_the_group_s_own_english_or_what_it_names(tmp_path):
    corpus = corpus_of(
        tmp_path,
        Group("1", {"sentence": {"en": "one", "de": "eins"}}, "s"),
        Group("2", {"sentence": {"fr": "un"}, "query": {"de": "wer"}}, "s"),
        Group("3", {"sentence": {"fr": "deux"}}, "s", taught={"sentence": ("two", "one")}),
        Group("4", {"query": {"en": "one"}, "passage": {"en": "one"}}, "s"),
    )
    table = corpus.sets["g"]
    targets = {role: column.tolist() for role, column in table.targets.items()}
    read = [[corpus.texts[text] for text in texts] for texts in corpus.targets]
    assert read[targets["sentence"][0]] == ["one"]
    assert read[targets["sentence"][2]] == ["two", "one"]
    assert targets["sentence"][1] == NOTHING
    assert targets["query"][1] == NOTHING
    assert targets["query"][3] == targets["sentence"][0]
    assert targets["query"][0] == NOTHING
    # A teacher may have another prompt for passages.
    assert targets["passage"][3] not in targets["query"]
    assert read[targets["passage"][3]] == ["one"]
    assert len(read) == 3


def test_negatives_become_numbers_of_groups(tmp_path):
    corpus = corpus_of(
        tmp_path,
        asked("a", negatives=("c", "b", "c")),
        asked("b"),
        asked("c", negatives=("a",)),
    )
    assert corpus.sets["g"].negatives.tolist() == [[2, 1], [NOTHING, NOTHING], [0, NOTHING]]


def test_a_negative_with_the_passage_of_the_positive_is_none(tmp_path):
    other = Group("b", {"query": {"en": "x"}, "passage": {"en": "ABOUT a"}}, "s")
    corpus = corpus_of(tmp_path, asked("a", negatives=("a", "b", "c")), other, asked("c"))
    assert corpus.sets["g"].negatives.tolist() == [[2], [NOTHING], [NOTHING]]
    assert corpus.facts["left_out"]["negatives with the passage of the positive"] == 2


def test_negatives_follow_merged_groups_and_forget_those_left_out(tmp_path):
    twin = Group("twin", {"query": {"en": "WHO is b?"}, "passage": {"en": "about b"}}, "s")
    long = asked("long", passage="y")
    corpus = corpus_of(
        tmp_path, asked("a", negatives=("twin", "long")), asked("b"), twin, long, min_characters=2
    )
    assert corpus.sets["g"].negatives.tolist() == [[1], [NOTHING]]
    assert corpus.facts["left_out"]["negatives that were left out themselves"] == 1


def test_a_negative_that_nobody_knows_is_a_malformed_row(tmp_path):
    groups = asked("a", negatives=("b", "?")), asked("b")
    corpus = corpus_of(tmp_path, *groups)
    assert corpus.sets["g"].negatives.tolist() == [[1], [NOTHING]]
    assert corpus.facts["rows"]["complaints"] == ["g: group 'a': no group '?' for its negatives"]
    with pytest.raises(DataInvalid, match=r"no group '\?' for its negatives"):
        corpus_of(tmp_path, *groups, max_bad_share=0.1)
    bounded = corpus_of(tmp_path, *groups, settings={**SETTINGS, "rows_per_file": 2})
    assert bounded.facts["rows"]["malformed"] == 0


def test_a_repeated_id_stays_unique_and_means_the_first(tmp_path):
    groups = asked("a"), Group("a", {"query": {"en": "other"}}, "s"), asked("b", negatives=("a",))
    table = corpus_of(tmp_path, *groups).sets["g"]
    assert list(table.ids) == ["a", "a~1", "b"]
    assert table.negatives[2].tolist() == [0]


def test_links_stay_with_the_very_texts_that_they_link(tmp_path):
    links = {("en", "de"): ((0, 1), (1, 0))}
    corpus = corpus_of(
        tmp_path,
        Group("1", {"sentence": {"en": "a b", "fr": "x"}}, "s"),
        Group("2", {"sentence": {"en": "a b", "de": "B A"}}, "s", links=links),
        Group("3", {"sentence": {"en": "c  d", "fr": "y"}}, "s"),
        Group("4", {"sentence": {"en": "c d", "de": "D C"}}, "s", links=links),
        languages=["de", "fr"],
    )
    assert dict(corpus.sets["g"].links) == {(0, "en", "de"): links["en", "de"]}
    fewer = corpus_of(
        tmp_path,
        Group("2", {"sentence": {"en": "a b", "de": "B A", "fr": "x"}}, "s", links=links),
        languages=["fr"],
    )
    assert not fewer.sets["g"].links


def test_groups_without_english_are_merged_with_none(tmp_path):
    sentence = Group("1", {"sentence": {"de": "eins", "fr": "un"}}, "s")
    corpus = corpus_of(tmp_path, sentence, Group("2", {"sentence": {"de": "eins"}}, "s"))
    assert len(corpus.sets["g"]) == 2
    assert corpus.languages == ["en", "de", "fr"]


def test_other_targets_keep_groups_apart(tmp_path):
    texts = {"sentence": {"en": "one"}}
    taught = {"sentence": ("uno",)}
    corpus = corpus_of(tmp_path, Group("1", texts, "s"), Group("2", texts, "s", taught=taught))
    assert len(corpus.sets["g"]) == 2
