import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.training.text_fixtures import recipe_of, write, write_rows
from training.corpus import NOTHING
from training.data import read_corpus
from training.groups import Group, normalised
from training.leaks import words
from training.readers import DataInvalid, write_groups

PAIRS = {"format": "tsv", "path": "parallel/en-*.tsv"}


def pairs(folder, language, *rows):
    lines = [f"{english}\t{foreign}\ts" for english, foreign in rows]
    write(folder / "parallel" / f"en-{language}.tsv", "english\tforeign\tsource", *lines)


def groups(folder, *texts, **more):
    """A set of groups 0, 1, …, with these texts by role."""
    rows = [Group(str(number), by_role, "s", **more) for number, by_role in enumerate(texts)]
    write_groups(folder / "g.jsonl.gz", rows)
    return {"g": {"format": "groups", "path": "g.jsonl.gz"}}


def read_back(corpus, name, role="sentence"):
    """The texts of a role of each group, by language."""
    return [
        {corpus.languages[i]: corpus.texts[text] for i, text in enumerate(row) if text != NOTHING}
        for row in corpus.sets[name].texts[role]
    ]


def test_translations_of_one_sentence_in_several_files_are_one_group(tmp_path):
    pairs(tmp_path, "de", ("The dog", "Der Hund"), ("cat", "Katze"), ("the  DOG", "Hund"))
    pairs(tmp_path, "fr", ("the dog", "le chien"), ("bird", "oiseau"))
    corpus = read_corpus(tmp_path, recipe_of({"p": PAIRS}))
    assert corpus.languages == ["en", "de", "fr"]
    assert read_back(corpus, "p") == [
        {"en": "The dog", "de": "Der Hund", "fr": "le chien"},
        {"en": "cat", "de": "Katze"},
        {"en": "the  DOG", "de": "Hund"},
        {"en": "bird", "fr": "oiseau"},
    ]
    english = corpus.sets["p"].texts["sentence"][:, 0]
    assert corpus.keys[english[0]] == corpus.keys[english[2]]
    assert len(set(corpus.keys[english].tolist())) == 3
    assert corpus.sets["p"].ids[0] == "parallel/en-de.tsv:2"


def test_the_same_pair_twice_is_counted_as_a_duplicate(tmp_path):
    pairs(tmp_path, "de", ("dog", "Hund"), ("Dog", "HUND"))
    corpus = read_corpus(tmp_path, recipe_of({"p": PAIRS}))
    assert read_back(corpus, "p") == [{"en": "dog", "de": "Hund"}]
    assert corpus.facts["left_out"] == {"duplicates": 1}


def test_a_sentence_is_held_out_in_every_language_or_in_none(tmp_path):
    for language in ("de", "fr"):
        pairs(tmp_path, language, *((f"text {i}", f"{language} {i}") for i in range(300)))
    corpus = read_corpus(tmp_path, recipe_of({"p": PAIRS}, held_out_share=0.2))
    aside = {
        language: {pair.english for pair in corpus.held_out if pair.language == language}
        for language in ("de", "fr")
    }
    assert aside["de"] == aside["fr"]
    assert 30 < len(aside["de"]) < 90
    assert len(corpus.sets["p"]) == 300 - len(aside["de"])
    assert not aside["de"] & set(corpus.texts)


def test_held_out_pairs_are_bounded_but_all_stay_out_of_training(tmp_path):
    pairs(tmp_path, "de", *((f"text {i}", f"Text Nummer {i}") for i in range(1400)))
    corpus = read_corpus(tmp_path, recipe_of({"p": PAIRS}, held_out_share=0.3))
    assert len(corpus.held_out) == 256
    assert len(corpus.sets["p"]) < 1400 - 256


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)
@given(
    st.lists(
        st.tuples(st.sampled_from(["dog", "Dog", "a cat", "bird!", "x 1", "y"]),
                  st.sampled_from(["Hund", "HUND", "Katze", "Vogel", "x 1"])), min_size=3, max_size=12
    )
)  # fmt: skip
def test_no_training_text_is_held_out_or_evaluated(tmp_path, rows):
    write(tmp_path / "eval" / "tatoeba" / "deu.tsv", "id\tenglish\tforeign", "1\tA cat?\tvogel")
    always = [(f"always {number}", f"immer {number}") for number in range(20)]
    pairs(tmp_path, "de", *rows, *always)
    evaluation = {"benchmarks": [{"name": "tatoeba"}]}
    recipe = recipe_of({"p": PAIRS}, evaluation=evaluation, held_out_share=0.4)
    corpus = read_corpus(tmp_path, recipe)
    trained = {normalised(text) for text in corpus.texts}
    aside = {normalised(t) for pair in corpus.held_out for t in (pair.english, pair.foreign)}
    assert not trained & aside
    assert not {"".join(words(text)) for text in corpus.texts} & {"acat", "vogel"}


