import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.training.text_fixtures import groups_of
from training.readers import DataInvalid

COLUMNS = {"anchor": "query.en", "positive": "passage.en", "hard": "negative.en"}
SETTINGS = {"format": "hub", "id": "local", "columns": COLUMNS}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "local").mkdir()
    rows = {
        "anchor": ["who", "what", None],
        "positive": ["a cat", "a dog", "a bird"],
        "hard": [["a horse", "a fish"], ["a horse"], []],
    }
    pq.write_table(pa.table(rows), tmp_path / "local" / "train-00000-of-00001.parquet")
    return tmp_path


def test_columns_become_roles_and_negatives_groups_of_their_own(folder):
    groups, ledger = groups_of(folder, SETTINGS)
    by_id = {group.id: group for group in groups}
    who, what = by_id["local:1"], by_id["local:2"]
    assert who.texts == {"query": {"en": "who"}, "passage": {"en": "a cat"}}
    assert [by_id[name].texts["passage"]["en"] for name in who.negatives] == ["a horse", "a fish"]
    assert what.negatives == who.negatives[:1]
    assert len(groups) == 4
    assert ledger.complaints == ["local:3: 0 texts under anchor"]


def test_a_bound_on_rows_and_a_source(folder):
    columns = {"anchor": "sentence.en", "positive": "sentence.de"}
    settings = {**SETTINGS, "columns": columns, "rows": 1, "source": "mine"}
    groups, _ = groups_of(folder, settings)
    assert [group.texts["sentence"] for group in groups] == [{"en": "who", "de": "a cat"}]
    assert groups[0].source == "mine"


def test_a_column_that_is_not_there_is_named(folder):
    settings = {**SETTINGS, "columns": {"query": "query.en", "anchor": "passage.en"}}
    with pytest.raises(DataInvalid, match=r"s\.columns: local has no query, only anchor, hard"):
        groups_of(folder, settings)


def test_what_the_library_cannot_read_names_id_and_split(folder):
    with pytest.raises(DataInvalid, match=r"data\.sets\.s: .*'local'.* split 'dev'\) cannot be"):
        groups_of(folder, {**SETTINGS, "split": "dev"})
