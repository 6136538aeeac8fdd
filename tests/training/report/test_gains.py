import numpy as np
import pytest

from tests.training.report.report_fixtures import results
from training.report.gains import gains_by_language


def test_a_constant_gain_is_found_exactly_with_an_interval_of_no_width():
    rows = gains_by_language(results("a", gain=5.0), results("b"), "xquad")
    assert {row.language for row in rows} == {"en", "de", "zh"}
    for row in rows:
        assert row.mean == pytest.approx(5.0, abs=1e-4)
        assert row.low == pytest.approx(5.0, abs=1e-4)
        assert row.high == pytest.approx(5.0, abs=1e-4)
        assert row.p < 0.05


def test_a_model_gains_nothing_over_itself():
    rows = gains_by_language(results("a"), results("b"), "xquad")
    assert [row.mean for row in rows] == [0.0, 0.0, 0.0]
    assert all(row.p == 1.0 for row in rows)


def test_without_the_values_of_single_queries_nothing_is_compared():
    assert gains_by_language(results("a", npz=False), results("b"), "xquad") == []


def test_the_interval_holds_the_mean_of_a_noisy_gain():
    ours = results("a")
    noise = np.random.default_rng(0)
    for cell in ours.cells:
        if cell.values is not None:
            cell.values[:] += noise.normal(2.0, 4.0, len(cell.values)).astype(np.float32)
    for row in gains_by_language(ours, results("b"), "xquad"):
        assert row.low < row.mean < row.high
        assert row.high - row.low > 0.5
