import pytest

from tests.training.text_fixtures import groups_of, write
from training.readers import DataInvalid

STAR = {"format": "tsv", "path": "en-*.tsv"}


def test_a_star_stands_for_the_foreign_language(tmp_path):
    write(tmp_path / "en-de.tsv", "english\tforeign\tsource", "dog\tHund\ttatoeba")
    write(tmp_path / "en-fr.tsv", "english\tforeign\tsource", "cat\tchat\t")
    groups, _ = groups_of(tmp_path, STAR)
    assert [(group.id, group.texts, group.source) for group in groups] == [
        ("en-de.tsv:2", {"sentence": {"en": "dog", "de": "Hund"}}, "tatoeba"),
        ("en-fr.tsv:2", {"sentence": {"en": "cat", "fr": "chat"}}, "en-fr"),
    ]


def test_columns_may_be_of_any_number_and_order(tmp_path):
    write(tmp_path / "t.tsv", "id\tfra\teng\tdeu", "1\tchien\tdog\tHund", "2\t\tcat\tKatze")
    columns = {"deu": "de", "eng": "en", "fra": "fr"}
    settings = {"format": "tsv", "path": "t.tsv", "columns": columns, "source": "flores"}
    groups, ledger = groups_of(tmp_path, settings)
    assert groups[0].texts == {"sentence": {"de": "Hund", "en": "dog", "fr": "chien"}}
    assert groups[1].texts == {"sentence": {"de": "Katze", "en": "cat"}}
    assert {group.source for group in groups} == {"flores"}
    assert ledger.malformed == 0


def test_bad_rows_are_counted_and_shown_with_file_and_line(tmp_path):
    rows = ("a\tb\ts", "\tb\ts", "only two\tcells", "c\td\ts")
    write(tmp_path / "en-de.tsv", "english\tforeign\tsource", *rows)
    groups, ledger = groups_of(tmp_path, STAR)
    assert [group.id for group in groups] == ["en-de.tsv:2", "en-de.tsv:5"]
    assert (ledger.read, ledger.malformed) == (4, 2)
    assert ledger.complaints == [
        "en-de.tsv:3: an empty side",
        "en-de.tsv:4: 2 columns instead of 3",
    ]


def test_files_of_other_languages_are_not_even_read(tmp_path):
    write(tmp_path / "en-de.tsv", "english\tforeign", "dog\tHund")
    (tmp_path / "en-fr.tsv").write_bytes(b"\xff")
    groups, _ = groups_of(tmp_path, STAR, languages=["de"])
    assert len(groups) == 1


def test_rows_per_file_takes_the_first_ones_of_each(tmp_path):
    for language in ("de", "fr"):
        rows = [f"{number}\t{number}" for number in range(5)]
        write(tmp_path / f"en-{language}.tsv", "english\tforeign", *rows)
    groups, _ = groups_of(tmp_path, {**STAR, "rows_per_file": 2})
    assert [group.texts["sentence"]["en"] for group in groups] == ["0", "1", "0", "1"]


def test_a_column_that_is_not_there_is_named(tmp_path):
    write(tmp_path / "t.tsv", "english\tgerman", "a\tb")
    settings = {"format": "tsv", "path": "t.tsv", "columns": {"english": "en", "deutsch": "de"}}
    with pytest.raises(DataInvalid, match=r"no column deutsch among english, german.*s\.columns"):
        groups_of(tmp_path, settings)
    with pytest.raises(DataInvalid, match=r"data\.sets\.s\.columns: say which column"):
        groups_of(tmp_path, {"format": "tsv", "path": "t.tsv"})
