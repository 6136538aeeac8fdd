import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import AP, RR, R, nDCG

from training import metrics

UNRANKED = 0


def ranks(*rows):
    most = max(map(len, rows))
    return np.array([[*row, *[UNRANKED] * (most - len(row))] for row in rows], dtype=np.int64)


def unit(rng, rows, width=8):
    vectors = rng.standard_normal((rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_average_precision_is_the_hand_computed_one():
    found = metrics.average_precision(ranks([1, 3], [2, 4, 5]))
    assert found == pytest.approx([5 / 6, 8 / 15])
    assert np.round(found, 4).tolist() == [0.8333, 0.5333]


def test_the_order_in_which_the_ranks_are_given_does_not_matter():
    assert metrics.average_precision(ranks([5, 2, 4])) == pytest.approx([8 / 15])


def test_rank_distance_is_the_last_rank_minus_the_first():
    assert metrics.rank_distance(ranks([3, 1], [7])).tolist() == [2.0, 0.0]


def test_reciprocal_rank_is_of_the_first_relevant_one():
    assert metrics.reciprocal_rank(ranks([4, 2], [1])).tolist() == [0.5, 1.0]


def test_the_cut_off_metrics_are_the_hand_computed_ones():
    places = ranks([2], [1, 11])
    found = metrics.cut_off(
        places, (places > 0).astype(np.int64), ["ndcg@10", "recall@1", "recall@10"]
    )
    ideal = 1 + 1 / np.log2(3)
    assert found["ndcg@10"] == pytest.approx([1 / np.log2(3), 1 / ideal])
    assert found["recall@1"].tolist() == [0.0, 0.5]
    assert found["recall@10"].tolist() == [1.0, 0.5]


def test_higher_grades_gain_more():
    places, grades = ranks([1, 2]), np.array([[1, 3]])
    found = metrics.cut_off(places, grades, ["ndcg@10"])["ndcg@10"]
    assert found == pytest.approx([(1 + 3 / np.log2(3)) / (3 + 1 / np.log2(3))])


def test_a_query_without_a_relevant_candidate_is_an_error():
    with pytest.raises(ValueError, match="query 1 has no relevant candidate"):
        metrics.cut_off(np.array([[1], [0]]), np.array([[1], [0]]), ["ndcg@10"])


def test_among_equal_scores_the_later_id_ranks_first():
    candidates = np.array([[1, 0], [1, 0], [1, 0]], dtype=np.float32)
    query = np.array([[1, 0]], dtype=np.float32)
    order = metrics.order_of(["b", "c", "a"])
    found = metrics.ranks_of(query, candidates, np.array([[0, 1, 2]]), order)
    assert found.tolist() == [[2, 1, 3]]


@given(st.integers(0, 10_000), st.integers(1, 6), st.booleans())
def test_ranks_and_metrics_are_those_of_trec_eval_given_the_whole_run(seed, most, few_values):
    rng = np.random.default_rng(seed)
    queries, candidates = unit(rng, 3), unit(rng, 30)
    if few_values:  # then nearly everything is a tie
        queries, candidates = np.sign(queries[:, :2]), np.sign(candidates[:, :2])
    ids = [f"d{number}" for number in rng.permutation(1000)[:30]]
    relevant = np.full((3, most), metrics.NONE)
    for row in range(3):
        count = rng.integers(1, most + 1)
        relevant[row, :count] = rng.choice(30, count, replace=False)
    places = metrics.ranks_of(queries, candidates, relevant, metrics.order_of(ids))
    grades = np.where(relevant == metrics.NONE, 0, 1)
    scores = queries @ candidates.T
    run = {str(q): {ids[d]: float(scores[q, d]) for d in range(30)} for q in range(3)}
    qrels = {str(q): {ids[d]: 1 for d in relevant[q] if d != metrics.NONE} for q in range(3)}
    theirs = {measure: np.zeros(3) for measure in (nDCG @ 10, R @ 10, AP, RR)}
    for value in ir_measures.iter_calc(list(theirs), qrels, run):
        theirs[value.measure][int(value.query_id)] = value.value
    ours = metrics.cut_off(places, grades, ["ndcg@10", "recall@10"])
    assert ours["ndcg@10"] == pytest.approx(theirs[nDCG @ 10])
    assert ours["recall@10"] == pytest.approx(theirs[R @ 10])
    assert metrics.average_precision(places) == pytest.approx(theirs[AP])
    assert metrics.reciprocal_rank(places) == pytest.approx(theirs[RR])


def test_equal_vectors_have_equal_scores_wherever_they_stand():
    rng = np.random.default_rng(0)
    candidates = unit(rng, 97, width=33)
    candidates[96] = candidates[13] = candidates[0]
    for _, scores in metrics.score_blocks(unit(rng, 50, width=33), candidates):
        assert (scores[:, 0] == scores[:, 13]).all()
        assert (scores[:, 0] == scores[:, 96]).all()


def test_a_search_in_blocks_finds_the_same():
    rng = np.random.default_rng(1)
    queries, candidates = unit(rng, 20), unit(rng, 30)
    relevant, order = rng.integers(0, 30, (20, 2)), np.arange(30)
    whole = metrics.ranks_of(queries, candidates, relevant, order)
    assert len(list(metrics.score_blocks(queries, candidates, scores_at_once=90))) == 7
    cut = metrics.ranks_of(queries, candidates, relevant, order, scores_at_once=90)
    assert (cut == whole).all()


def test_the_nearest_come_best_first_and_the_earlier_one_among_equals():
    candidates = np.array([[0.6, 0.8], [1, 0], [0, 1], [1, 0]], dtype=np.float32)
    scores, places = metrics.nearest(np.array([[1, 0]], dtype=np.float32), candidates, 3)
    assert places.tolist() == [[1, 3, 0]]
    assert scores[0].tolist() == pytest.approx([1, 1, 0.6])


def test_there_are_no_more_neighbours_than_candidates():
    _, places = metrics.nearest(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), 4)
    assert places.tolist() == [[0, 1], [1, 0]]


def test_the_margin_is_the_hand_computed_ratio_and_undoes_a_hub():
    # Row 1 of the right side is near to everything; by cosine it is both rows' nearest.
    left = np.array([[1, 0], [0, 1]], dtype=np.float32)
    right = np.array([[0.8, 0.0], [0.9, 0.9]], dtype=np.float32)
    assert metrics.nearest_is_own(left, right, np.arange(2)).tolist() == [False, True]
    scores, places = metrics.margins(left, right, neighbours=2)
    # x0: mean (0.8 + 0.9) / 2 = 0.85; y0: (0.8 + 0) / 2 = 0.4; y1: 0.9; x1: 0.45.
    assert places.tolist() == [0, 1]
    assert scores == pytest.approx([0.8 / ((0.85 + 0.4) / 2), 0.9 / ((0.45 + 0.9) / 2)])


def test_a_margin_without_a_near_neighbour_is_finite():
    one, other = np.array([[1, 0]], dtype=np.float32), np.array([[0, 1]], dtype=np.float32)
    scores, places = metrics.margins(one, other)
    assert (scores.tolist(), places.tolist()) == ([0.0], [0])
    assert metrics.margins(one, -one)[0][0] < 0


def test_means_are_in_percent_but_a_distance_stays_in_ranks():
    values = {"map": np.array([0.5, 1.0]), "rank_distance": np.array([2.0, 4.0])}
    assert metrics.percent(values) == {"map": 75.0, "rank_distance": 3.0}
