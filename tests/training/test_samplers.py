import numpy as np
import pytest
import torch

from training.data import Corpus, Rows
from training.reader import Reader
from training.samplers import BatchSampler, RowSampler
from training.vocabulary import MASK, SPECIAL, token_table


def rows_of(languages) -> Rows:
    ids = np.arange(len(languages))
    return Rows(ids, ids + len(languages), ids, ids, np.array(languages))


def stage_of(recipe, **changes):
    defaults = {"batch_rows": 8, "batch_tokens": 10_000, "language_exponent": 1.0}
    return recipe.stage[0].model_copy(update={**defaults, **changes})


def sampler_of(recipe, languages, lengths=None, **changes):
    lengths = np.full(len(languages), 5) if lengths is None else lengths
    return RowSampler(rows_of(languages), lengths, stage=stage_of(recipe, **changes), seed=[1])


def deal(sampler, rows):
    dealt = []
    while len(dealt) < rows:
        dealt.extend(sampler.deal().tolist())
    return dealt


def test_within_a_language_no_row_comes_again_before_all_came(recipe):
    sampler = sampler_of(recipe, [0] * 64)
    counts = np.bincount(deal(sampler, 128 * 3), minlength=64)
    assert counts.max() - counts.min() == 0


def test_the_exponent_lifts_small_languages(recipe):
    languages = [0] * 900 + [1] * 100
    natural = deal(sampler_of(recipe, languages), 4000)
    even = deal(sampler_of(recipe, languages, language_exponent=0.0), 4000)
    assert np.mean(np.array(natural) >= 900) == pytest.approx(0.1, abs=0.04)
    assert np.mean(np.array(even) >= 900) == pytest.approx(0.5, abs=0.05)


def test_a_batch_keeps_its_token_budget_and_holds_texts_of_like_length(recipe):
    lengths = np.random.default_rng(1).integers(3, 90, 400)
    sampler = sampler_of(recipe, [0] * 400, lengths, batch_rows=32, batch_tokens=300)
    padding = []
    for _ in range(200):
        batch = sampler.deal()
        longest = lengths[batch].max()
        assert 2 <= len(batch) <= 32
        assert len(batch) * longest <= max(300, 2 * longest)
        padding.append(1 - lengths[batch].sum() / (len(batch) * longest))
    assert np.mean(padding) < 0.1


@pytest.mark.parametrize("dealt", [0, 1, 15, 16, 17, 100])
def test_a_sampler_that_seeks_goes_on_like_the_one_that_dealt(recipe, dealt):
    languages, lengths = [0] * 70 + [1] * 11, np.arange(81) % 13 + 3
    one = sampler_of(recipe, languages, lengths)
    for _ in range(dealt):
        one.deal()
    other = sampler_of(recipe, languages, lengths)
    other.seek(one.position)
    for _ in range(40):
        assert one.deal().tolist() == other.deal().tolist()


@pytest.fixture
def corpus(recipe) -> Corpus:
    pairs = rows_of([0] * 20)
    alone = Rows(pairs.left, np.full(20, -1), pairs.left, np.full(20, -1), pairs.language)
    return Corpus(
        texts=[str(number) for number in range(40)],
        text_language=np.zeros(40, dtype=np.int64),
        groups=np.arange(40) // 2,
        taught=np.arange(20),
        mixtures=[],
        languages=["en"],
        rows={"bitext": pairs, "english": alone},
        held_out=[],
        reader=Reader(recipe.data),
    )


def batches(corpus, stage, targets):
    rows = [np.array([1, 7 + text, 2], dtype=np.int32) for text in range(40)]
    table = token_table(rows, padding_id=0)
    return BatchSampler(corpus, table, targets, stage=stage, seed=[1, 2])


def test_a_batch_brings_tokens_groups_and_targets_of_its_rows(corpus, recipe):
    targets = torch.arange(20, dtype=torch.float16).unsqueeze(1)
    sampler = batches(corpus, stage_of(recipe, data={"bitext": 1.0}), targets)
    batch = sampler.batch(0)
    assert batch.right is not None
    assert (batch.right.ids[:, 1] - batch.left.ids[:, 1] == 20).all()
    assert (batch.left.target[:, 0] == batch.left.ids[:, 1] - 7).all()
    assert (batch.left.groups == (batch.left.ids[:, 1] - 7) // 2).all()


def test_a_source_of_one_side_has_no_right_view(corpus, recipe):
    batch = batches(corpus, stage_of(recipe, data={"english": 1.0}), None).batch(0)
    assert batch.right is None
    assert batch.left.target is None


def test_dropout_of_pieces_spares_the_special_ones(corpus, recipe):
    stage = stage_of(recipe, data={"bitext": 1.0}, token_dropout=1.0)
    batch = batches(corpus, stage, None).batch(0)
    assert batch.left.ids[:, 1].eq(SPECIAL.index(MASK)).all()
    assert batch.left.ids[:, [0, 2]].tolist() == [[1, 2]] * len(batch.left.ids)
