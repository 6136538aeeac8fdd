"""An English encoder with new word pieces for other languages: tokenizer, static space, first rows."""

from dataclasses import replace

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from training.config.graft import Graft
from training.corpus import Corpus
from training.journal import progress
from training.pretrained import Pretrained
from training.trainer.graft.pieces import graft_pieces
from training.trainer.graft.rows import new_rows
from training.trainer.graft.skeleton import static_space
from training.vocabulary import Pieces

FEWEST = 3
"""Uses in the English text below which the static vector of a piece is mostly chance."""


def graft(
    start: Pretrained,
    corpus: Corpus,
    targets: Tensor,
    options: Graft,
    *,
    seed: int,
    console: Console,
) -> tuple[Pretrained, int]:
    """The encoder with its new tokenizer and table, and how many rows of it are the start's own.

    The kept rows come first and are the start's, bit for bit; the body is untouched.

    Raises:
        TokenizerUnsupported: the start has no word pieces as BERT has them.
        ValueError: the data sets have no sentence with a teacher's vector.
    """
    console.print(f"learning up to {options.pieces:,} new word pieces (minutes on few cores) …")
    grafted = graft_pieces(corpus, start.pieces.tokenizer, options, seed=seed)
    kept = len(grafted.origins)
    console.print(f"{kept:,} pieces kept of {start.pieces.size:,}, {grafted.added:,} are new")
    pieces = Pieces.of(grafted.tokenizer, start.max_tokens)
    with progress(console, "static space", options.steps) as advance:
        space = static_space(corpus, pieces, targets, options, seed=seed, progress=advance)
    backbone = start.encoder.backbone
    own = backbone.get_input_embeddings().get_parameter("weight").detach()
    rows = own[torch.tensor(grafted.origins)].clone()
    added = new_rows(
        space,
        rows,
        sources=_english(corpus, pieces, kept=kept),
        neighbours=options.neighbours,
        sharpness=options.sharpness,
    )
    backbone.resize_token_embeddings(kept + len(added), mean_resizing=False)
    table = backbone.get_input_embeddings().get_parameter("weight")
    with torch.no_grad():
        table.copy_(torch.cat([rows, added]))
    return replace(start, pieces=pieces, folder=None), kept


def _english(corpus: Corpus, pieces: Pieces, *, kept: int) -> Tensor:
    """The kept pieces that the English text uses, special ones excepted."""
    english = np.flatnonzero(corpus.text_language == 0).tolist()
    counts = np.zeros(pieces.size, dtype=np.int64)
    for ids in pieces.encode([corpus.texts[text] for text in english]):
        counts += np.bincount(ids, minlength=pieces.size)
    counts[list(pieces.special)] = 0
    return torch.from_numpy(np.flatnonzero(counts[:kept] >= FEWEST))
