import gzip

import pytest

from tests.training.text_fixtures import write
from training.config.data import Data
from training.readers.files import File, find, lines, objects, passage
from training.readers.ledger import DataInvalid, Ledger


def test_a_pattern_finds_files_in_order_and_says_what_its_star_stands_for(tmp_path):
    for name in ("en-fr.tsv", "en-de.tsv", "other.tsv"):
        write(tmp_path / "parallel" / name, "x")
    found = find(tmp_path, "parallel/en-*.tsv", key="k")
    assert [(file.name, file.star) for file in found] == [
        ("parallel/en-de.tsv", "de"),
        ("parallel/en-fr.tsv", "fr"),
    ]


def test_a_missing_gz_is_forgiven_and_an_absolute_path_welcome(tmp_path):
    path = write(tmp_path / "a.tsv.gz", "x")
    assert find(tmp_path, "a.tsv", key="k")[0].path == path
    absolute = find(tmp_path / "elsewhere", str(path), key="k")[0]
    assert (absolute.path, absolute.name, absolute.stem) == (path, str(path), "a")


def test_plain_and_packed_files_are_found_together_and_none_twice(tmp_path):
    for name in ("q.de.jsonl", "q.en.jsonl.gz", "q.de.jsonl.gz"):
        write(tmp_path / name, "x")
    found = find(tmp_path, "q.*.jsonl", key="k")
    assert [(file.name, file.star) for file in found] == [
        ("q.de.jsonl", "de"),
        ("q.en.jsonl.gz", "en"),
    ]


def test_a_path_without_a_file_names_the_key(tmp_path):
    with pytest.raises(DataInvalid, match=r"data\.sets\.s\.path = 'no\*'.*no such file"):
        find(tmp_path, "no*", key="data.sets.s.path")


def test_plain_and_packed_files_read_alike_with_any_line_end_and_mark(tmp_path):
    content = "\ufeffeins\r\nzwei\x85noch zwei\ndrei".encode()
    plain, packed = tmp_path / "a", tmp_path / "b"
    plain.write_bytes(content)
    packed.write_bytes(gzip.compress(content))
    expected = [(1, "eins"), (2, "zwei\x85noch zwei"), (3, "drei")]
    assert list(lines(File(plain, "a"))) == list(lines(File(packed, "b"))) == expected


@pytest.mark.parametrize("cut", [20, 5])
def test_a_truncated_file_is_named(tmp_path, cut):
    path = write(tmp_path / "a.gz", *(str(number) for number in range(5000)))
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataInvalid, match=r"a\.gz: cannot be read"):
        list(lines(File(path, "a.gz")))


def test_a_damaged_file_is_named(tmp_path):
    path = write(tmp_path / "a.gz", *(str(number) for number in range(5000)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(DataInvalid, match=r"a\.gz: cannot be read"):
        list(lines(File(path, "a.gz")))


def test_a_folder_instead_of_a_file_is_named(tmp_path):
    with pytest.raises(DataInvalid, match="cannot be read"):
        list(lines(File(tmp_path, "folder")))


def test_another_encoding_is_named_with_its_line(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes("eins\nzwei\nKäse\n".encode("latin-1"))
    with pytest.raises(DataInvalid, match=r"a\.tsv:3: not UTF-8"):
        list(lines(File(path, "a.tsv")))


def test_lines_that_are_no_objects_are_counted_with_their_place(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"a": "b"}', "[]", "{")
    ledger = Ledger(Data())
    assert list(objects(File(path, "a.jsonl"), ledger)) == [("a.jsonl:1", {"a": "b"})]
    assert (ledger.read, ledger.malformed) == (3, 2)
    assert ledger.complaints[0] == "a.jsonl:2: not an object"
    assert ledger.complaints[1].startswith("a.jsonl:3: not JSON: ")


def test_a_passage_is_embedded_under_its_title():
    assert passage({"title": "cat"}, "It sleeps.") == "cat\nIt sleeps."
    assert passage({"title": " "}, "It sleeps.") == passage({}, "It sleeps.") == "It sleeps."
