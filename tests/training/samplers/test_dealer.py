import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.samplers.corpora import corpus_of, lengths_of, parallel
from training.config.batches import Mono
from training.samplers.dealer import Budget, Dealer
from training.samplers.decks import Deck, find_decks
from training.samplers.layout import NothingToDeal, layouts

MONO = Mono(kind="mono", data=("a",))


def dealer_of(corpus, decks=None, budget=None):
    layout = layouts(MONO, corpus.languages)[0][0]
    table = corpus.sets["a"]
    return Dealer(
        corpus,
        table,
        layout,
        decks or find_decks(corpus, table, layout, MONO, least=2).decks[:1],
        exponent=1.0,
        lengths=lengths_of(corpus),
        budget=budget or Budget(rows=8, tokens=10_000),
        feed=0,
        seed=[1],
    )


def test_no_row_comes_again_before_all_came():
    groups = parallel(64, ("en",))
    dealer = dealer_of(corpus_of(a={"query": groups, "passage": groups}))
    dealt = np.concatenate([dealer.deal().groups["query"] for _ in range(3 * 64 // 8)])
    assert (np.bincount(dealt, minlength=64) == 3).all()


def test_rows_that_never_fit_together_are_an_error():
    words = [{"en": "1"}, {"en": "1"}]
    corpus = corpus_of(a={"query": parallel(2, ("en",)), "passage": words})
    decks = [Deck(np.array([0, 1], dtype=np.int32), (0, 0))]
    with pytest.raises(NothingToDeal, match="no 2 rows have all different groups and texts"):
        dealer_of(corpus, decks).deal()


@pytest.mark.parametrize(
    ("longest", "size"), [(10, 32), (20, 32), (23, 24), (100, 6), (640, 2), (9999, 2)]
)
def test_a_longer_text_makes_a_batch_smaller(longest, size):
    assert Budget(rows=32, tokens=640).size(longest) == size


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 12)), min_size=1, max_size=80),
    st.integers(2, 16),
)
def test_a_cut_loses_only_rows_that_fit_nowhere(rows, most):
    lengths = np.array(sorted((length for length, _ in rows), reverse=True))
    labels = np.array([[label, number] for number, (_, label) in enumerate(rows)])
    batches = Budget(rows=most, tokens=200).cut(lengths, labels)
    dealt = np.concatenate([np.empty(0, dtype=np.int64), *batches])
    assert len(set(dealt.tolist())) == len(dealt)
    for batch in batches:
        assert len(set(labels[batch, 0].tolist())) == len(batch)
        assert 2 <= len(batch) <= most
        assert len(batch) == 2 or len(batch) * lengths[batch].max() <= 200
    left = np.setdiff1d(np.arange(len(rows)), dealt)
    assert len(set(labels[left, 0].tolist())) < 2


def test_batches_too_small_for_the_processes_are_passed_over():
    groups = parallel(30, ("en",), words=[0] * 28 + [1, 2])
    corpus = corpus_of(a={"query": parallel(30, ("en",)), "passage": groups})
    plans = [dealer_of(corpus, budget=Budget(8, 10_000, 3)).deal() for _ in range(3)]
    assert [len(plan) for plan in plans] == [3, 3, 3]
