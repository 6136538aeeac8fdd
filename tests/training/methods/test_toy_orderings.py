"""What the methods promise of each other, on toy languages, by the real methods and objective.

A concept is a token in each language; a query is four concepts, its passage these and six others.
The encoder is the mean of embeddings and a linear layer, so two languages meet only if a loss
brings them together. Three seeds; the margins are far inside of what was measured.
"""

import copy
from collections.abc import Callable
from statistics import mean

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from training.batch import Batch, Facts, Outputs, View
from training.config.methods import Clear, Hybrid, InfoNce
from training.methods.clear import ClearMethod
from training.methods.hybrid import HybridMethod
from training.methods.info_nce import InfoNceMethod
from training.objective import Objective, Weighted

pytestmark = pytest.mark.slow
CONCEPTS, QUERY, PASSAGE, WIDTH, ROWS = 150, 4, 10, 32, 32
SEEDS = range(3)
ENGLISH, TARGET = 0, 1


class MeanOfEmbeddings(nn.Module):
    def __init__(self, languages: int) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(languages * CONCEPTS, WIDTH)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def encode(self, view: View, wanted) -> Outputs:
        return Outputs(view.mask, pooled=self.linear(self.embeddings(view.ids).mean(1)))

    @torch.no_grad()
    def embed(self, concepts: Tensor, language: int) -> Tensor:
        return F.normalize(self.encode(spoken(concepts, language), ()).pooled, dim=-1)


def spoken(concepts: Tensor, language: int | Tensor) -> View:
    """The concepts in a language, or each row in its own."""
    return View(concepts + CONCEPTS * language, torch.ones_like(concepts))


