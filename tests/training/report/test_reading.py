import pytest

from tests.training.report.report_fixtures import results, run_folder
from training.report.reading import NothingToReport, read_shown


def test_a_run_is_read_with_its_curves_sources_leaks_and_recipe(tmp_path):
    shown = read_shown(run_folder(tmp_path / "mine"))
    assert shown.is_run
    assert shown.name == "mine"
    assert len(shown.records) == 40
    assert shown.sources["tatoeba <b>"]["rows"] == 1234
    assert shown.data["rows"]["read"] == 1400
    assert shown.leaks["texts"] == 7
    assert shown.recipe["start"]["model"] == "first"


def test_a_file_of_results_is_read_alone(tmp_path):
    results("other").write(tmp_path / "other.json")
    shown = read_shown(tmp_path / "other.json")
    assert not shown.is_run
    assert shown.results.model == "other"
    assert shown.records == ()


def test_a_run_that_has_not_ended_is_refused_by_name(tmp_path):
    with pytest.raises(NothingToReport, match=r"holds no scores\.json of a finished run"):
        read_shown(tmp_path)


def test_another_json_file_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1}', "utf-8")
    with pytest.raises(NothingToReport, match="is no file of results"):
        read_shown(tmp_path / "x.json")


def test_a_run_without_optional_files_is_still_shown(tmp_path):
    folder = run_folder(tmp_path / "bare")
    for name in ("metrics.jsonl", "data.json", "sources.json", "leaks.json", "recipe.json"):
        (folder / name).unlink()
    shown = read_shown(folder)
    assert shown.records == []
    assert shown.sources == {}
