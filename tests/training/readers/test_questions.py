from tests.training.text_fixtures import groups_of, write_rows

SETTINGS = {"format": "questions", "path": "clapnq.jsonl.gz"}


def test_a_natural_question_is_in_one_language_on_both_sides(tmp_path):
    first = {"id": "7", "question": "wer", "title": "Katze", "passage": "Sie schläft."}
    second = {"question": "wo", "passage": "Im Garten.", "source": "mine"}
    write_rows(tmp_path / "clapnq.jsonl.gz", first, second, {"question": "wann"})
    groups, ledger = groups_of(tmp_path, {**SETTINGS, "language": "de"})
    assert groups[0].texts == {"query": {"de": "wer"}, "passage": {"de": "Katze\nSie schläft."}}
    assert [(g.id, g.source) for g in groups] == [("7", "clapnq"), ("clapnq.jsonl.gz:2", "mine")]
    assert ledger.complaints == ["clapnq.jsonl.gz:3: no text under passage"]
