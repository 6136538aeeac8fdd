import pytest

from tests.training.benchmarks.benchmark_files import (
    benchmark,
    cells_by_name,
    spelt,
    write,
    write_table,
)
from training.benchmarks import bitext
from training.benchmarks.files import BenchmarkInvalid


def test_both_directions_are_cells_of_their_own(tmp_path):
    # From German, both rows are nearest to the first English one; from English all is right.
    write_table(
        tmp_path / "tatoeba" / "deu.tsv.gz",
        ("id", "english", "foreign"),
        ("deu-0", "one 1 0.2", "eins 1 0"),
        ("deu-1", "two 0 1", "zwei 1 0.9"),
    )
    cells = cells_by_name(bitext.read_with_english(benchmark("tatoeba"), tmp_path))
    assert list(cells) == ["tatoeba/bitext/de-en", "tatoeba/bitext/en-de"]
    assert cells["tatoeba/bitext/de-en"].metrics["accuracy"] == 50.0
    assert cells["tatoeba/bitext/de-en"].values.tolist() == [100, 0]
    assert cells["tatoeba/bitext/en-de"].metrics["accuracy"] == 100.0


def test_the_margin_finds_what_a_hub_hides_and_xsim_is_its_error(tmp_path):
    # English row 1 is a hub: by cosine it is nearest to both German rows.
    write_table(
        tmp_path / "tatoeba" / "deu.tsv",
        ("english", "foreign"),
        ("0.7 0 0.714", "1 0 0"),
        ("1 1 0.1", "0 1 0"),
        ("0.5 0.5 9", "0 0 1"),
    )
    cell = cells_by_name(bitext.read_with_english(benchmark("tatoeba"), tmp_path))[
        "tatoeba/bitext/de-en"
    ]
    assert cell.metrics["accuracy"] == pytest.approx(66.6667)
    assert cell.metrics["margin_accuracy"] == 100.0
    assert cell.metrics["xsim"] == 0.0


def test_both_sides_are_queries_to_the_encoder(tmp_path):
    roles = []

    def embed(texts, role):
        roles.append(role)
        return spelt(texts, role)

    for name in ("mkqa", "tatoeba"):
        write_table(
            tmp_path / name / "de.tsv",
            ("id", "english", "foreign"),
            (1, "1", "1"),
            (2, "0 1", "0 1"),
        )
        list(bitext.read_with_english(benchmark(name), tmp_path).cells(embed))
    assert roles == ["query"] * 4


def test_a_language_is_chosen_without_naming_english(tmp_path):
    for code in ("deu", "fra"):
        write_table(tmp_path / "tatoeba" / f"{code}.tsv", ("english", "foreign"), ("1", "1"))
    found = bitext.read_with_english(benchmark("tatoeba", languages=["fr", "en"]), tmp_path)
    assert [(pair.left, pair.right) for pair in found.pairs] == [("fr", "en")]


@pytest.fixture
def ntrex(tmp_path):
    sentences = {"0": "1 0 0", "1": "0 1 0", "2": "0 0 1"}
    for code in ("eng", "deu", "zho-CN"):
        rows = [(i, "doc-a" if i < "2" else "doc-b", text) for i, text in sentences.items()]
        # The order of the lines differs, the ids do not.
        write_table(
            tmp_path / "ntrex" / f"{code}.tsv.gz",
            ("id", "doc", "text"),
            *(rows[::-1] if code == "deu" else rows),
        )
    return tmp_path


def test_ntrex_is_joined_by_id_and_its_documents_are_clusters(ntrex):
    cells = cells_by_name(bitext.read_ntrex(benchmark("ntrex"), ntrex))
    assert list(cells) == [f"ntrex/bitext/{pair}" for pair in ("de-en", "en-de", "zh-en", "en-zh")]
    assert all(cell.metrics["accuracy"] == 100.0 for cell in cells.values())
    assert sorted(cells["ntrex/bitext/de-en"].clusters.tolist()) in ([0, 0, 1], [0, 1, 1])
    assert len(set(cells["ntrex/bitext/zh-en"].clusters.tolist())) == 2


def test_any_two_languages_may_be_paired(ntrex):
    cells = cells_by_name(bitext.read_ntrex(benchmark("ntrex", pairs="all"), ntrex))
    assert {"ntrex/bitext/de-zh", "ntrex/bitext/zh-de"} < set(cells)
    assert len(cells) == 6


def test_texts_of_english_are_told_once(ntrex):
    found = list(bitext.read_ntrex(benchmark("ntrex"), ntrex).texts())
    assert len(found) == len(set(found)) == 9
    assert ("zh", "0 1 0") in found


def test_languages_with_other_sentences_are_refused(ntrex):
    write_table(ntrex / "ntrex" / "deu.tsv.gz", ("id", "doc", "text"), ("0", "doc-a", "1"))
    with pytest.raises(BenchmarkInvalid, match="de and en do not hold the same sentences"):
        bitext.read_ntrex(benchmark("ntrex"), ntrex)


def test_an_id_that_occurs_twice_is_refused(ntrex):
    write_table(ntrex / "ntrex" / "deu.tsv.gz", ("id", "doc", "text"), *[("0", "a", "1")] * 3)
    with pytest.raises(BenchmarkInvalid, match="an id occurs twice"):
        bitext.read_ntrex(benchmark("ntrex"), ntrex)


def test_one_language_alone_is_no_bitext(tmp_path):
    write_table(tmp_path / "ntrex" / "deu.tsv", ("id", "text"), ("0", "1"))
    with pytest.raises(BenchmarkInvalid, match="no pair of languages among de"):
        bitext.read_ntrex(benchmark("ntrex"), tmp_path)


def test_an_empty_file_is_refused(tmp_path):
    write_table(tmp_path / "tatoeba" / "deu.tsv", ("english", "foreign"))
    with pytest.raises(BenchmarkInvalid, match="empty"):
        bitext.read_with_english(benchmark("tatoeba"), tmp_path)


@pytest.mark.parametrize("split", ["dev", "devtest"])
def test_flores_is_read_by_split_and_line(tmp_path, split):
    for code in ("eng_Latn", "deu_Latn", "zho_Hans"):
        write(tmp_path / "flores" / split / f"{code}.{split}", ["1 0", "0 1"])
    options = {} if split == "devtest" else {"split": split}
    cells = cells_by_name(bitext.read_flores(benchmark("flores", **options), tmp_path))
    assert set(cells) == {f"flores/bitext/{pair}" for pair in ("de-en", "en-de", "en-zh", "zh-en")}
    assert cells["flores/bitext/de-en"].metrics["accuracy"] == 100.0
    assert cells["flores/bitext/de-en"].clusters.tolist() == [0, 1]
