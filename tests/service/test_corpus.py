"""Documents out of files."""

import gzip
import json

import pytest

from service.corpus import Columns, documents, files
from service.errors import InvalidInput


def read(path, **options):
    return list(documents(path, columns=options.pop("columns", Columns()), **options))


def test_json_lines_are_read_with_our_keys_and_with_those_of_beir(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"id": "1", "text": "Guten Tag", "language": "de"}\n\n{"_id": "2", "text": "x", "lang": "en"}\n'
    )
    assert read(path) == [
        {"id": "1", "text": "Guten Tag", "language": "de"},
        {"id": "2", "text": "x", "language": "en"},
    ]


def test_a_gzipped_table_gives_a_document_a_row_and_skips_empty_texts(tmp_path):
    path = tmp_path / "en-sw.tsv.gz"
    path.write_bytes(gzip.compress(b'english\tforeign\na "b\thabari\nempty\t \nthe end\tmwisho\n'))
    assert read(path, columns=Columns(text="foreign")) == [
        {"id": "en-sw.tsv.gz:2", "text": "habari"},
        {"id": "en-sw.tsv.gz:4", "text": "mwisho"},
    ]
    assert read(path, columns=Columns(text="english"))[0]["text"] == 'a "b'


def test_a_table_may_name_its_id_and_language_columns(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('key,text,lang\nk1,"one, two",en\n')
    columns = Columns(id="key", language="lang")
    assert read(path, columns=columns) == [{"id": "k1", "text": "one, two", "language": "en"}]


def test_a_text_file_is_one_document_or_one_a_line(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("first\n\nsecond\n")
    assert read(path) == [{"id": "notes.txt", "title": "notes", "text": "first\n\nsecond\n"}]
    assert read(path, by_line=True) == [
        {"id": "notes.txt:1", "text": "first"},
        {"id": "notes.txt:3", "text": "second"},
    ]


def test_a_folder_stands_for_the_readable_files_below_it(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.txt", "deep/a.jsonl.gz", "picture.png"):
        (tmp_path / name).write_bytes(b"")
    assert files([tmp_path]) == [tmp_path / "b.txt", tmp_path / "deep" / "a.jsonl.gz"]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.jsonl", b'{"id": 1}\n{oops\n', "line 2: not JSON"),
        ("a.jsonl", b"[1]\n", "an object"),
        ("a.tsv", b"english\tforeign\n", "no column 'text'; it has: english, foreign"),
        ("a.txt", b"\xff\xfe", "utf-8"),
        ("a.txt.gz", b"not gzip", "gzip"),
    ],
)
def test_a_fault_names_the_file_and_the_place(tmp_path, name, content, complaint):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=complaint) as caught:
        read(path)
    assert str(path) in caught.value.detail


def test_a_missing_path_and_an_unknown_ending_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="is not there"):
        files([tmp_path / "none.txt"])
    (tmp_path / "a.pdf").write_bytes(b"")
    with pytest.raises(InvalidInput, match=r"known endings: .csv .jsonl"):
        files([tmp_path / "a.pdf"])


def test_reading_streams_one_line_at_a_time(tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_text(
        "".join(json.dumps({"id": str(n), "text": "t"}) + "\n" for n in range(1000)) + "{bad"
    )
    stream = documents(path, columns=Columns())
    assert [next(stream)["id"] for _ in range(1000)][-1] == "999"
    with pytest.raises(InvalidInput, match="line 1001"):
        next(stream)
