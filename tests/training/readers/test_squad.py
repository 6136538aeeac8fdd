import json

import pytest

from tests.training.text_fixtures import groups_of, write
from training.readers import DataInvalid


def squad(path, *paragraphs):
    """Paragraphs as (context, {question id: question})."""
    rows = [
        {
            "context": context,
            "qas": [{"id": name, "question": text, "answers": []} for name, text in asked.items()],
        }
        for context, asked in paragraphs
    ]
    return write(path, json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": rows}]}))


def test_the_same_question_in_several_files_is_one_group_in_several_languages(tmp_path):
    squad(tmp_path / "xquad.en.json", ("The cat.", {"1": "who?", "2": "what?"}))
    squad(tmp_path / "xquad.de.json", ("Die Katze.", {"1": "wer?"}), ("Der Hund.", {"3": "wo?"}))
    groups, _ = groups_of(tmp_path, {"format": "squad", "path": "xquad.*.json"})
    texts = {group.id: group.texts for group in groups}
    assert texts["1"] == {
        "query": {"de": "wer?", "en": "who?"},
        "passage": {"de": "Die Katze.", "en": "The cat."},
    }
    assert texts["2"] == {"query": {"en": "what?"}, "passage": {"en": "The cat."}}
    assert texts["3"]["passage"] == {"de": "Der Hund."}
    assert groups[0].source == "xquad"


def test_mlqa_s_names_say_the_languages_of_question_and_context(tmp_path):
    squad(tmp_path / "test-context-de-question-es.json", ("Die Katze.", {"1": "¿quién?"}))
    squad(tmp_path / "test-context-en-question-es.json", ("The cat.", {"1": "¿quién?"}))
    squad(tmp_path / "test-context-ar-question-ar.json", ("قطة", {"1": "من؟"}))
    settings = {"format": "squad", "path": "test-*.json"}
    groups, _ = groups_of(tmp_path, settings, languages=["de", "es"])
    assert [group.texts for group in groups] == [
        {"query": {"es": "¿quién?"}, "passage": {"en": "The cat.", "de": "Die Katze."}}
    ]


def test_a_file_whose_name_says_no_language_is_in_the_recipe_s(tmp_path):
    squad(tmp_path / "train-v1.1.json.gz", ("Le chat.", {"1": "qui?"}))
    settings = {"format": "squad", "path": "train-v1.1.json", "language": "fr"}
    assert groups_of(tmp_path, settings)[0][0].texts["query"] == {"fr": "qui?"}


def test_a_question_without_a_text_is_a_bad_row(tmp_path):
    squad(tmp_path / "a.json", ("The cat.", {"1": "who?", "2": " "}))
    groups, ledger = groups_of(tmp_path, {"format": "squad", "path": "a.json"})
    assert len(groups) == 1
    assert ledger.complaints == ["a.json: paragraph 1: no text under question"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[1\n{}", r"a\.json:2: not JSON"),
        ("[]", "not SQuAD's format"),
        ('{"data": [{}]}', "not SQuAD's format.*paragraphs"),
    ],
)
def test_a_file_of_another_format_is_named(tmp_path, text, why):
    write(tmp_path / "a.json", text)
    with pytest.raises(DataInvalid, match=why):
        groups_of(tmp_path, {"format": "squad", "path": "a.json"})
