"""What a bundle must show on held-out text of every language before it is sealed."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from service.bundle import Probes
from service.types import Role
from training.config import Quantisation
from training.data import ENGLISH, HeldOut
from training.evaluation import Embed, bitext_ndcg
from training.export.graph import ExportFailed

PARITY = 1e-5
PROBES_PER_LANGUAGE = 4


def check_parity(ours: Embed, served: Embed, held_out: Sequence[HeldOut]) -> None:
    for language, pairs in by_language(held_out).items():
        texts = [pair.foreign for pair in pairs[:32]] + [pair.english for pair in pairs[:8]]
        worst = float(np.abs(ours(texts, "passage") - served(texts, "passage")).max())
        if worst > PARITY:
            raise ExportFailed(
                f"{language}: the graph differs from torch by {worst:.1e} > {PARITY}"
            )


def quantisation_gate(
    full: Embed, small: Embed, held_out: Sequence[HeldOut], limits: Quantisation
) -> list[dict[str, object]]:
    """One row a language: how close int8 stays to fp32, and what it finds with its own index.

    nDCG@10 and not accuracy, because a neighbour that swaps ranks one and two by chance, three of
    512 queries, is half a point of accuracy.
    """
    table: list[dict[str, object]] = []
    for language, pairs in by_language(held_out).items():
        english, foreign = [p.english for p in pairs], [p.foreign for p in pairs]
        exact = full(english, "passage"), full(foreign, "passage")
        coarse = small(english, "passage"), small(foreign, "passage")
        cosines = np.concatenate([(a * b).sum(1) for a, b in zip(exact, coarse, strict=True)])
        found = bitext_ndcg(*exact), bitext_ndcg(*coarse)
        table.append(
            {
                "language": language,
                "texts": len(cosines),
                "mean_cosine": round(float(cosines.mean()), 5),
                "min_cosine": round(float(cosines.min()), 5),
                "fp32_ndcg": found[0],
                "int8_ndcg": found[1],
                "passed": bool(
                    cosines.mean() >= limits.min_mean_cosine
                    and cosines.min() >= limits.min_cosine
                    and found[0] - found[1] <= limits.max_ndcg_drop
                ),
            }
        )
    return table


def probe_texts(held_out: Sequence[HeldOut]) -> Probes:
    texts: list[str] = []
    languages: list[str] = []
    for language, pairs in by_language(held_out).items():
        texts += [pair.foreign for pair in pairs[:PROBES_PER_LANGUAGE]]
        languages += [language] * len(pairs[:PROBES_PER_LANGUAGE])
    english = list(dict.fromkeys(pair.english for pair in held_out))[:PROBES_PER_LANGUAGE]
    texts += english
    languages += [ENGLISH] * len(english)
    roles: list[Role] = ["query" if number % 2 else "passage" for number in range(len(texts))]
    return Probes(texts, roles, languages, {})


def by_language(held_out: Sequence[HeldOut]) -> dict[str, list[HeldOut]]:
    languages: dict[str, list[HeldOut]] = defaultdict(list)
    for pair in held_out:
        languages[pair.language].append(pair)
    return dict(languages)
