import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chisquare

from tests.training.samplers.corpora import (
    LANGUAGES,
    corpora,
    corpus_of,
    lengths_of,
    parallel,
    stage_of,
)
from training.samplers.layout import NothingToDeal
from training.samplers.sampler import Sampler

SENTENCES = {"roles": ["sentence", "sentence"]}
KINDS = (
    {"kind": "mono"},
    {"kind": "cross"},
    {"kind": "cross", "pivot": "de"},
    {"kind": "mixed_rows"},
    {"kind": "hybrid", "alpha": 0.5},
    {"kind": "bridged"},
    {"kind": "mono", "negatives": 1},
    {"kind": "cross", "negatives": 2},
    {"kind": "bridged", "negatives": 1},
)


OWN = {"query", "positive", "cross_query"}


def sampler_of(corpus, *batches, seed=(1, 2), processes=1, lengths=None, **changes):
    return Sampler(
        corpus,
        stage_of(*batches, **changes),
        lengths or lengths_of(corpus),
        seed=list(seed),
        processes=processes,
    )


def deal(sampler, count, start=0):
    return [sampler.plan(step) for step in range(start, start + count)]


def same(one, other):
    return (one.set, one.kind) == (other.set, other.kind) and all(
        one.texts[view].tolist() == other.texts[view].tolist()
        and one.groups[view].tolist() == other.groups[view].tolist()
        for view in one.texts
    )


def languages(corpus, plan, view):
    return corpus.text_language[plan.texts[view]]


def texts_are_from_the_groups(corpus, plan):
    for view, texts in plan.texts.items():
        column = corpus.sets["a"].texts[plan.roles[view]]
        found = column[plan.groups[view], languages(corpus, plan, view)]
        assert found.tolist() == texts.tolist()


def rows_are_distinct(corpus, plan):
    for view in OWN & plan.texts.keys():
        assert len(set(plan.groups[view].tolist())) == len(plan)
        assert len(set(corpus.keys[plan.texts[view]].tolist())) == len(plan)


def languages_are_as_the_kind_says(corpus, plan, pivot):
    anchors, positives = (languages(corpus, plan, view) for view in ("query", "positive"))
    either = (anchors == pivot) | (positives == pivot)
    fits = {
        "mono": len({*anchors.tolist(), *positives.tolist()}) == 1,
        "mixed_rows": (anchors == positives).all(),
        "cross": (anchors != positives).all() and (pivot is None or either.all()),
        "bridged": (anchors == pivot).all() and (positives == pivot).all(),
    }
    assert fits[plan.kind]
    if plan.kind == "bridged":
        assert (languages(corpus, plan, "cross_query") != pivot).all()


def negatives_are_not_positive(corpus, plan):
    slots = [view for view in plan.texts if view.startswith("negative")]
    named = corpus.sets["a"].negatives[plan.groups["query"]]
    for view in slots:
        assert (corpus.keys[plan.texts[view]] != corpus.keys[plan.texts["positive"]]).all()
        assert (languages(corpus, plan, view) == languages(corpus, plan, "positive")).all()
        assert (named == plan.groups[view][:, None]).any(1).all()
        if plan.kind == "bridged":
            cross = f"cross_{view}"
            crossed = languages(corpus, plan, "cross_query")
            assert plan.groups[cross].tolist() == plan.groups[view].tolist()
            assert (languages(corpus, plan, cross) == crossed).all()
            assert (corpus.keys[plan.texts[cross]] != corpus.keys[plan.texts["cross_query"]]).all()
    chosen = np.array([plan.groups[view] for view in slots])
    assert all(len(set(column)) == len(slots) for column in chosen.T.tolist())


@settings(max_examples=80, deadline=None)
@given(corpora(), st.sampled_from(KINDS), st.integers(0, 99), st.sampled_from([1, 2, 3]))
def test_every_batch_of_every_kind_keeps_the_rules(corpus, batches, seed, processes):
    try:
        sampler = sampler_of(corpus, batches, seed=[seed], processes=processes, tokens=200)
        plans = deal(sampler, 12)
    except NothingToDeal:
        event("nothing to deal")  # small corpora may have no such rows; below is when they must
        return
    pivot = batches.get("pivot", "en" if batches["kind"] == "bridged" else None)
    for plan in plans:
        assert 2 <= len(plan) <= 8
        assert len(plan) % processes == 0
        texts_are_from_the_groups(corpus, plan)
        rows_are_distinct(corpus, plan)
        languages_are_as_the_kind_says(
            corpus, plan, None if pivot is None else corpus.languages.index(pivot)
        )
        negatives_are_not_positive(corpus, plan)


