"""A static space of all pieces: a text is the mean of its pieces, and lies where the teacher puts its English.

It costs minutes, where a body costs hours, and is only asked which English pieces a new piece stands
near.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from training.config.graft import Graft
from training.corpus import NOTHING, Corpus, Ids
from training.losses import cosine_distance, cosines, nce
from training.trainer.row_adam import RowAdam
from training.vocabulary import Pieces, TokenTable

SPREAD = 0.05
"""Of the random numbers that the space begins with."""
DRAW = 5
"""Begins the seeds of what is drawn here."""


def static_space(
    corpus: Corpus,
    pieces: Pieces,
    targets: Tensor,
    options: Graft,
    *,
    seed: int,
    progress: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """A vector of each piece, float32 [pieces, width]; those that no text has are random.

    In each step a batch of texts, of languages by temperature, English among them, is drawn to the
    teacher's vectors and tells its own from the others' (InfoNCE and cosine distance).

    Args:
        corpus: The texts.
        pieces: The tokenizer.
        targets: Teacher vectors by target, [targets, width].
        options: Which data sets, how many steps.
        seed: Of all draws.
        progress: Is told of steps that are done.

    Raises:
        ValueError: the data sets have no sentence with a teacher's vector.
    """
    texts, wanted = _taught(corpus, options)
    if not len(texts):
        raise ValueError(f"graft.data = {list(options.data)}: no sentence has a teacher's vector")
    distinct, places = np.unique(texts, return_inverse=True)
    bare = [
        ids[np.isin(ids, list(pieces.special), invert=True)]
        for ids in pieces.encode([corpus.texts[text] for text in distinct.tolist()])
    ]
    table = TokenTable.of(bare, padding_id=pieces.pad)
    chances = _chances(corpus.text_language[texts], options.row_exponent)
    chances[table.lengths.numpy()[places] == 0] = 0
    bounds = np.cumsum(chances / chances.sum())
    space = torch.randn(
        (pieces.size, targets.shape[1]), generator=torch.Generator().manual_seed(seed)
    )
    space = space.mul_(SPREAD).requires_grad_()
    optimiser = RowAdam([space], lr=options.learning_rate)
    for step in range(options.steps):
        rng = np.random.default_rng([DRAW, seed, step])
        drawn = np.searchsorted(bounds, rng.random(options.rows)).clip(max=len(bounds) - 1)
        rows = _one_of_each(drawn, wanted)
        optimiser.param_groups[0]["lr"] = options.learning_rate * (1 - step / options.steps)
        vectors = _pooled(space, table, places[rows])
        target = targets[torch.from_numpy(wanted[rows])].float()
        loss = nce(cosines(vectors, target) / options.temperature)
        loss = (loss + cosine_distance(vectors, target)).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad(set_to_none=False)
        progress(1)
    return space.detach()


def _taught(corpus: Corpus, options: Graft) -> tuple[Ids, Ids]:
    """Sentences in all languages, and the target of each."""
    texts: list[Ids] = []
    wanted: list[Ids] = []
    for name in options.data:
        table = corpus.sets[name]
        if "sentence" in table.texts:
            group, language = np.nonzero(table.texts["sentence"] != NOTHING)
            target = table.targets["sentence"][group]
            known = target != NOTHING
            texts.append(table.texts["sentence"][group, language][known].astype(np.int64))
            wanted.append(target[known].astype(np.int64))
    nothing = [np.zeros(0, dtype=np.int64)]
    pairs = np.stack([np.concatenate(texts or nothing), np.concatenate(wanted or nothing)])
    pairs = np.unique(pairs, axis=1)  # English stands in as many groups as it has translations
    return pairs[0], pairs[1]


def _chances(languages: Ids, exponent: float) -> NDArray[np.float64]:
    sizes = np.bincount(languages).astype(np.float64)
    shares = np.where(sizes > 0, sizes.clip(min=1) ** (exponent - 1), 0.0)
    chances: NDArray[np.float64] = shares[languages]
    return chances


def _one_of_each(drawn: Ids, wanted: Ids) -> Ids:
    """Rows of different targets: translations of one text are no negatives of each other."""
    _, first = np.unique(wanted[drawn], return_index=True)
    return drawn[first]


def _pooled(space: Tensor, table: TokenTable, texts: Ids) -> Tensor:
    index = torch.from_numpy(texts)
    lengths = table.lengths[index]
    starts = torch.cumsum(lengths, 0) - lengths
    within = torch.arange(int(lengths.sum())) - torch.repeat_interleave(starts, lengths)
    flat = table.flat[torch.repeat_interleave(table.starts[index], lengths) + within]
    return F.embedding_bag(flat.long(), space, starts, mode="mean")
