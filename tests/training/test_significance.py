from itertools import product

import numpy as np
import pytest

from training.results import Cell, Results
from training.significance import Incomparable, as_json, compare, holm, paired


def results(model, **cells):
    return Results(
        model,
        tuple(
            Cell(
                "b",
                "mono",
                name,
                name,
                {"map": float(np.mean(values))},
                len(values),
                np.float32(values),
                clusters,
            )
            for name, (values, clusters) in cells.items()
        ),
    )


def test_holm_gives_the_textbook_values():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_p_is_the_share_of_sign_flips_that_are_as_extreme():
    differences, clusters = np.array([3.0, 1.0, 2.0, -1.0]), np.arange(4)
    flips = [abs(np.dot(signs, differences)) for signs in product((1, -1), repeat=4)]
    exact = np.mean([flip >= 5.0 for flip in flips])
    _, _, p = paired(differences, clusters, seed=0)
    assert p == pytest.approx(exact, abs=0.015)


def test_the_interval_is_that_of_the_clusters():
    # Two clusters, whose means are 0 and 4: a draw gives 0, 2 or 4.
    low, high, p = paired(np.array([0.0, 0.0, 4.0, 4.0]), np.array([7, 7, 9, 9]), seed=0)
    assert (low, high) == (0.0, 4.0)
    assert p == 1.0


def test_clusters_make_p_larger():
    rng = np.random.default_rng(0)
    differences = np.repeat(rng.normal(0.5, 1.0, 20), 10)
    alone = paired(differences, np.arange(200), seed=1)[2]
    together = paired(differences, np.repeat(np.arange(20), 10), seed=1)[2]
    assert together > 5 * alone


def test_the_same_seed_gives_the_same_numbers():
    differences, clusters = np.random.default_rng(0).normal(size=30), np.arange(30)
    assert paired(differences, clusters, seed=3) == paired(differences, clusters, seed=3)
    assert paired(differences, clusters, seed=3) != paired(differences, clusters, seed=4)


def test_a_model_does_not_differ_from_itself():
    one = results("a", en=(np.arange(10.0), None))
    (found,) = compare(one, one)
    assert (found.difference, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
    assert not found.significant


def test_the_difference_is_this_model_minus_the_other_and_corrected_over_the_languages():
    rng = np.random.default_rng(0)
    base = rng.uniform(0, 100, 40)
    ours = results("a", de=(base + 5, np.arange(40)), en=(base, np.arange(40)))
    theirs = results("b", de=(base, np.arange(40)), en=(base, np.arange(40)), fr=(base, None))
    german, english = compare(ours, theirs)
    assert german.difference == pytest.approx(5, abs=1e-4)
    assert german.significant
    assert german.p_holm == pytest.approx(2 * german.p)
    assert english.p == english.p_holm == 1.0
    assert as_json([german])[0]["queries"] == "de"


def test_what_cannot_be_compared_is_refused():
    one = results("a", en=(np.arange(4.0), None))
    with pytest.raises(Incomparable, match="no cell in common"):
        compare(one, results("b", de=(np.arange(4.0), None)))
    with pytest.raises(Incomparable, match="4 queries here, 5 there"):
        compare(one, results("b", en=(np.arange(5.0), None)))
    with pytest.raises(Incomparable, match="other clusters"):
        compare(one, results("b", en=(np.arange(4.0), np.zeros(4, dtype=np.int64))))
    other = Results("b", (Cell("b", "mono", "en", "en", {"mrr": 1.0}, 4, np.float32([1] * 4)),))
    with pytest.raises(Incomparable, match="main metric is map"):
        compare(one, other)


def test_cells_without_single_values_are_left_out():
    mining = Results("a", (Cell("bucc", "mining", "de", "en", {"f1": 1.0}, 4),))
    with pytest.raises(Incomparable, match="npz"):
        compare(mining, mining)
