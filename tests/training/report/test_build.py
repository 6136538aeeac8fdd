import numpy as np

from tests.training.report.report_fixtures import results, run_folder
from training.report.build import report_page, texts_by_language, write_report
from training.report.projection import LanguageMap
from training.report.reading import read_shown


def test_a_report_of_a_run_has_every_section(tmp_path):
    run = read_shown(run_folder(tmp_path / "mine", gain=3.0))
    results("start").write(tmp_path / "start.json")
    points = {"first": np.zeros((4, 2), np.float32), "mine": np.ones((4, 2), np.float32)}
    drawn = LanguageMap(points, ["en", "de"], ["one", "two"])
    html = report_page([run], baseline=read_shown(tmp_path / "start.json"), language_map=drawn)
    for heading in (
        "Summary", "Language pairs", "Gains and losses", "Language bias",
        "Map of parallel sentences", "Curves", "Imbalance", "Data and leaks",
    ):  # fmt: skip
        assert f"<h2>{heading}</h2>" in html
    assert "tatoeba &lt;b&gt;" in html
    assert "by_benchmark.xquad" in html


def test_what_is_not_known_is_left_out(tmp_path):
    results("start").write(tmp_path / "start.json")
    html = report_page([read_shown(tmp_path / "start.json")])
    assert "<h2>Summary</h2>" in html
    assert "<h2>Curves</h2>" not in html
    assert "<h2>Gains and losses</h2>" not in html
    assert "<h2>Map of parallel sentences</h2>" not in html


def test_the_best_of_a_row_is_the_lowest_rank_distance_and_the_highest_score(tmp_path):
    results("start").write(tmp_path / "start.json")
    run = read_shown(run_folder(tmp_path / "mine", gain=3.0))
    html = report_page([run], baseline=read_shown(tmp_path / "start.json"))
    assert "<td>xquad_r pool rank_distance</td><td>90.00</td><td class=best>87.00</td>" in html
    assert "<td>xquad_r pool map</td><td>20.00</td><td class=best>23.00</td>" in html


def test_training_texts_are_counted_by_language():
    texts = {"query": {"de": 4, "en": 1}, "passage": {"en": 2}}
    sets = {"a": {"groups": 5, "texts": texts}, "b": {"groups": 1, "texts": {"query": {"de": 1}}}}
    assert texts_by_language({"sets": sets}) == {"de": 5, "en": 3}
    assert texts_by_language({}) == {}


def test_a_report_replaces_an_older_one(tmp_path):
    write_report(tmp_path / "r.html", "old")
    write_report(tmp_path / "r.html", "new")
    assert (tmp_path / "r.html").read_text("utf-8") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]
