import pytest

from training.config.data import Data
from training.groups import Group
from training.readers.ledger import DataInvalid, Ledger


def test_too_many_bad_rows_are_refused_with_the_knob_and_the_first_ones_shown():
    ledger = Ledger(Data(max_bad_share=0.5))
    ledger.read = 10
    for line in range(5):
        ledger.bad(f"a.tsv:{line}", "an empty side")
    ledger.check()
    ledger.bad("a.tsv:9", "beyond those that are shown")
    with pytest.raises(DataInvalid, match=r"6 of 10 .*0\.5 .*data\.max_bad_share\): a\.tsv:0: an"):
        ledger.check()
    assert len(ledger.complaints) == 5


def test_an_excluded_source_takes_what_was_made_of_it_along():
    ledger = Ledger(Data(exclude_sources=("lafand",)))
    groups = [
        Group(source, {"sentence": {"en": "a"}}, source)
        for source in ("lafand", "lafand-ict", "lafandish", "other")
    ]
    kept = list(ledger.kept(groups, at_most=None))
    assert [group.source for group in kept] == ["lafandish", "other"]
    assert ledger.left_out["data.exclude_sources"] == 2


def test_excluded_rows_do_not_count_towards_the_bound():
    ledger = Ledger(Data(exclude_sources=("x",)))
    groups = [Group(str(i), {"sentence": {"en": "a"}}, "xy"[i % 2]) for i in range(9)]
    assert [group.id for group in ledger.kept(groups, at_most=2)] == ["1", "3"]


def test_english_is_always_wanted():
    ledger = Ledger(Data(languages=("de",)))
    assert [ledger.wants(language) for language in ("en", "de", "fr")] == [True, True, False]
    assert Ledger(Data()).wants("fr")
