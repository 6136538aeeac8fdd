"""Golden queries of a run's bundle: which held-out sentences become some, and how many."""

import json
from collections import Counter

from service.golden import golden_line, read_golden, write_golden
from training.corpus import HeldOut
from training.export.golden import LARGEST, golden_of


def pairs(languages=("de", "fr", "hi"), count=100, *, shared=True):
    """Sentences in every language; of the same English ones, or of others for each language."""
    return [
        HeldOut(code, f"sentence {number} {'' if shared else code}".strip(), f"{code} {number}")
        for code in languages
        for number in range(count)
    ]


def counted(queries):
    return Counter(language for one in queries for language in one.query)


def test_every_language_has_so_many_and_each_text_is_asked_and_found():
    queries = golden_of(pairs(), most=8, seed=1)
    assert counted(queries) == {"en": 8, "de": 8, "fr": 8, "hi": 8}
    assert all(one.query == one.passage for one in queries)
    assert all(len(set(map(number_of, one.query.values()))) == 1 for one in queries)
    alone = golden_of(pairs(shared=False), most=8, seed=1)
    assert counted(alone) == {"en": 24, "de": 8, "fr": 8, "hi": 8}


def number_of(text):
    return text.split()[1]


def test_a_language_with_less_text_gives_what_it_has_and_the_others_are_not_cut():
    few = [pair for pair in pairs() if pair.language != "hi" or pair.foreign == "hi 7"]
    assert counted(golden_of(few, most=8, seed=1))["hi"] == 1
    assert counted(golden_of(few, most=8, seed=1))["de"] == 8


def test_the_same_seed_draws_the_same_and_another_one_others():
    assert golden_of(pairs(), most=8, seed=1) == golden_of(pairs(), most=8, seed=1)
    assert golden_of(pairs(), most=8, seed=1) != golden_of(pairs(), most=8, seed=2)
    assert golden_of(pairs(), most=0, seed=1) == golden_of([], most=8, seed=1) == []


def test_where_they_do_not_all_fit_every_language_has_as_many(tmp_path):
    long = [
        HeldOut(code, f"{number} {'a' * 900} {code}", f"{code} {number} {'ü' * 450}")
        for code in ("de", "fr", "hi")
        for number in range(100)
    ]
    queries = golden_of(long, most=100, seed=1)
    counts = counted(queries)
    assert max(counts[code] for code in ("de", "fr", "hi")) < 30
    assert max(counts["de"], counts["fr"], counts["hi"]) - min(counts[c] for c in counts) <= 1
    size = sum(len(golden_line(one)) for one in queries)
    assert LARGEST - 4_000 < size <= LARGEST
    write_golden(tmp_path / "golden.jsonl", queries)
    assert read_golden(tmp_path / "golden.jsonl") == queries


def test_what_would_have_two_answers_or_none_is_left_out():
    held_out = [
        HeldOut("de", "save", "Speichern"),
        HeldOut("de", "keep", "speichern "),  # the same answer as above
        HeldOut("de", "OK", "ok"),  # asks for itself
        HeldOut("de", "", "nichts"),
        HeldOut("de", "long", "x" * 1001),
        HeldOut("de", "broken", "a\0b"),
        HeldOut("de", "twice", "zweimal"),
        HeldOut("de", "twice", "doppelt"),
        HeldOut("en", "copy", "a copy"),
    ]
    queries = golden_of(held_out, most=32, seed=3)
    texts = sorted(one.query["de"].strip().lower() for one in queries)
    assert texts == ["speichern", "zweimal"]


def test_a_line_can_be_read_by_eye():
    [one] = golden_of([HeldOut("hi", "cat", "बिल्ली")], most=1, seed=0)
    assert json.loads(golden_line(one)) == {
        "query": {"en": "cat", "hi": "बिल्ली"},
        "passage": {"en": "cat", "hi": "बिल्ली"},
    }
    assert "बिल्ली" in golden_line(one).decode()
