import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.samplers.corpora import corpus_of, lengths_of, parallel, stage_of
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


def test_rows_that_never_fit_together_are_an_error_that_says_what_to_change():
    words = [{"en": "1"}, {"en": "1"}]
    corpus = corpus_of(a={"query": parallel(2, ("en",)), "passage": words})
    decks = [Deck(np.array([0, 1], dtype=np.int32), (0, 0))]
    budget = Budget.of(stage_of({"kind": "mono"}), 1)
    said = (
        r"stage 'toy', 'mono' batches of the data set 'a': rows = 8 asks for up to 8 rows, and at"
        r" least 2, with all different groups and texts, and of its 2 rows no more than 1 go"
        r" together"
    )
    with pytest.raises(NothingToDeal, match=said) as found:
        dealer_of(corpus, decks, budget).deal()
    assert "processes" not in str(found.value)


def test_more_processes_than_rows_that_go_together_are_named():
    words = [{"en": str(word)} for word in (1, 1, 2)]
    corpus = corpus_of(a={"query": parallel(3, ("en",)), "passage": words})
    decks = [Deck(np.array([0, 1, 2], dtype=np.int32), (0, 0))]
    budget = Budget.of(stage_of({"kind": "mono"}, tokens=90), 4)
    said = (
        r"least 4, .* of its 3 rows no more than 2 go together within tokens = 90.*"
        r" raise tokens or start fewer than 4 processes"
    )
    with pytest.raises(NothingToDeal, match=said):
        dealer_of(corpus, decks, budget).deal()


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
def test_a_cut_loses_only_rows_that_fit_nowhere_and_less_than_half_a_batch(rows, most):
    budget = Budget(rows=most, tokens=200)
    lengths = np.array(sorted((length for length, _ in rows), reverse=True))
    labels = np.array([[label, number] for number, (_, label) in enumerate(rows)])
    batches = budget.cut(lengths, labels)
    dealt = np.concatenate([np.empty(0, dtype=np.int64), *batches])
    assert len(set(dealt.tolist())) == len(dealt)
    for batch in batches:
        assert len(set(labels[batch, 0].tolist())) == len(batch)
        assert 2 <= len(batch) <= most
        assert len(batch) == 2 or len(batch) * lengths[batch].max() <= 200
        assert batch is batches[0] or 2 * len(batch) >= budget.size(int(lengths[batch].max()))
    left = np.setdiff1d(np.arange(len(rows)), dealt)
    together = len(set(labels[left, 0].tolist()))
    assert together < 2 or (batches and 2 * together < budget.size(int(lengths[left].max())))


def test_batches_too_small_for_the_processes_are_passed_over():
    groups = parallel(30, ("en",), words=[0] * 28 + [1, 2])
    corpus = corpus_of(a={"query": parallel(30, ("en",)), "passage": groups})
    plans = [dealer_of(corpus, budget=Budget(8, 10_000, 3)).deal() for _ in range(3)]
    assert [len(plan) for plan in plans] == [3, 3, 3]