def test_leaks_are_dropped_kept_or_refused(tmp_path):
    write(tmp_path / "eval" / "tatoeba" / "deu.tsv", "id\tenglish\tforeign", "1\tdog\tVogel")
    pairs(tmp_path, "de", ("Dog!", "Hund"), ("bird", "vogel"), ("cat", "Katze"))
    pairs(tmp_path, "fr", ("dog", "chien"), ("bird", "oiseau"), ("cat", "chat"))
    evaluation = {"benchmarks": [{"name": "tatoeba"}]}
    dropped = read_corpus(tmp_path, recipe_of({"p": PAIRS}, evaluation=evaluation))
    assert read_back(dropped, "p") == [
        {"en": "bird", "fr": "oiseau"},
        {"en": "cat", "de": "Katze", "fr": "chat"},
    ]
    counts = dropped.facts["leaks"]["counts"]
    assert {(c["benchmark"], c["language"], c["texts"]) for c in counts} == {
        ("tatoeba", "en", 2),
        ("tatoeba", "de", 1),
    }
    kept = read_corpus(tmp_path, recipe_of({"p": PAIRS}, evaluation=evaluation, leaks="keep"))
    assert len(kept.sets["p"]) == 4
    assert kept.facts["leaks"]["counts"] == counts
    with pytest.raises(
        DataInvalid, match=r"3 training texts .*tatoeba: 3.*data\.leaks is 'refuse'"
    ):
        read_corpus(tmp_path, recipe_of({"p": PAIRS}, evaluation=evaluation, leaks="refuse"))


def test_a_text_that_only_the_teacher_sees_leaks_too(tmp_path):
    write(tmp_path / "eval" / "tatoeba" / "deu.tsv", "id\tenglish\tforeign", "1\tdog\tVogel")
    taught = {"sentence": ("A Dog", "dog")}
    sets = groups(tmp_path, {"sentence": {"de": "Hund", "fr": "chien"}}, taught=taught)
    recipe = recipe_of(sets, evaluation={"benchmarks": [{"name": "tatoeba"}]})
    with pytest.raises(DataInvalid, match=r"data\.sets\.g: no group is left of 1"):
        read_corpus(tmp_path, recipe)


def test_lengths_and_languages_are_filtered_and_counted(tmp_path):
    texts = [
        {"sentence": {"en": "ok", "de": "gut", "fr": "bien"}},
        {"sentence": {"en": "x" * 30, "de": "y"}},
        {"query": {"en": "who", "de": "w" * 30}, "passage": {"en": "z" * 30}},
    ]
    recipe = recipe_of(
        groups(tmp_path, *texts), languages=["de"], min_characters=2, max_characters=20
    )
    corpus = read_corpus(tmp_path, recipe)
    assert corpus.languages == ["en", "de"]
    assert read_back(corpus, "g") == [{"en": "ok", "de": "gut"}, {}]
    assert read_back(corpus, "g", "query")[1] == {"en": "who"}
    assert read_back(corpus, "g", "passage")[1] == {"en": "z" * 20}
    assert corpus.facts["left_out"] == {
        "data.languages": 1,
        "data.max_characters": 2,
        "data.min_characters": 1,
        "groups of which nothing or one text was left": 1,
    }


