import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.leaks import Evaluated, Leaks, words

LONG = "one two three four five six seven eight nine ten eleven twelve"


@pytest.fixture
def evaluated():
    texts = [("en", "What is RED?"), ("de", "Was ist rot?"), ("en", LONG), ("en", "…")]
    return Evaluated({"xquad": texts, "bli": iter([("hi", "बिल्ली सोती है")])})


@pytest.mark.parametrize(
    ("text", "benchmark"),
    [
        ("what is red", "xquad"),
        ("WHAT, is — red!", "xquad"),
        ("whatisred", "xquad"),
        ("Ｗhat is red", "xquad"),
        ("बिल्ली सोती है।", "bli"),
        ("What is reed?", None),
        ("!?", None),
        ("बल्ली सोती है", None),
    ],
)
def test_only_letters_marks_and_digits_count_in_any_language(evaluated, text, benchmark):
    assert evaluated.find(text, "fr") == benchmark


def test_an_english_text_leaks_that_shares_ten_words_in_a_row(evaluated):
    shared = "He counts: One, two, three, four, five, six, seven, eight, nine, ten; and stops."
    assert evaluated.find(shared, "en") == "xquad"
    assert evaluated.find(shared, "de") is None
    assert evaluated.find(shared.replace("five", "fife"), "en") is None
    assert evaluated.find("two three four five six seven eight nine ten", "en") is None


def test_what_was_checked_is_counted(evaluated):
    assert evaluated.checked == {"xquad": 4, "bli": 1}
    assert Evaluated({}).find("anything", "en") is None


@settings(deadline=None)  # the machine may be busy
@given(st.text(max_size=40))
def test_a_text_without_a_single_letter_never_leaks_and_any_other_is_found_again(text):
    found = Evaluated({"b": [("de", text)]}).find(
        text.upper().lower() if text.isascii() else text, "de"
    )
    assert found == ("b" if words(text) else None)


def test_leaks_are_counted_by_benchmark_language_and_source_and_shown():
    leaks = Leaks("drop", checked={"xquad": 2})
    for number in range(30):
        leaks.add("xquad", "de" if number % 3 else "en", "tatoeba", f"text {number}")
    leaks.add("bli", "en", "muse", "cat")
    facts = leaks.as_json()
    assert facts["texts"] == len(leaks) == 31
    assert facts["counts"][:2] == [
        {"benchmark": "bli", "language": "en", "source": "muse", "texts": 1},
        {"benchmark": "xquad", "language": "de", "source": "tatoeba", "texts": 20},
    ]
    assert len(facts["examples"]) == 20
    assert str(leaks) == "xquad: 30, bli: 1"
