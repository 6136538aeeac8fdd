import numpy as np
import pytest

from tests.training.report.report_fixtures import results, run_folder
from training.report import charts
from training.report.charts import Gain
from training.report.projection import LanguageMap
from training.report.reading import read_shown
from training.results import Results


def test_a_heat_map_has_the_queries_in_rows_and_the_candidates_in_columns():
    found = results("a")
    figure = charts.heat_map(found, "xquad")
    cell = next(c for c in found.cells if (c.queries, c.candidates) == ("zh", "de"))
    (drawn,) = figure.data
    assert list(drawn.y) == ["de", "en", "zh"]
    assert drawn.z[2][0] == pytest.approx(cell.metrics["ndcg@10"])


def test_a_map_of_differences_is_centred_on_zero():
    figure = charts.heat_map(results("a", gain=4.0), "xquad", against=results("b"))
    (drawn,) = figure.data
    assert np.allclose(drawn.z, 4.0, atol=1e-4)
    assert drawn.zmid == 0.0
    assert drawn.zmin == -drawn.zmax


def test_other_languages_cannot_be_subtracted():
    fewer = results("b")
    kept = tuple(cell for cell in fewer.cells if "zh" not in {cell.queries, cell.candidates})
    assert charts.heat_map(results("a"), "xquad", against=Results("b", kept)) is None


def test_a_pool_alone_is_no_map():
    assert charts.heat_map(results("a"), "xquad_r") is None


def test_gains_are_drawn_with_unequal_arms_around_the_mean():
    figure = charts.gains("x", [Gain("de", 2.0, 1.0, 4.0, 0.01), Gain("en", -1.0, -3.0, 0.5, 0.3)])
    (drawn,) = figure.data
    assert list(drawn.y) == ["en", "de"]
    assert list(drawn.error_x.array) == [1.5, 2.0]
    assert list(drawn.error_x.arrayminus) == [2.0, 1.0]


def test_bias_shows_a_group_of_bars_for_each_model(tmp_path):
    one, other = (read_shown(run_folder(tmp_path / name)) for name in ("one", "other"))
    figure = charts.bias([one, other])
    assert [bar.name for bar in figure.data] == ["one", "other"]
    assert list(figure.data[0].y) == [90.0, 90.0, 90.0]


def test_without_a_pool_there_is_no_bias_to_show(tmp_path):
    kept = tuple(cell for cell in results("a").cells if cell.benchmark == "xquad")
    Results("a", kept).write(tmp_path / "a.json")
    assert charts.bias([read_shown(tmp_path / "a.json")]) is None


def test_curves_show_losses_without_the_learning_rate_beside_what_was_measured(tmp_path):
    figure = charts.curves(read_shown(run_folder(tmp_path / "run")))
    assert [line.name for line in figure.data] == ["loss", "xquad mono ndcg@10"]
    assert len(figure.data[0].x) == 39


def test_a_file_of_results_has_no_curves(tmp_path):
    results("a").write(tmp_path / "a.json")
    assert charts.curves(read_shown(tmp_path / "a.json")) is None


def test_imbalance_names_the_rank_correlation(tmp_path):
    shown = read_shown(run_folder(tmp_path / "run"))
    scores = charts.language_scores(shown.results.cells, "xquad", "ndcg@10")
    order = sorted(scores, key=scores.__getitem__)
    texts = {language: 10 ** (1 + place) for place, language in enumerate(order)}
    figure = charts.imbalance(shown, texts)
    assert "rank correlation +1.00, 3 languages" in figure.layout.title.text
    assert charts.imbalance(shown, {"de": 5}) is None
    assert charts.imbalance(shown, {}) is None


def test_the_map_joins_translations_and_breaks_between_sentences():
    points = {"before": np.arange(12, dtype=np.float32).reshape(6, 2)}
    drawn = LanguageMap(points, ["en", "de"], ["one", "two", "three"])
    figure = charts.language_map(drawn)
    lines, english, german = figure.data
    assert [english.name, german.name] == ["en", "de"]
    assert list(lines.x[:2]) == [0.0, 6.0]
    assert np.isnan(lines.x[2])
    assert len(lines.x) == 9