def test_pairs_of_odd_lengths_are_dropped_by_their_language_s_own_measure(tmp_path):
    usual = [(f"{i:010}", f"{i:020}") for i in range(9)]
    pairs(tmp_path, "de", *usual, ("a" * 10, "b" * 10), ("c" * 10, "d" * 70))
    pairs(tmp_path, "fr", ("c" * 10, "e" * 12))
    corpus = read_corpus(tmp_path, recipe_of({"p": PAIRS}, max_length_ratio=3))
    kept = read_back(corpus, "p")
    assert {"en": "c" * 10, "fr": "e" * 12} in kept
    assert len(kept) == 11
    assert corpus.facts["left_out"]["data.max_length_ratio"] == 1


def test_a_language_or_a_set_without_text_is_an_error(tmp_path):
    pairs(tmp_path, "de", ("dog", "Hund"))
    with pytest.raises(DataInvalid, match=r"no text in xx, yy \(data\.languages\)"):
        read_corpus(tmp_path, recipe_of({"p": PAIRS}, languages=["de", "xx", "yy"]))
    with pytest.raises(DataInvalid, match=r"data\.sets\.p: no group is left of 0"):
        read_corpus(tmp_path, recipe_of({"p": PAIRS}, exclude_sources=["s"]))


def test_too_many_malformed_rows_are_refused(tmp_path):
    pairs(tmp_path, "de", ("dog", "Hund"), ("", "Hund"))
    with pytest.raises(DataInvalid, match=r"1 of 2 rows .*en-de\.tsv:3: an empty side"):
        read_corpus(tmp_path, recipe_of({"p": PAIRS}, max_bad_share=0.4))
    facts = read_corpus(tmp_path, recipe_of({"p": PAIRS})).facts["rows"]
    assert (facts["read"], facts["malformed"]) == (2, 1)


def test_sources_are_recorded_with_licence_rows_and_a_hash_of_what_was_used(tmp_path):
    lines = ["a\tA\tone", "b\tB\tone", "c\tC\ttwo"]
    path = write(tmp_path / "parallel" / "en-de.tsv", "english\tforeign\tsource", *lines)
    recipe = recipe_of({"p": PAIRS}, licences={"one": "CC0-1.0"})
    sources = read_corpus(tmp_path, recipe).facts["sources"]
    assert (sources["one"]["licence"], sources["one"]["rows"]) == ("CC0-1.0", 2)
    assert (sources["two"]["licence"], sources["two"]["rows"]) == ("unstated", 1)
    write(path, "english\tforeign\tsource", "a\tA\tone", "b\tX\tone", "c\tC\ttwo")
    changed = read_corpus(tmp_path, recipe).facts["sources"]
    assert changed["one"]["sha256"] != sources["one"]["sha256"]
    assert changed["two"] == sources["two"]


def test_the_same_folder_gives_the_same_corpus(tmp_path):
    pairs(tmp_path, "de", *((f"text {i}", f"Text {i}") for i in range(60)))
    sets = {
        "p": PAIRS,
        "j": {"format": "joined", "of": "p", "rows": 9, "sentences": 3},
        "c": {"format": "cloze", "of": "p", "rows": 9, "sentences": 3},
    }
    one, other = (read_corpus(tmp_path, recipe_of(sets)) for _ in range(2))
    assert one.texts == other.texts
    for name, table in one.sets.items():
        for role, dense in table.texts.items():
            assert np.array_equal(dense, other.sets[name].texts[role])
    assert one.facts == other.facts


def test_triples_of_several_languages_share_their_english_question(tmp_path):
    write_rows(tmp_path / "qa" / "passages.jsonl", {"_id": "p", "text": "It sleeps."})
    for language in ("de", "fr"):
        row = {"id": f"t-{language}", "lang": language, "passage_id": "p", "question_en": "who?"}
        write_rows(tmp_path / "qa" / f"triples.{language}.jsonl", {**row, "question": language})
    settings = {"format": "triples", "path": "qa/triples.*.jsonl", "passages": "qa/passages.jsonl"}
    corpus = read_corpus(tmp_path, recipe_of({"t": settings}))
    assert read_back(corpus, "t", "query") == [{"en": "who?", "de": "de", "fr": "fr"}]
    assert read_back(corpus, "t", "passage") == [{"en": "It sleeps."}]
