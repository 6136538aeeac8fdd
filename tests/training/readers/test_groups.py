import pytest

from tests.training.text_fixtures import groups_of, write_rows
from training.groups import Group
from training.readers.groups import write_groups

SETTINGS = {"format": "groups", "path": "g.jsonl.gz"}
GROUPS = [
    Group("1", {"query": {"en": "who"}, "passage": {"en": "a\nb"}}, "s", negatives=("2",)),
    Group("2", {"sentence": {"en": "a b", "de": "A B"}}, "t", links={("en", "de"): ((0, 1),)}),
]


def test_what_is_written_is_read_again(tmp_path):
    assert write_groups(tmp_path / "g.jsonl.gz", iter(GROUPS)) == 2
    assert groups_of(tmp_path, SETTINGS)[0] == GROUPS


def test_the_bytes_depend_on_the_groups_alone(tmp_path):
    for name in ("one.gz", "other.gz"):
        write_groups(tmp_path / name, GROUPS)
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "other.gz").read_bytes()


def test_a_write_that_breaks_off_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "g.jsonl.gz"
    write_groups(path, GROUPS)

    def broken():
        yield GROUPS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_groups(path, broken())
    assert groups_of(tmp_path, SETTINGS)[0] == GROUPS
    assert [file.name for file in tmp_path.iterdir()] == ["g.jsonl.gz"]


def test_a_row_that_is_no_group_is_counted_and_one_without_a_source_gets_the_set_s(tmp_path):
    good = {"id": "1", "texts": {"sentence": {"en": "a"}}}
    write_rows(tmp_path / "g.jsonl.gz", good, {"id": "2"}, {**good, "txets": 1})
    groups, ledger = groups_of(tmp_path, {**SETTINGS, "source": "mine"})
    assert [group.source for group in groups] == ["mine"]
    assert ledger.complaints == [
        "g.jsonl.gz:2: texts is not an object",
        "g.jsonl.gz:3: unknown keys txets",
    ]
