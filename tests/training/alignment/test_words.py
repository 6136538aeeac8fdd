import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from training.alignment.words import core, form, split

LANGUAGES = st.sampled_from(["en", "de", "zh", "ja", "th", "zh-Hant", "ar"])


def cut(text, language):
    return [text[start:stop] for start, stop in split(text, language)]


@examples(deadline=None)
@given(st.text(max_size=40), LANGUAGES)
def test_words_hold_every_character_but_white_space_in_order(text, language) -> None:
    assert "".join(cut(text, language)) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "language", "words"),
    [
        ("Hello,  big world!", "en", ["Hello,", "big", "world!"]),
        ("我喜欢 Python3。", "zh", ["我", "喜", "欢", "Python3", "。"]),
        ("東京タワーへ行きます", "ja", ["東京", "タワー", "へ", "行", "きます"]),
        ("時々, 3月", "ja", ["時々", ",", "3", "月"]),
        ("ฉันไปGoogle", "th", ["ฉั", "น", "ไป", "Google"]),
        ("ไม่", "th", ["ไม่"]),
        ("", "en", []),
    ],
)
def test_words_end_where_the_language_says(text, language, words) -> None:
    assert cut(text, language) == words


def test_a_language_is_known_by_its_first_part() -> None:
    assert cut("喜欢", "zh-Hant") == cut("喜欢", "ZH_tw") == ["喜", "欢"]


@pytest.mark.parametrize(
    ("word", "inside"), [("“Hello”,", "Hello"), ("don't.", "don't"), ("—", "—"), ("(3)", "3")]
)
def test_the_core_is_without_punctuation_unless_nothing_else_is_there(word, inside) -> None:
    start, stop = core(word, (0, len(word)))
    assert word[start:stop] == inside


def test_forms_ignore_case_width_and_punctuation() -> None:
    assert form("“Straße”,") == form("STRASSE") == "strasse"
    assert form("Ａｂｃ") == "abc"
