import numpy as np
import pytest

from tests.training.conftest import write_pairs
from training.config import Data
from training.data import ENGLISH, NOTHING, normalised, read_corpus


@pytest.fixture
def corpus(data, recipe):
    return read_corpus(data, recipe)


def test_a_held_out_sentence_is_held_out_in_every_language(corpus):
    aside = {pair.english for pair in corpus.held_out}
    seen = {corpus.texts[text] for text in corpus.rows["bitext"].left}
    assert aside
    assert seen
    assert not aside & seen
    per_language = {
        language: {pair.english for pair in corpus.held_out if pair.language == language}
        for language in ("de", "ru", "hi", "zh")
    }
    assert all(english == aside for english in per_language.values())


def test_both_sides_of_a_pair_have_the_english_text_as_target(corpus):
    rows = corpus.rows["bitext"]
    assert (rows.left_target == rows.right_target).all()
    assert (corpus.taught[rows.left_target] == rows.left).all()


def test_a_pivot_row_joins_two_translations_of_one_sentence(corpus):
    rows = corpus.rows["pivot"]
    left, right = corpus.text_language[rows.left], corpus.text_language[rows.right]
    english = corpus.languages.index(ENGLISH)
    assert len(rows)
    assert (left != right).all()
    assert english not in left.tolist() + right.tolist()


def test_a_question_points_at_its_passage_as_the_service_embeds_it(corpus):
    rows = corpus.rows["question"]
    texts = {corpus.texts[q]: corpus.texts[p] for q, p in zip(rows.left, rows.right, strict=True)}
    assert texts["wer rot Katze schläft Garten"] == "cat\nred cat sleeps garden. More of it."
    assert texts["who red cat sleeps garden"] == texts["wer rot Katze schläft Garten"]


def test_a_natural_question_is_english_on_both_sides(corpus):
    rows = corpus.rows["question"]
    pairs = {corpus.texts[q]: corpus.texts[p] for q, p in zip(rows.left, rows.right, strict=True)}
    assert pairs["who waits"] == "waiting\nold cat waits house"


def test_questions_about_passages_of_an_excluded_source_are_left_out(data, recipe):
    options = recipe.data.model_copy(update={"exclude_sources": ("notes",)})
    corpus = read_corpus(data, recipe.model_copy(update={"data": options}))
    assert len(corpus.rows["question"]) == 1
    assert "english" not in corpus.rows


def test_an_english_row_has_one_side(corpus):
    rows = corpus.rows["english"]
    assert (rows.right == NOTHING).all()
    assert (rows.right_target == NOTHING).all()
    assert (corpus.taught[rows.left_target] == rows.left).all()


def test_a_joined_text_is_taught_the_mean_of_its_sentences(corpus):
    rows = corpus.rows["joined"]
    for left, right, target in zip(rows.left, rows.right, rows.left_target, strict=True):
        parts = corpus.mixtures[target - len(corpus.taught)]
        sentences = [corpus.texts[corpus.taught[part]] for part in parts]
        assert corpus.texts[left] == " ".join(sentences)
        assert corpus.text_language[right] != corpus.languages.index(ENGLISH)
    chinese = rows.right[rows.language == corpus.languages.index("zh")]
    assert all(" " not in corpus.texts[text] for text in chinese)


def test_a_cloze_row_asks_for_the_text_that_holds_its_sentence_in_the_other_language(corpus):
    rows = corpus.rows["cloze"]
    assert len(rows)
    assert (corpus.text_language[rows.left] != corpus.text_language[rows.right]).all()
    for question, answer in zip(rows.left_target, rows.right_target, strict=True):
        assert question in corpus.mixtures[answer - len(corpus.taught)]


def test_texts_that_differ_in_case_or_width_are_one_group(tmp_path, recipe):
    write_pairs(tmp_path, "de", [("Hello  you", "Hallo", "s"), ("hello ｙou", "Hallo du", "s")])
    options = recipe.model_copy(update={"data": Data(held_out_share=1e-9)})
    corpus = read_corpus(tmp_path, options)
    english = corpus.rows["bitext"].left
    assert len(set(english)) == 2
    assert len(set(corpus.groups[english])) == 1
    assert normalised("Ｈｅｌｌｏ\tWORLD ") == "hello world"


def test_the_same_folder_gives_the_same_rows(data, recipe, corpus):
    again = read_corpus(data, recipe)
    assert again.texts == corpus.texts
    assert all(
        np.array_equal(again.rows[source].left, rows.left) for source, rows in corpus.rows.items()
    )


def test_a_folder_without_questions_is_enough(tmp_path, recipe):
    write_pairs(tmp_path, "de", [("a", "b", "s")])
    options = recipe.model_copy(update={"data": Data(held_out_share=1e-9)})
    assert set(read_corpus(tmp_path, options).rows) == {"bitext"}