def draw(groups: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    passages = torch.rand(groups, CONCEPTS, generator=generator).topk(PASSAGE).indices
    return passages[:, :QUERY], passages


def train(encoder, method, batches: Callable[[], dict[str, View]], steps: int) -> None:
    objective = Objective(encoder, [Weighted("toy", method)])
    optimiser = torch.optim.Adam(encoder.parameters(), lr=1e-2)
    rows = torch.arange(ROWS)
    for _ in range(steps):
        views = batches()
        groups = dict.fromkeys(views, rows)
        keys = {name: rows + 1000 * number for number, name in enumerate(views)}
        optimiser.zero_grad()
        objective.backward(Batch("toy", views, Facts(groups, keys)))
        optimiser.step()


def reciprocal_rank(queries: Tensor, passages: Tensor) -> float:
    scores = queries @ passages.T
    ranks = 1 + (scores > scores.diagonal().unsqueeze(1)).sum(1)
    return (1 / ranks).mean().item()


def bridged(seed: int, *wanted: str) -> Callable[[], dict[str, View]]:
    """Fresh rows of English query, English passage and translated query, as far as wanted."""
    generator = torch.Generator().manual_seed(seed)

    def batch() -> dict[str, View]:
        queries, passages = draw(ROWS, generator)
        views = {
            "query": spoken(queries, ENGLISH),
            "positive": spoken(passages, ENGLISH),
            "cross_query": spoken(queries, TARGET),
        }
        # InfoNCE from the target language has the translated query for its query.
        renamed = {"query": views["cross_query"]} if "translated" in wanted else {}
        return {name: views[name] for name in views if name in wanted} | renamed

    return batch


def test_clear_keeps_english_better_than_info_nce_and_crosses_languages_as_well():
    info_nce = InfoNceMethod(InfoNce(method="info_nce"), None, None)
    without = ClearMethod(Clear(method="clear", beta=0.0), None, None)
    clear = ClearMethod(Clear(method="clear"), None, None)
    ways = {
        "info_nce": (info_nce, ("translated", "positive")),
        "clear without kl": (without, ("query", "positive", "cross_query")),
        "clear": (clear, ("query", "positive", "cross_query")),
    }
    english: dict[str, list[float]] = {name: [] for name in ["start", *ways]}
    crossing: dict[str, list[float]] = {name: [] for name in ["start", *ways]}
    for seed in SEEDS:
        torch.manual_seed(seed)
        start = MeanOfEmbeddings(2)
        train(start, info_nce, bridged(seed, "query", "positive"), 300)
        trained = {"start": start}
        for name, (method, wanted) in ways.items():
            trained[name] = copy.deepcopy(start)
            train(trained[name], method, bridged(50 + seed, *wanted), 600)
        queries, passages = draw(300, torch.Generator().manual_seed(1000 + seed))  # unseen
        for name, encoder in trained.items():
            index = encoder.embed(passages, ENGLISH)
            english[name].append(reciprocal_rank(encoder.embed(queries, ENGLISH), index))
            crossing[name].append(reciprocal_rank(encoder.embed(queries, TARGET), index))
    assert mean(english["start"]) > 0.75
    assert mean(crossing["start"]) < 0.05
    assert all(found > 0.3 for found in crossing["clear"])
    for seed in SEEDS:
        assert english["clear"][seed] > english["info_nce"][seed] + 0.03
    assert mean(crossing["clear"]) > mean(crossing["info_nce"])
    # What the divergence is for, and what it costs.
    assert mean(crossing["clear"]) > mean(crossing["clear without kl"]) + 0.02
    assert mean(english["clear"]) < mean(english["clear without kl"]) - 0.02


def mixed(seed: int, texts: tuple[Tensor, Tensor], alpha: float) -> Callable[[], dict[str, View]]:
    """Batches in one language with probability alpha, else rows of two languages each."""
    generator = torch.Generator().manual_seed(seed)

    def batch() -> dict[str, View]:
        rows = torch.randperm(len(texts[0]), generator=generator)[:ROWS]
        of_query = torch.randint(0, 3, (ROWS, 1), generator=generator)
        further = torch.randint(1, 3, (ROWS, 1), generator=generator)
        if torch.rand((), generator=generator) < alpha:
            of_query, further = of_query[:1].expand(ROWS, 1), torch.zeros(ROWS, 1, dtype=torch.long)
        return {
            "query": spoken(texts[0][rows], of_query),
            "positive": spoken(texts[1][rows], (of_query + further) % 3),
        }

    return batch


def scores_of(encoder: MeanOfEmbeddings, texts: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Mono- and cross-lingual reciprocal rank; average precision and rank distance in the pool."""
    count = len(texts[0])
    index = [encoder.embed(texts[1], language) for language in range(3)]
    found: dict[str, list[float]] = {"mono": [], "cross": [], "pool": [], "distance": []}
    for language in range(3):
        queries = encoder.embed(texts[0], language)
        for other in range(3):
            task = "mono" if other == language else "cross"
            found[task].append(reciprocal_rank(queries, index[other]))
        order = (queries @ torch.cat(index).T).argsort(dim=1, descending=True)
        relevant = torch.arange(count).unsqueeze(1) + count * torch.arange(3)
        ranks = (1 + order.argsort(dim=1).gather(1, relevant)).sort(1).values.float()
        found["pool"].append((torch.arange(1, 4) / ranks).mean().item())
        found["distance"].append((ranks[:, -1] - ranks[:, 0]).mean().item())
    return {name: mean(values) for name, values in found.items()}


def test_hybrid_batches_join_what_monolingual_and_cross_lingual_ones_are_good_at():
    method = HybridMethod(Hybrid(method="hybrid"), None, None)
    found: dict[str, list[dict[str, float]]] = {"mono": [], "cross": [], "hybrid": []}
    for seed in SEEDS:
        queries, passages = draw(1700, torch.Generator().manual_seed(seed))
        seen, unseen = (queries[:1500], passages[:1500]), (queries[1500:], passages[1500:])
        for name, alpha in (("mono", 1.0), ("cross", 0.0), ("hybrid", 0.5)):
            torch.manual_seed(seed)
            encoder = MeanOfEmbeddings(3)
            train(encoder, method, mixed(9 + seed, seen, alpha), 800)
            found[name].append(scores_of(encoder, unseen))
    for mono, cross, hybrid in zip(*found.values(), strict=True):
        assert hybrid["cross"] > 3 * mono["cross"]
        assert hybrid["mono"] > cross["mono"] + 0.05
        assert hybrid["distance"] < mono["distance"] / 2
        assert hybrid["pool"] > max(mono["pool"], cross["pool"]) + 0.02
