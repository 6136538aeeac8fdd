"""The vectors of a text, twice: by torch as it was trained, and by the serving code from the bundle."""

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from service.encoder import Encoder
from service.probes import Probes
from service.types import Matrix, Role
from training.centroids import Projection
from training.export.gate import Embed
from training.model import embed
from training.pretrained import Pretrained

ROWS = 32


def by_torch(model: Pretrained, projections: Sequence[Projection] = ()) -> Embed:
    """The torch model with its prompts, and the projections in NumPy."""
    tokenizer = Tokenizer.from_str(model.pieces.tokenizer.to_str())
    tokenizer.enable_truncation(model.max_tokens)

    def vectors(texts: Sequence[str], role: Role) -> Matrix:
        prompted = [model.prompts[role] + text for text in texts]
        found = embed(model.encoder, tokenizer, prompted, padding_id=model.pieces.pad)
        for projection in projections:
            found = projection(found)
        return found

    return vectors


def by_service(encoder: Encoder) -> Embed:
    """The serving code, in batches of like lengths."""

    def vectors(texts: Sequence[str], role: Role) -> Matrix:
        tokens = encoder.tokenize(texts, role)
        order = sorted(range(len(tokens)), key=lambda text: len(tokens[text]))
        found = np.empty((len(tokens), encoder.dimension), dtype=np.float32)
        for start in range(0, len(order), ROWS):
            chosen = order[start : start + ROWS]
            found[chosen] = encoder.infer([tokens[text] for text in chosen])
        return found

    return vectors


def of_probes(embed_texts: Embed, probes: Probes) -> Matrix:
    """The vector of each probe in its own role."""
    rows = [
        embed_texts([text], role) for text, role in zip(probes.texts, probes.roles, strict=True)
    ]
    return np.concatenate(rows)
