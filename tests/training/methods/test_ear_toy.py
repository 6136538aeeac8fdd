"""EAR in small: who is trained with synonyms understands texts that are written in them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.word_fixtures import BERT, small_encoder, word_tokenizer
from training.batch import Batch, Facts, Method, View
from training.config.methods import Ear, InfoNce
from training.corpus import Corpus
from training.methods.ear import EarMethod
from training.methods.info_nce import InfoNceMethod
from training.model import SentenceEncoder
from training.objective import Objective, Weighted
from training.perturbation import Perturbation
from training.vocabulary import Pieces

CONCEPTS, ROWS, STEPS, TESTED = 40, 32, 40, 120
EAR = {"method": "ear", "temperature": 0.1, "perturber": {"kind": "synonyms", "path": "synonyms.tsv"}}  # fmt: skip


def pairs(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Queries of three concepts, and passages with these and two others, in plain words."""
    found = []
    for _ in range(count):
        drawn = rng.choice(CONCEPTS, 5, replace=False)
        found.append(tuple(" ".join(f"plain{c}" for c in cs) for cs in (drawn[:3], rng.permutation(drawn))))  # fmt: skip
    return found


def the_pieces() -> Pieces:
    words = [f"{kind}{c}" for kind in ("plain", "other") for c in range(CONCEPTS)]
    return Pieces.of(word_tokenizer(words, special=BERT[:4]), 16)


def as_view(pieces: Pieces, texts: list[str]) -> View:
    ids = torch.from_numpy(np.stack(pieces.encode(texts)).astype(np.int64))
    return View(ids, torch.ones_like(ids))


def trained(seed: int, method: str, folder: Path) -> SentenceEncoder:
    pieces, rng = the_pieces(), np.random.default_rng(seed)
    shape = {"intermediate_size": 32, "max_position_embeddings": 16, "initializer_range": 0.1}
    encoder = small_encoder(pieces.size, layers=1, seed=seed, dropout=0.1, **shape).train()
    dealt = pairs(rng, STEPS * ROWS)
    texts = [text for pair in dealt for text in pair]
    numbers = np.arange(len(texts))
    corpus = Corpus(texts, np.zeros(len(texts), np.int64), numbers, ["en"], {}, [], [], {})
    settings = Ear.model_validate(EAR)
    perturbation = Perturbation(settings, corpus, pieces, encoder, data_folder=folder)
    chosen: Method = (
        EarMethod(settings, encoder, pieces)
        if method == "ear"
        else InfoNceMethod(InfoNce(method="info_nce", temperature=0.1), encoder, pieces)
    )
    objective = Objective(encoder, [Weighted(method, chosen)])
    optimiser = torch.optim.Adam(encoder.parameters(), lr=3e-3)
    for step in range(STEPS):
        rows = np.arange(ROWS) + step * ROWS
        sides = {"query": 2 * rows, "positive": 2 * rows + 1}
        views = {name: as_view(pieces, [texts[t] for t in ts]) for name, ts in sides.items()}
        if method == "ear":
            views |= perturbation.views(views, sides, rng)
        facts = Facts(
            dict.fromkeys(sides, torch.from_numpy(rows)),
            {name: torch.from_numpy(ts) for name, ts in sides.items()},
        )
        optimiser.zero_grad()
        objective.backward(Batch("mono", views, facts))
        optimiser.step()
    return encoder.eval()


def reciprocal_rank(encoder: SentenceEncoder, seed: int, kind: str) -> float:
    """The mean one of the right passage, in plain words, for queries in words of a kind."""
    pieces = the_pieces()
    asked, right = zip(*pairs(np.random.default_rng(seed + 100), TESTED), strict=True)
    with torch.no_grad():
        queries, passages = (
            encoder(view.ids, view.mask)
            for view in (
                as_view(pieces, [query.replace("plain", kind) for query in asked]),
                as_view(pieces, list(right)),
            )
        )
    scores = queries @ passages.T
    ranks = 1 + (scores > scores.diagonal().unsqueeze(1)).sum(1)
    return float((1 / ranks).mean())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ear_finds_what_is_asked_in_synonyms_and_keeps_the_plain_words(
    seed: int, tmp_path: Path
) -> None:
    (tmp_path / "synonyms.tsv").write_text(
        "".join(f"plain{c}\tother{c}\n" for c in range(CONCEPTS)), "utf-8"
    )
    plain, ear = (trained(seed, method, tmp_path) for method in ("info_nce", "ear"))
    scores = {
        (name, kind): reciprocal_rank(encoder, seed, kind)
        for name, encoder in (("plain", plain), ("ear", ear))
        for kind in ("plain", "other")
    }
    assert scores["plain", "other"] < 0.15, scores
    assert scores["ear", "other"] > scores["plain", "other"] + 0.25, scores
    assert scores["ear", "plain"] > scores["plain", "plain"] - 0.1, scores
