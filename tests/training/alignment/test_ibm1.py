import numpy as np
import pytest

from tests.training.alignment.synthetic_pairs import synthetic_pairs
from training.alignment.ibm1 import Ibm1Aligner, _blocks, _Table
from training.config.aligners import Ibm1
from training.metrics import error_rate


def aligned(pairs, **settings):
    return Ibm1Aligner(Ibm1(kind="ibm1", **settings)).align(pairs)


def test_words_that_share_their_sentences_are_linked() -> None:
    # "house" is only ever with "haus", whatever else is there.
    pairs = [
        (["the", "house"], ["das", "haus"]),
        (["the", "book"], ["das", "buch"]),
        (["a", "book"], ["ein", "buch"]),
        (["a", "house"], ["ein", "haus"]),
    ]
    assert aligned(pairs, diagonal=0.0) == [((0, 0), (1, 1))] * 4


def test_reordered_words_are_found_where_they_stand() -> None:
    rng = np.random.default_rng(0)
    chosen = [rng.choice(20, size=4, replace=False).tolist() for _ in range(150)]
    pairs = [([f"s{w}" for w in words], [f"t{w}" for w in words[::-1]]) for words in chosen]
    gold = [((0, 3), (1, 2), (2, 1), (3, 0))] * len(pairs)
    assert error_rate(aligned(pairs, diagonal=1.0), gold) < 0.03


def test_case_and_punctuation_do_not_make_another_word() -> None:
    clean = [(["house", "x"], ["haus", "y"]), (["house", "z"], ["w", "haus"])]
    dressed = [(["House,", "x"], ["(Haus)", "y"]), (["HOUSE", "z"], ["w", "haus!"])]
    assert aligned(dressed) == aligned(clean)


def test_one_step_of_em_is_the_one_done_by_hand() -> None:
    # p0 = 0.1, no diagonal, ("a b", "x") and ("a", "x"): from equal tables, x of the first pair is
    # of a, of b and of null with 0.45, 0.45 and 0.1, of the second with 0.9 of a and 0.1 of null.
    aligner = Ibm1Aligner(Ibm1(kind="ibm1", null_probability=0.1, diagonal=0.0))
    blocks, _ = _blocks([(["a", "b"], ["x"]), (["a"], ["x"])], 100)
    ones = _Table(np.ones(2, np.float32), np.ones(1, np.float32))
    shares = {
        int(block.pairs[0]): [part.ravel().tolist() for part in aligner._posterior(block, ones)]
        for block in blocks
    }
    assert shares[0][0] == pytest.approx([0.45, 0.45])
    assert shares[0][1] == pytest.approx([0.1])
    assert shares[1][0] == pytest.approx([0.9])


def test_an_empty_side_has_no_links() -> None:
    assert aligned([([], ["x"]), (["a"], []), ([], [])]) == [(), (), ()]
    assert aligned([]) == []


def test_links_do_not_depend_on_the_order_of_the_pairs() -> None:
    pairs, _ = synthetic_pairs(200, seed=3)
    assert aligned(pairs[::-1])[::-1] == aligned(pairs)


def test_pairs_in_many_blocks_are_aligned_as_in_one() -> None:
    pairs, _ = synthetic_pairs(200, seed=4)
    assert Ibm1Aligner(Ibm1(kind="ibm1"), block=100).align(pairs) == aligned(pairs)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_error_rate_on_noisy_reordered_pairs_is_small(seed) -> None:
    # A twentieth of the words is rendered wrongly and every tenth word by two, of which an
    # intersection has one at most. Linking by place is the baseline.
    pairs, gold = synthetic_pairs(600, seed=seed)
    by_place = [tuple((i, i) for i in range(min(map(len, pair)))) for pair in pairs]
    rates = {
        "intersection": error_rate(aligned(pairs), gold),
        "grown": error_rate(aligned(pairs, symmetrise="grow_diag_final_and"), gold),
        "by place": error_rate(by_place, gold),
    }
    print(rates)
    assert rates["intersection"] < 0.13
    assert rates["grown"] < 0.10
    assert rates["by place"] > 0.5


def test_intersected_links_are_one_to_one_and_grown_ones_hold_them() -> None:
    pairs, _ = synthetic_pairs(300, seed=5)
    grown = aligned(pairs, symmetrise="grow_diag_final_and")
    for links, more in zip(aligned(pairs), grown, strict=True):
        assert len({i for i, _ in links}) == len({j for _, j in links}) == len(links)
        assert set(links) <= set(more)
    assert sum(map(len, grown)) > sum(map(len, aligned(pairs)))
