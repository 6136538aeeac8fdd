import json

import numpy as np
import pytest

from training.results import Cell, Results, ResultsInvalid


@pytest.fixture
def results():
    values, clusters = np.array([100, 50], dtype=np.float32), np.array([0, 0])
    return Results(
        "some/model",
        (
            Cell("xquad", "mono", "en", "en", {"ndcg@10": 80.0, "mrr": 70.0}, 2, values, clusters),
            Cell("xquad", "mono", "de", "de", {"ndcg@10": 60.0, "mrr": 50.0}, 2, values),
            Cell("xquad", "cross", "de", "en", {"ndcg@10": 30.0, "mrr": 20.0}, 2),
        ),
        {"space": "s"},
    )


def test_the_summary_is_the_mean_over_cells_and_names_english_by_itself(results):
    assert results.summary() == {
        "xquad mono ndcg@10": 70.0,
        "xquad en-en ndcg@10": 80.0,
        "xquad mono mrr": 60.0,
        "xquad en-en mrr": 70.0,
        "xquad cross ndcg@10": 30.0,
        "xquad cross mrr": 20.0,
    }


def test_what_is_written_is_read_again(results, tmp_path):
    results.write(tmp_path / "scores.json")
    read = Results.read(tmp_path / "scores.json")
    assert (read.model, read.facts, read.summary()) == (
        results.model,
        results.facts,
        results.summary(),
    )
    assert [cell.name for cell in read.cells] == [
        "xquad/mono/en-en",
        "xquad/mono/de-de",
        "xquad/cross/de-en",
    ]
    assert read.cells[0].values.tolist() == [100, 50]
    assert read.cells[0].clusters.tolist() == [0, 0]
    assert read.cells[1].clusters is None
    assert read.cells[2].values is None


def test_without_the_values_beside_it_the_cells_are_still_read(results, tmp_path):
    results.write(tmp_path / "scores.json")
    (tmp_path / "scores.npz").unlink()
    assert Results.read(tmp_path / "scores.json").cells[0].values is None


def test_the_file_can_be_read_by_others(results, tmp_path):
    results.write(tmp_path / "scores.json")
    content = json.loads((tmp_path / "scores.json").read_text("utf-8"))
    assert content == results.as_json()
    assert content["cells"][2]["metrics"] == {"ndcg@10": 30.0, "mrr": 20.0}


def test_writing_again_replaces_both_files_and_leaves_nothing_else(results, tmp_path):
    results.write(tmp_path / "scores.json")
    Results("other", results.cells[:1]).write(tmp_path / "scores.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.json", "scores.npz"]
    assert Results.read(tmp_path / "scores.json").model == "other"


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"model": "m", "facts": {}, "cells": [{"x": 1}]}']
)
def test_a_file_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(ResultsInvalid, match=r"scores\.json holds no results"):
        Results.read(tmp_path / "scores.json")
