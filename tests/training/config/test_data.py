import pytest
from pydantic import ValidationError

from training.config.data import Data

PAIRS = {"format": "tsv", "path": "en-*.tsv"}


def test_a_made_set_is_made_of_one_that_is_read():
    joined = {"format": "joined", "of": "p", "rows": 3}
    assert Data(sets={"p": PAIRS, "j": joined}).sets["j"].of == "p"
    for wrong in ({"j": joined}, {"j": {**joined, "of": "j"}, "p": PAIRS}):
        with pytest.raises(
            ValidationError, match=r"data\.sets\.j\.of = '.' is no set that is read"
        ):
            Data(sets=wrong)


def test_the_longest_text_is_not_shorter_than_the_shortest():
    with pytest.raises(ValidationError, match=r"max_characters = 3 is below .*min_characters = 4"):
        Data(max_characters=3, min_characters=4)


@pytest.mark.parametrize("slot", ["query", "answer.en", "query."])
def test_a_column_of_the_hub_has_a_role_and_a_language(slot):
    with pytest.raises(ValidationError, match="pattern"):
        Data(sets={"h": {"format": "hub", "id": "a/b", "columns": {"x": slot}}})


def test_an_unknown_key_or_format_is_named():
    with pytest.raises(ValidationError, match=r"sets\.p\.tsv\.pth"):
        Data(sets={"p": {**PAIRS, "pth": "x"}})
    with pytest.raises(ValidationError, match="'csv'"):
        Data(sets={"p": {"format": "csv", "path": "x"}})