def test_single_batches_mix_languages_and_need_no_second_role():
    corpus = corpus_of(a={"query": parallel(40), "targets": {"query": range(40)}})
    batches = {"kind": "single", "role": "query"}
    sampler = sampler_of(corpus, batches, methods=[{"method": "distillation"}])
    for plan in deal(sampler, 30):
        texts_are_from_the_groups(corpus, plan)
        rows_are_distinct(corpus, plan)
        assert plan.texts.keys() == {"query"}
        assert len(set(languages(corpus, plan, "query").tolist())) > 1


def answers(count, codes=LANGUAGES):
    return {"query": parallel(count, codes), "passage": parallel(count, codes)}


def test_the_share_of_mono_batches_is_alpha():
    corpus = corpus_of(a=answers(40))
    kinds = Counter(
        plan.kind for plan in deal(sampler_of(corpus, {"kind": "hybrid", "alpha": 0.3}), 1000)
    )
    low, high = binom.interval(0.999, 1000, 0.3)
    assert low <= kinds["mono"] <= high
    assert kinds["mono"] + kinds["cross"] == 1000


@pytest.mark.parametrize(("alpha", "kind"), [(0.0, "cross"), (1.0, "mono")])
def test_alpha_of_0_and_1_is_pure(alpha, kind):
    sampler = sampler_of(corpus_of(a=answers(20)), {"kind": "hybrid", "alpha": alpha})
    assert {plan.kind for plan in deal(sampler, 50)} == {kind}


def test_groups_in_one_language_are_only_in_mono_batches():
    corpus = corpus_of(
        a={
            role: parallel(20) + [{"en": str(20 + i)} for i in range(20)]
            for role in ("query", "passage")
        }
    )
    seen = {"mono": set(), "cross": set()}
    for plan in deal(sampler_of(corpus, {"kind": "hybrid"}), 200):
        seen[plan.kind] |= set(plan.groups["query"].tolist())
    assert seen["mono"] == set(range(40))
    assert seen["cross"] == set(range(20))


def test_without_an_exponent_languages_of_mono_batches_are_uniform():
    groups = parallel(10) + parallel(60, ("en", "de"), words=range(100, 160))
    corpus = corpus_of(a={"query": groups, "passage": groups})
    sampler = sampler_of(corpus, {"kind": "mono", "language_exponent": 0})
    counts = Counter(int(languages(corpus, plan, "query")[0]) for plan in deal(sampler, 1200))
    assert chisquare([counts[code] for code in range(4)]).pvalue > 0.001


def test_pairs_of_languages_are_uniform_over_what_the_groups_have():
    corpus = corpus_of(a=answers(50))
    counts = Counter()
    for plan in deal(sampler_of(corpus, {"kind": "cross", "language_exponent": 1}), 400):
        counts.update(
            zip(*(languages(corpus, plan, v).tolist() for v in ("query", "positive")), strict=True)
        )
    assert len(counts) == 12
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_the_exponent_lifts_rare_pairs_of_languages():
    groups = parallel(900, ("en", "de")) + parallel(100, ("en", "te"), words=range(900, 1000))
    corpus = corpus_of(a={"sentence": groups})

    def share(exponent):
        batches = {"kind": "cross", "language_exponent": exponent, **SENTENCES}
        found = [plan.groups["query"] for plan in deal(sampler_of(corpus, batches), 500)]
        return float(np.mean(np.concatenate(found) >= 900))

    assert share(1.0) == pytest.approx(0.1, abs=0.02)
    assert share(0.5) == pytest.approx(0.25, abs=0.03)
    assert share(0.0) == pytest.approx(0.5, abs=0.03)


