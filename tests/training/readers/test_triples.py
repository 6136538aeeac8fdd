from tests.training.text_fixtures import groups_of, write_rows

SETTINGS = {"format": "triples", "path": "triples.*.jsonl", "passages": "passages.en.jsonl"}
PASSAGES = [
    {"_id": "p1", "title": "cat", "text": "It sleeps.", "lang": "en", "source": "notes"},
    {"_id": "p2", "title": "", "text": "Nobody asks.", "source": "notes"},
    {"_id": "p3", "text": "Of news.", "source": "lafand-ict"},
]


def triple(language, passage="p1", **more):
    row = {"id": "t1", "question_en": "who?", "question": f"{language}?", "lang": language}
    return {**row, "passage_id": passage, **more}


def test_a_question_meets_its_passage_and_unasked_passages_come_alone(tmp_path):
    write_rows(tmp_path / "passages.en.jsonl", *PASSAGES[:2])
    write_rows(tmp_path / "triples.de.jsonl", triple("de"))
    groups, ledger = groups_of(tmp_path, SETTINGS)
    passage = {"passage": {"en": "cat\nIt sleeps."}}
    assert groups[0].texts == {"query": {"en": "who?", "de": "de?"}, **passage}
    assert (groups[0].id, groups[0].source) == ("t1", "notes")
    assert (groups[1].id, groups[1].texts) == ("p2", {"passage": {"en": "Nobody asks."}})
    assert ledger.malformed == 0


def test_questions_about_passages_that_are_not_there_are_left_out(tmp_path):
    write_rows(tmp_path / "passages.en.jsonl", *PASSAGES)
    write_rows(tmp_path / "triples.de.jsonl", triple("de", "p3"), triple("de", "p9"), triple("de"))
    groups, ledger = groups_of(tmp_path, SETTINGS, exclude_sources=["lafand"])
    assert [group.id for group in groups] == ["t1", "p2"]
    assert ledger.left_out["passage_id without a passage"] == 2


def test_bad_rows_of_both_files_are_counted(tmp_path):
    write_rows(tmp_path / "passages.en.jsonl", {"_id": "p1"}, *PASSAGES)
    write_rows(tmp_path / "triples.de.jsonl", {"question": "a"}, triple("de"))
    _, ledger = groups_of(tmp_path, SETTINGS)
    assert ledger.complaints == [
        "passages.en.jsonl:1: no text under text",
        "triples.de.jsonl:1: no text under question_en, passage_id, lang",
    ]


def test_files_of_unwanted_languages_are_not_read_and_rows_per_file_holds_for_questions(tmp_path):
    write_rows(tmp_path / "passages.en.jsonl", *PASSAGES)
    write_rows(tmp_path / "triples.de.jsonl", *[triple("de", id=str(i)) for i in range(5)])
    (tmp_path / "triples.fr.jsonl").write_bytes(b"\xff")
    groups, _ = groups_of(tmp_path, {**SETTINGS, "rows_per_file": 2}, languages=["de"])
    assert [group.id for group in groups] == ["0", "1", "p2", "p3"]
