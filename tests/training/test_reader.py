import gzip

import pytest

from tests.training.conftest import write_lines, write_pairs
from training.config import Data
from training.reader import DataInvalid, Reader


def test_bad_rows_are_counted_and_shown_with_file_and_line(tmp_path):
    path = write_pairs(tmp_path, "de", [("a", "b", "s"), ("", "b", "s"), ("x" * 50, "b", "s")])
    with gzip.open(path, "at") as file:
        file.write("only two\tcells\n")
    reader = Reader(Data(max_characters=40, max_bad_share=1))
    assert list(reader.pairs(path)) == [("a", "b", "s")]
    assert (reader.read, reader.refused) == (4, 3)
    assert reader.complaints == [
        "en-de.tsv.gz:3: an empty side",
        "en-de.tsv.gz:4: 50 characters (data.max_characters)",
        "en-de.tsv.gz:5: 2 columns instead of 3",
    ]
    reader.check()


def test_too_many_bad_rows_are_refused_with_the_knob(tmp_path):
    path = write_lines_of_objects(tmp_path, ["{}", "[]", "not json", '{"a": "b"}'])
    reader = Reader(Data(max_bad_share=0.5))
    assert list(reader.objects(path, ("a",))) == [{"a": "b"}]
    with pytest.raises(
        DataInvalid,
        match=r"3 of 4 .* share of 0.5 .*max_bad_share.*rows\.jsonl\.gz:1: no text under a",
    ):
        reader.check()


def write_lines_of_objects(folder, lines):
    path = folder / "rows.jsonl.gz"
    write_lines(path, lines)
    return path


def test_an_excluded_source_takes_what_was_made_of_it_along(tmp_path):
    rows = [("a", "b", "lafand"), ("c", "d", "lafand-ict"), ("e", "f", "lafandish")]
    reader = Reader(Data(exclude_sources=("lafand",)))
    assert [row[0] for row in reader.pairs(write_pairs(tmp_path, "sw", rows))] == ["e"]


def test_what_is_used_is_hashed_per_source_with_its_licence():
    one, other = Reader(Data(licences={"s": "CC0-1.0"})), Reader(Data())
    for reader in (one, other):
        reader.used("s", "a\tb")
    assert one.sources["s"].as_json()["licence"] == "CC0-1.0"
    assert other.sources["s"].as_json()["licence"] == "unstated"
    assert one.sources["s"].digest.hexdigest() == other.sources["s"].digest.hexdigest()
    other.used("s", "c\td")
    assert other.sources["s"].rows == 2
    assert one.sources["s"].digest.hexdigest() != other.sources["s"].digest.hexdigest()


def test_a_truncated_file_is_named(tmp_path):
    path = write_pairs(tmp_path, "de", [("a" * 500, "b", "s")] * 50)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataInvalid, match=r"en-de\.tsv\.gz: cannot be read"):
        list(Reader(Data()).pairs(path))


def test_rows_per_language_bounds_both_kinds_of_file(tmp_path):
    reader = Reader(Data(rows_per_language=2))
    pairs = write_pairs(tmp_path, "de", [(str(i), str(i), "s") for i in range(5)])
    assert len(list(reader.pairs(pairs))) == 2
    objects = write_lines_of_objects(tmp_path, ['{"a": "b"}'] * 5)
    assert len(list(reader.objects(objects, ("a",)))) == 2


def test_languages_that_are_not_there_are_named(tmp_path):
    with pytest.raises(DataInvalid, match="holds no en-xx"):
        Reader(Data()).parallel_files(tmp_path / "parallel")
    write_pairs(tmp_path, "de", [("a", "b", "s")])
    assert list(Reader(Data()).parallel_files(tmp_path / "parallel")) == ["de"]
    with pytest.raises(DataInvalid, match="no pairs for xx, yy"):
        Reader(Data(languages=("de", "xx", "yy"))).parallel_files(tmp_path / "parallel")