def test_data_sets_and_feeds_are_drawn_by_their_shares():
    corpus = corpus_of(
        a={"query": parallel(90), "passage": parallel(90)},
        b={"query": parallel(10), "passage": parallel(10)},
    )
    sampler = sampler_of(
        corpus,
        {"kind": "mono", "data": ["a", "b"], "set_exponent": 0.5, "share": 3},
        {"kind": "cross", "share": 1},
    )
    plans = deal(sampler, 2000)
    mono = [plan for plan in plans if plan.kind == "mono"]
    assert len(mono) / 2000 == pytest.approx(0.75, abs=0.04)
    assert np.mean([plan.set == "a" for plan in mono]) == pytest.approx(0.75, abs=0.05)
    assert {plan.feed for plan in mono} == {0}


@settings(max_examples=15, deadline=None)
@given(corpora(), st.integers(0, 60), st.integers(0, 9))
def test_a_sampler_that_seeks_goes_on_like_the_one_that_dealt(corpus, dealt, seed):
    batches = [{"kind": "mono"}, {"kind": "mixed_rows", "share": 0.5}]
    try:
        one = sampler_of(corpus, *batches, seed=[seed], tokens=150)
    except NothingToDeal:
        return
    deal(one, dealt)
    other = sampler_of(corpus, *batches, seed=[seed], tokens=150)
    other.seek(json.loads(json.dumps(one.position)))
    assert all(map(same, deal(one, 40, dealt), deal(other, 40, dealt)))
    one.seek(sampler_of(corpus, *batches, seed=[seed], tokens=150).position)
    fresh = sampler_of(corpus, *batches, seed=[seed], tokens=150)
    assert all(map(same, deal(one, 10), deal(fresh, 10)))


def test_the_seed_decides_what_is_dealt():
    corpus = corpus_of(a=answers(60))
    one, same_seed, other = (
        deal(sampler_of(corpus, {"kind": "cross"}, seed=seed), 10) for seed in ([3], [3], [4])
    )
    assert all(map(same, one, same_seed))
    assert not any(map(same, one, other))


def test_the_number_of_processes_changes_no_batch_that_they_can_share():
    corpus = corpus_of(a=answers(64))
    one, two = (deal(sampler_of(corpus, {"kind": "mono"}, processes=count), 30) for count in (1, 2))
    assert all(map(same, one, two))


def test_little_of_a_batch_of_skewed_lengths_is_padding():
    corpus = corpus_of(a={"sentence": parallel(1500)})
    lengths = lengths_of(corpus)
    sampler = sampler_of(
        corpus, {"kind": "cross", **SENTENCES}, rows=32, tokens=640, lengths=lengths
    )
    real, whole = 0, 0
    for plan in deal(sampler, 200):
        for texts in plan.texts.values():
            own = lengths["sentence"][texts]
            assert own.max() * len(plan) <= 640
            real, whole = real + own.sum(), whole + own.max() * len(plan)
    unsorted = lengths["sentence"].mean() / lengths["sentence"].max()
    assert 1 - real / whole < 0.15 < 1 - unsorted


def test_clear_without_enough_negatives_names_the_set_and_how_many_there_are():
    corpus = corpus_of(a=answers(6) | {"negatives": [[1], [0], [3], [2], [], []]})
    with pytest.raises(NothingToDeal, match=r"'a'.* negatives = 2, .*names 4 .*at most 1 a group"):
        sampler_of(corpus, {"kind": "bridged", "negatives": 2})


def test_groups_with_too_few_negatives_are_left_out():
    corpus = corpus_of(a=answers(6) | {"negatives": [[1], [0], [3], [2], [], []]})
    plans = deal(sampler_of(corpus, {"kind": "bridged", "negatives": 1}), 30)
    assert set(np.concatenate([plan.groups["query"] for plan in plans]).tolist()) == {0, 1, 2, 3}


def test_a_set_that_none_of_the_kinds_can_use_is_refused():
    corpus = corpus_of(a=answers(9), b={"sentence": parallel(9)})
    with pytest.raises(NothingToDeal, match=r"data set 'b'.*query"):
        sampler_of(corpus, {"kind": "cross", "data": ["a", "b"]})


def test_hybrid_batches_need_some_group_in_two_languages():
    corpus = corpus_of(a=answers(9, ("en",)))
    with pytest.raises(NothingToDeal, match=r"'cross' batches"):
        sampler_of(corpus, {"kind": "hybrid"})


def test_one_passage_for_all_is_refused_instead_of_dealt_alone():
    groups = {"query": parallel(9), "passage": parallel(9, words=[0] * 9)}
    with pytest.raises(NothingToDeal, match=r"'mono' batches find too few rows"):
        sampler_of(corpus_of(a=groups), {"kind": "mono"})


