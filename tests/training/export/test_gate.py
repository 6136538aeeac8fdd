"""What a bundle must show before it is sealed."""

import numpy as np
import pytest

from training.centroids import unit
from training.config.recipe import Variants
from training.corpus import HeldOut
from training.export.gate import (
    check_parity,
    texts_by_language,
    translation_ndcg,
    variant_gate,
)
from training.export.graph import ExportFailed

COUNT = 40
PAIRS = [HeldOut("de", f"e{k}", f"f{k}") for k in range(COUNT)]
SPACE = unit(np.random.default_rng(0).normal(size=(COUNT, 16)).astype(np.float32))


def embed(texts, _role):
    return SPACE[[int(text[1:]) for text in texts]].copy()


def noisy(texts, role):
    return unit(embed(texts, role) + np.array([0.5] + [0.0] * 15, dtype=np.float32))


def confused(texts, role):
    """German texts get each other's vectors."""
    return embed([f"x{(int(t[1:]) + (t[0] == 'f')) % COUNT}" for t in texts], role)


LOOSE = Variants(min_mean_cosine=-1, min_cosine=-1, min_top10_overlap=0, max_ndcg_drop=100)


def test_an_equal_graph_passes():
    german, english = variant_gate(embed, embed, PAIRS, Variants())
    assert (german["language"], english["language"]) == ("de", "en")
    assert german["passed"]
    assert english["passed"]
    assert german["mean_cosine"] == german["top10_overlap"] == 1.0
    assert german["fp32_ndcg"] == german["ndcg"] == 100.0
    assert english["ndcg"] is None
    assert german["texts"] == COUNT


@pytest.mark.parametrize(
    ("coarse", "limits"),
    [
        (noisy, {"min_mean_cosine": 0.99}),
        (noisy, {"min_cosine": 0.97}),
        (confused, {"min_top10_overlap": 0.85}),
        (confused, {"max_ndcg_drop": 0.5}),
    ],
)
def test_each_limit_alone_fails_a_graph(coarse, limits):
    loose = LOOSE.model_copy(update=limits)
    assert not variant_gate(embed, coarse, PAIRS, loose)[0]["passed"]
    assert variant_gate(embed, coarse, PAIRS, LOOSE)[0]["passed"]


def test_a_drop_that_may_be_chance_passes_and_is_shown():
    def two_swapped(texts, role):
        return embed([{"f0": "x1", "f1": "x0"}.get(text, text) for text in texts], role)

    row = variant_gate(embed, two_swapped, PAIRS, LOOSE.model_copy(update={"max_ndcg_drop": 0.5}))[
        0
    ]
    assert row["fp32_ndcg"] - row["ndcg"] > 0.5
    assert row["p"] >= 0.05
    assert row["passed"]


def test_a_vector_that_is_no_number_fails():
    def broken(texts, role):
        return embed(texts, role) * np.float32("nan")

    assert not variant_gate(embed, broken, PAIRS, LOOSE)[0]["passed"]
    with pytest.raises(ExportFailed, match="de: the graph differs"):
        check_parity(embed, broken, PAIRS)


def test_few_pairs_are_not_judged_by_what_they_find():
    row = variant_gate(embed, confused, PAIRS[:31], LOOSE)[0]
    assert row["ndcg"] is None
    assert row["passed"]


def test_a_language_is_judged_on_all_of_its_own_pairs_whatever_came_before_it():
    others = [HeldOut("aa", f"g{k}", f"h{k}") for k in range(COUNT)] * 8
    crowd = [HeldOut("bb", f"n{k}", f"m{k}") for k in range(300)]

    def modulo(texts, role):
        return embed([f"x{int(text[1:]) % COUNT}" for text in texts], role)

    rows = variant_gate(modulo, modulo, [*others, *crowd, *PAIRS], LOOSE)
    judged = {row["language"]: row["fp32_ndcg"] for row in rows}
    assert judged["de"] == judged["aa"] == 100.0
    assert judged["bb"] is not None


def test_a_graph_that_differs_from_torch_names_the_language():
    assert check_parity(embed, embed, PAIRS) == 0.0
    with pytest.raises(ExportFailed, match="de: the graph differs from torch by"):
        check_parity(embed, noisy, PAIRS)


def test_a_graph_that_differs_for_queries_alone_is_found():
    def second(texts, role):
        return embed(texts, role) if role == "passage" else noisy(texts, role)

    with pytest.raises(ExportFailed, match="de: the graph differs"):
        check_parity(embed, second, PAIRS)


def test_ndcg_discounts_the_rank_of_the_translation():
    queries = np.eye(2, 3, dtype=np.float32)
    candidates = np.array([[0.5, 0, 0], [0.9, 0.1, 0]], dtype=np.float32)
    # The first query's own ranks second, the second query's ranks first.
    assert translation_ndcg(queries, candidates) == pytest.approx(50 * (1 / np.log2(3) + 1))
    beyond = np.concatenate([np.full((1, 1), 0.1), np.full((10, 1), 0.9)]).astype(np.float32)
    ones = np.ones((11, 1), dtype=np.float32)
    assert translation_ndcg(ones, beyond) == pytest.approx(100 * 10 / 11)


def test_texts_are_once_in_each_language_and_english_comes_last():
    pairs = [
        HeldOut("de", "a", "x"),
        HeldOut("de", "a", "x"),
        HeldOut("en", "", "own"),
        HeldOut("zh", "", "y"),
    ]
    assert texts_by_language(pairs) == {"de": ["x"], "zh": ["y"], "en": ["own", "a"]}
    assert list(texts_by_language(pairs)) == ["de", "zh", "en"]
    many = [HeldOut("de", f"e{k}", f"f{k}") for k in range(300)]
    assert {len(texts) for texts in texts_by_language(many).values()} == {256}
