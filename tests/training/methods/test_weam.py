import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from tests.training.word_fixtures import corpus_of, letter_pieces, small_encoder, texts_of
from training.batch import Batch, Facts, Outputs, View
from training.config.batches import Translation
from training.config.methods import Weam
from training.losses import NO_LABEL, gather_rows
from training.methods.weam import WeamMethod
from training.mlm import embedding_table
from training.objective import Objective, Weighted
from training.word_views import WordViews

NO_FACTS = Facts({}, {})
SIZE = 40
FIGURE = torch.tensor([[0, 1, 2, 8, 7, 5, 6, 4, 3, 9, 10, 11, 12]])
"""The paper's Figure 1, from 0: 4 and 9 exchanged, 5 and 8 too."""


def method_of(encoder, **settings):
    torch.manual_seed(0)
    return WeamMethod(Weam(method="weam", **settings), encoder, None)


def joined(labels, partner, ids=None):
    labels, partner = torch.as_tensor(labels), torch.as_tensor(partner)
    ids = torch.full_like(labels, 7) if ids is None else ids
    return View(ids, torch.ones_like(ids), {"labels": labels, "partner": partner})


def rows_of(method, states, view):
    return method.rows({"joined": Outputs(view.mask, last=states)}, {"joined": view})


def parts_of(method, states, view):
    return method.loss(rows_of(method, states, view), NO_FACTS)


def figure_view():
    labels = torch.full((1, 13), NO_LABEL)
    labels[0, [1, 3, 7]] = torch.tensor([11, 12, 13])
    return joined(labels, FIGURE)


def test_the_figure_reads_the_vectors_of_the_translations() -> None:
    states = torch.arange(1.0, 14.0).view(1, 13, 1)
    order = gather_rows(states, FIGURE)[0, :, 0].int().tolist()
    assert order == [1, 2, 3, 9, 8, 6, 7, 5, 4, 10, 11, 12, 13]
    assert [order[place] for place in (1, 3, 7)] == [2, 9, 5]


def test_both_parts_are_those_done_by_hand() -> None:
    encoder = small_encoder(SIZE, hidden=16)
    method = method_of(encoder, exchange_weight=0.5)
    states = F.one_hot(torch.arange(13), 16).float().unsqueeze(0)
    scores = F.log_softmax(method.head(states, embedding_table(encoder.backbone)), -1)[0]
    own = -(scores[1, 11] + scores[3, 12] + scores[7, 13]) / 3
    exchanged = -(scores[1, 11] + scores[8, 12] + scores[4, 13]) / 3
    parts = parts_of(method, states, figure_view())
    assert parts["own"].item() == pytest.approx(own.item(), abs=1e-6)
    assert parts["exchanged"].item() == pytest.approx(0.5 * exchanged.item(), abs=1e-6)


def test_a_head_that_knows_nothing_loses_the_logarithm_of_the_vocabulary() -> None:
    encoder = small_encoder(SIZE, hidden=16)
    torch.nn.init.zeros_(encoder.backbone.get_input_embeddings().weight)
    parts = parts_of(method_of(encoder), torch.randn(1, 13, 16), figure_view())
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(
        {"own": math.log(SIZE), "exchanged": math.log(SIZE)}
    )


def test_the_gradient_of_the_exchange_reaches_the_partners_and_not_the_own_rows() -> None:
    states = torch.randn(1, 13, 16, requires_grad=True)
    parts = parts_of(method_of(small_encoder(SIZE, hidden=16)), states, figure_view())
    for name, reached in (("exchanged", [1, 4, 8]), ("own", [1, 3, 7])):
        (gradient,) = torch.autograd.grad(parts[name], states, retain_graph=True)
        assert gradient[0].abs().sum(-1).nonzero().flatten().tolist() == reached


@pytest.mark.parametrize(
    "partner", [torch.arange(13)[None], torch.tensor([[0, 1, 10, 3, 4, 5, 6, 7, 8, 9, 2, 11, 12]])]
)
def test_no_links_and_links_of_visible_words_leave_both_parts_equal(partner) -> None:
    view = joined(figure_view().extra["labels"], partner)
    parts = parts_of(method_of(small_encoder(SIZE, hidden=16)), torch.randn(1, 13, 16), view)
    assert parts["own"].item() == parts["exchanged"].item()


def test_the_mean_is_over_the_predicted_positions_of_the_whole_batch() -> None:
    method = method_of(small_encoder(SIZE, hidden=16))
    torch.manual_seed(3)
    labels = torch.full((4, 6), NO_LABEL)
    labels[0, 1:6], labels[2, 3] = 5, 9
    view = joined(labels, torch.arange(6).expand(4, 6).flip(1))
    states = torch.randn(4, 6, 16)
    whole = parts_of(method, states, view)
    halves = [rows_of(method, states[k : k + 2], view.part(slice(k, k + 2))) for k in (0, 2)]
    joint = {name: torch.cat([half[name] for half in halves]) for name in halves[0]}
    for name, part in method.loss(joint, NO_FACTS).items():
        assert part.item() == pytest.approx(whole[name].item(), abs=1e-6)