def test_where_only_distillation_teaches_rows_need_a_teachers_vector():
    targets = {"sentence": [0, 1, 2, 3, -1, -1]}
    corpus = corpus_of(a={"sentence": parallel(6), "targets": targets})
    batches = {"kind": "cross", **SENTENCES}
    sampler = sampler_of(corpus, batches, methods=[{"method": "distillation"}])
    assert sampler.left_out == {"cross a": 24}
    seen = np.concatenate([plan.groups["query"] for plan in deal(sampler, 30)])
    assert set(seen.tolist()) == {0, 1, 2, 3}
    both = sampler_of(corpus, batches, methods=[{"method": "distillation"}, {"method": "info_nce"}])
    seen = np.concatenate([plan.groups["query"] for plan in deal(both, 30)])
    assert set(seen.tolist()) == set(range(6))


def test_a_refusal_tells_how_many_rows_lack_what_the_method_needs():
    corpus = corpus_of(a={"sentence": parallel(6), "targets": {"sentence": [-1] * 6}})
    with pytest.raises(NothingToDeal, match=r"; 72 rows lack the teacher's vector"):
        sampler_of(corpus, {"kind": "cross", **SENTENCES}, methods=[{"method": "distillation"}])


def test_only_rows_whose_words_can_be_used_are_dealt():
    corpus = corpus_of(a={"sentence": parallel(8)})
    stage = stage_of({"kind": "words"}, methods=[{"method": "ml_ctl"}])
    asked = []

    def usable(sources, targets):
        asked.append((corpus.text_language[sources].tolist(), set(corpus.text_language[targets])))
        return sources < 16

    sampler = Sampler(corpus, stage, lengths_of(corpus), seed=[1], usable={0: usable})
    plans = deal(sampler, 40)
    assert all((plan.texts["source"] < 16).all() for plan in plans)
    assert {tuple(pair) for _, pair in asked} == {(1,), (2,), (3,)}
    assert all(set(sources) == {0} for sources, _ in asked)
    assert sampler.left_out == {"words a": 12}


def test_a_joined_sequence_counts_the_pieces_of_both_texts():
    corpus = corpus_of(a={"sentence": parallel(64)})
    stage = stage_of({"kind": "translation"}, methods=[{"method": "weam"}], rows=32, tokens=160)
    lengths = {"sentence": np.full(len(corpus.texts), 10)}
    plan = Sampler(corpus, stage, lengths, seed=[1]).plan(0)
    assert len(plan) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "bridged", "pivot": "xx"}, r"pivot = 'xx': the corpus has only en, de"),
        ({"kind": "mono", "languages": ["xx", "de"]}, r"languages names xx"),
    ],
)
def test_a_language_that_is_not_there_is_refused(changes, message):
    with pytest.raises(NothingToDeal, match=message):
        sampler_of(corpus_of(a=answers(9)), changes)


def test_languages_are_kept_to():
    corpus = corpus_of(a=answers(20))
    plans = deal(sampler_of(corpus, {"kind": "mixed_rows", "languages": ["de", "te"]}), 30)
    found = np.concatenate([languages(corpus, plan, "query") for plan in plans])
    assert set(found.tolist()) == {1, 3}


def test_more_processes_than_rows_are_refused():
    with pytest.raises(NothingToDeal, match=r"rows = 8 cannot be shared by 9"):
        sampler_of(corpus_of(a=answers(40)), {"kind": "mono"}, processes=9)


def test_two_translations_of_one_sentence_never_meet_even_where_no_row_shows_its_english():
    # Groups 0 and 1, 2 and 3, ... have the same English and other words in German and Russian.
    groups = [{"en": str(i // 2), "de": f"{i}", "ru": f"{i}"} for i in range(40)]
    corpus = corpus_of(a={"sentence": groups})
    feed = {"kind": "cross", "roles": ["sentence", "sentence"], "languages": ["de", "ru"]}
    sampler = Sampler(corpus, stage_of(feed, rows=16), lengths_of(corpus), seed=[1])
    for step in range(30):
        meanings = sampler.plan(step).groups["query"] // 2
        assert len(set(meanings.tolist())) == len(meanings)
