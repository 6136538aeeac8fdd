import gzip

import pytest

from training.alignment.lexicon import LexiconAligner, read_lexicon
from training.alignment.links import LinksInvalid

ENTRIES = [("cat", "Katze"), ("cat", "Kater"), ("dog", "Hund"), ("ice cream", "Eis")]


def links(source, target, entries=ENTRIES, language="de"):
    aligner = LexiconAligner(entries, source="en", target=language)
    return aligner.align([(source.split(), target.split())])[0]


def test_words_of_the_dictionary_are_linked_whatever_their_case() -> None:
    assert links("The Dog, the cat.", "die KATZE und der Hund") == ((1, 4), (3, 1))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("dog dog", "Hund"),
        ("dog", "Hund Hund"),
        ("cat", "Katze Kater"),
        ("ice cream", "Eis"),
        ("bird", "Vogel"),
    ],
)
def test_words_that_are_not_there_exactly_once_are_not_linked(source, target) -> None:
    assert links(source, target) == ()


def test_an_entry_of_several_characters_is_linked_with_all_and_the_longest_wins() -> None:
    entries = [("japan", "日"), ("japan", "日本")]
    assert links("in Japan", "在 日 本", entries, "zh") == ((1, 1), (1, 2))


@pytest.mark.parametrize("name", ["lexicon.tsv", "lexicon.tsv.gz"])
def test_dictionaries_are_read_plain_or_compressed(tmp_path, name) -> None:
    opened = gzip.open if name.endswith("gz") else open
    with opened(tmp_path / name, "wt", encoding="utf-8") as file:
        file.write("english\tforeign\tsource\ncat\tKatze\tmuse\n")
    assert read_lexicon(tmp_path / name) == [("cat", "Katze")]


def test_a_row_without_two_words_and_a_missing_file_are_named(tmp_path) -> None:
    (tmp_path / "l.tsv").write_text("english\tforeign\ncat\n", "utf-8")
    with pytest.raises(LinksInvalid, match=r"l.tsv:2: .*not `source word TAB target`"):
        read_lexicon(tmp_path / "l.tsv")
    with pytest.raises(LinksInvalid, match=r"none.tsv: No such file"):
        read_lexicon(tmp_path / "none.tsv")
