import pytest

from tests.training.benchmarks.benchmark_files import write
from training.benchmarks import files
from training.benchmarks.files import BenchmarkInvalid, BenchmarkMissing


@pytest.mark.parametrize(
    ("code", "tag"),
    [
        ("deu", "de"),
        ("arb", "ar"),
        ("cmn", "zh"),
        ("zho-CN", "zh"),
        ("zho-TW", "zh-TW"),
        ("zho_Hans", "zh"),
        ("zho_Hant", "zh-Hant"),
        ("eng_Latn", "en"),
        ("srp_Cyrl", "sr"),
        ("arz", "arz"),
        ("swh", "sw"),
        ("not a code!", "not a code!"),
    ],
)
def test_languages_go_by_their_shortest_tag(code, tag):
    assert files.iso(code) == tag


def test_plain_and_compressed_files_read_alike(tmp_path):
    write(tmp_path / "plain.txt", ["ä", "", "b"])
    write(tmp_path / "packed.txt.gz", ["ä", "", "b"])
    assert list(files.lines(tmp_path / "plain.txt")) == ["ä", "b"]
    assert list(files.lines(tmp_path / "packed.txt")) == ["ä", "b"]


def test_a_missing_file_is_named_with_the_knob(tmp_path):
    with pytest.raises(BenchmarkMissing, match=r"none\.txt.*evaluation\.benchmarks"):
        list(files.lines(tmp_path / "none.txt"))


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "torn.txt.gz").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(BenchmarkMissing, match=r"torn\.txt\.gz"):
        list(files.lines(tmp_path / "torn.txt"))


def test_a_table_keeps_quotes_as_they_are(tmp_path):
    write(tmp_path / "t.tsv", ["id\ttext", '1\t"quoted', "2\tplain"])
    rows = list(files.rows(tmp_path / "t.tsv", "id", "text"))
    assert rows == [{"id": "1", "text": '"quoted'}, {"id": "2", "text": "plain"}]


def test_a_table_without_a_column_is_refused(tmp_path):
    write(tmp_path / "t.tsv", ["id\ttext", "1\ta"])
    with pytest.raises(BenchmarkInvalid, match=r"no column doc; it has id, text"):
        list(files.rows(tmp_path / "t.tsv", "id", "doc"))


def test_a_row_with_another_number_of_fields_is_refused_by_its_line(tmp_path):
    write(tmp_path / "t.tsv", ["id\ttext", "1\ta\tb"])
    with pytest.raises(BenchmarkInvalid, match="line 2 has 3 fields"):
        list(files.rows(tmp_path / "t.tsv", "id"))


@pytest.mark.parametrize("line", ["{", "1", '{"text": "a"}'])
def test_a_line_that_is_no_such_object_is_refused(tmp_path, line):
    write(tmp_path / "t.jsonl", [line])
    with pytest.raises(BenchmarkInvalid, match="line 1"):
        list(files.objects(tmp_path / "t.jsonl", "_id"))


def test_files_are_found_by_language_and_a_variety_keeps_its_region(tmp_path):
    for name in ("por", "por-BR", "por-PT", "deu"):
        write(tmp_path / f"{name}.tsv.gz", ["x"])
    write(tmp_path / "README.md", ["x"])
    found = files.by_language(tmp_path, "", ".tsv")
    assert list(found) == ["de", "pt", "pt-BR", "pt-PT"]
    assert list(files.lines(found["pt-BR"])) == ["x"]


def test_an_empty_or_missing_folder_is_named(tmp_path):
    with pytest.raises(BenchmarkMissing, match="no such folder"):
        files.by_language(tmp_path / "none", "", ".tsv")
    with pytest.raises(BenchmarkMissing, match=r"holds no queries\.LANGUAGE\.jsonl"):
        files.by_language(tmp_path, "queries.", ".jsonl")


def test_english_stays_among_the_chosen_languages(tmp_path):
    found = {tag: tmp_path / tag for tag in ("de", "en", "fr")}
    assert list(files.chosen(found, ("de",))) == ["de", "en"]
    assert list(files.chosen(found, ())) == ["de", "en", "fr"]
    with pytest.raises(BenchmarkMissing, match=r"no file for sv.*there are de, en, fr"):
        files.chosen(found, ("sv",))