def test_without_exchange_there_is_one_part_and_nothing_to_predict_is_no_loss() -> None:
    method = method_of(small_encoder(SIZE, hidden=16), exchange_weight=0.0)
    view = joined(torch.full((2, 5), NO_LABEL), torch.arange(5).expand(2, 5))
    parts = parts_of(method, torch.randn(2, 5, 16), view)
    assert {name: part.item() for name, part in parts.items()} == {"own": 0.0}


def test_another_kind_of_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weam: the batch has no joined.*positive, query"):
        method_of(small_encoder(SIZE)).needs(frozenset({"query", "positive"}))


# A toy world: 30 concepts, sentences of five, in the other language in another order.


CONCEPTS = 30


def words(prefix):
    return [f"{prefix}{chr(97 + n // 6)}{chr(97 + n % 6)}" for n in range(CONCEPTS)]


class Toy:
    def __init__(self, seed, **settings):
        self.rng = np.random.default_rng(seed)
        source, target = words("s"), words("t")
        groups, links = [], {}
        for number in range(600):
            chosen = self.rng.choice(CONCEPTS, 5, replace=False)
            order = self.rng.permutation(5)
            english = " ".join(source[k] for k in chosen)
            groups.append((english, " ".join(target[chosen[k]] for k in order)))
            links[number, "en", "xx"] = tuple(sorted((int(order[j]), j) for j in range(5)))
        self.corpus = corpus_of(["en", "xx"], groups, links=links)
        self.pieces = letter_pieces(whole=[*source, *target])
        self.encoder = small_encoder(self.pieces.size, hidden=48, seed=seed)
        method = Weam(method="weam", mask_rate=0.3, **settings)
        feed = Translation(kind="translation", data=("pairs",), aligner={"kind": "given"})
        self.views = WordViews(
            self.corpus, self.pieces, feed, [method], encoder=self.encoder, data_folder=Path()
        )
        self.method = WeamMethod(method, self.encoder, self.pieces)
        self.objective = Objective(self.encoder, [Weighted("weam", self.method)])

    def batch(self, rows):
        chosen = self.rng.choice(600, rows, replace=False)
        source, target = texts_of(self.corpus, 0), texts_of(self.corpus, 1)
        views = self.views.build(source[chosen], target[chosen], self.rng)
        return Batch("translation", views, NO_FACTS)

    def train(self, steps):
        parameters = [*self.encoder.parameters(), *self.method.head.parameters()]
        optimiser = torch.optim.Adam(parameters, lr=5e-3)
        for _ in range(steps):
            optimiser.zero_grad()
            self.objective.backward(self.batch(32))
            optimiser.step()

    def precision(self):
        """Share of the words whose nearest one of the other language is their translation."""
        table = F.normalize(embedding_table(self.encoder.backbone).detach(), dim=-1)
        ids = [
            [self.pieces.tokenizer.token_to_id(word) for word in words(prefix)] for prefix in "st"
        ]
        nearest = (table[ids[0]] @ table[ids[1]].T).argmax(1)
        return (nearest == torch.arange(CONCEPTS)).float().mean().item()


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_chunks_of_any_size_give_the_value_and_gradient_of_the_whole_batch(rows) -> None:
    toy = Toy(0)
    batch = toy.batch(7)
    found = []
    for cache in (None, rows):
        objective = Objective(toy.encoder, toy.objective.methods, cache_rows=cache)
        toy.encoder.zero_grad()
        toy.method.head.zero_grad()
        parts = objective.backward(batch)
        parameters = [*toy.encoder.parameters(), *toy.method.head.parameters()]
        found.append((parts, [p.grad.clone() for p in parameters if p.grad is not None]))
    for name, part in found[0][0].items():
        assert torch.allclose(part, found[1][0][name], atol=1e-6)
    assert len(found[0][1]) == len(found[1][1])
    for plain, cached in zip(found[0][1], found[1][1], strict=True):
        assert torch.allclose(plain, cached, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_words_are_translated_if_vectors_are_exchanged_and_not_otherwise(seed) -> None:
    # Chance is 0.03.
    found = {}
    for weight in (1.0, 0.0):
        toy = Toy(seed, exchange_weight=weight)
        toy.train(180)
        found[weight] = toy.precision()
    assert found[1.0] > 0.8
    assert found[0.0] < 0.3


@pytest.mark.slow
def test_nothing_is_translated_if_no_predicted_word_stays_visible() -> None:
    toy = Toy(0, mask_share=1.0, random_share=0.0)
    toy.train(180)
    assert toy.precision() < 0.3
