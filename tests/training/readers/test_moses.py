import pytest

from tests.training.text_fixtures import groups_of, write
from training.readers import DataInvalid

SETTINGS = {"format": "moses", "path": "news", "languages": ["en", "de"]}


def test_lines_are_translations_of_each_other_even_if_one_file_is_packed(tmp_path):
    write(tmp_path / "news.en", "dog", "", "cat")
    write(tmp_path / "news.de.gz", "Hund", "Vogel", "Katze")
    groups, ledger = groups_of(tmp_path, SETTINGS)
    assert [group.texts["sentence"] for group in groups] == [
        {"en": "dog", "de": "Hund"},
        {"en": "cat", "de": "Katze"},
    ]
    assert groups[1].id == "news.en:3"
    assert groups[0].source == "news"
    assert ledger.complaints == ["news.en:2: an empty side"]


@pytest.mark.parametrize(("english", "german"), [(3, 5), (5, 3), (0, 1)])
def test_unequal_numbers_of_lines_are_an_error_that_names_both(tmp_path, english, german):
    write(tmp_path / "news.en", *["dog"] * english)
    write(tmp_path / "news.de", *["Hund"] * german)
    with pytest.raises(DataInvalid, match=rf"news\.en has {english} lines .*de has {german}:"):
        groups_of(tmp_path, SETTINGS)


def test_a_star_must_stand_for_as_many_files_in_both_languages(tmp_path):
    settings = {**SETTINGS, "path": "*"}
    for name in ("a.en", "a.de", "b.en", "b.de"):
        write(tmp_path / name, name)
    groups, _ = groups_of(tmp_path, settings)
    assert [group.texts["sentence"]["de"] for group in groups] == ["a.de", "b.de"]
    (tmp_path / "a.de").unlink()
    (tmp_path / "b.en").unlink()
    with pytest.raises(DataInvalid, match=r"s\.path: a\.en and b\.de are no pairs"):
        groups_of(tmp_path, settings)
