"""What a bundle must show on text of every language before it is sealed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.types import Matrix, Role
from training.config.batches import ENGLISH
from training.config.recipe import Variants
from training.corpus import HeldOut
from training.export.graph import ExportFailed
from training.significance import CONFIDENCE, paired

Embed: TypeAlias = Callable[[Sequence[str], Role], Matrix]
Row: TypeAlias = dict[str, Any]

PARITY = 1e-5
PARITY_TEXTS = 32
TOP = 10
PAIRS_PER_LANGUAGE = 256
FEWEST_PAIRS = 32
"""With fewer pairs one rank that moves is several points of nDCG."""


def check_parity(ours: Embed, served: Embed, pairs: Sequence[HeldOut]) -> float:
    """The largest difference between torch and the serving code in any component of any vector.

    Raises:
        ExportFailed: it is above `PARITY`; names the language.
    """
    largest = 0.0
    for language, texts in texts_by_language(pairs).items():
        roles: tuple[Role, Role] = ("query", "passage")
        for role in roles:
            chosen = texts[:PARITY_TEXTS]
            worst = float(np.abs(ours(chosen, role) - served(chosen, role)).max())
            # NaN must not pass, so the comparison asks for what is right.
            if not worst <= PARITY:
                raise ExportFailed(
                    f"{language}: the graph differs from torch by {worst:.1e} > {PARITY}"
                )
            largest = max(largest, worst)
    return largest


def variant_gate(
    full: Embed, coarse: Embed, pairs: Sequence[HeldOut], limits: Variants
) -> list[Row]:
    """A row a language: how close a smaller graph stays to fp32, and what it finds by itself.

    Cosines are between the two vectors of a text; the overlap is between the ten nearest of all
    texts in both spaces; nDCG@10 is of the translation among the language's own pairs, both ways. It
    is nDCG and not accuracy, because a neighbour that swaps ranks one and two by chance, three of
    512 queries, is half a point of accuracy. A drop beyond the limit counts if it is more than chance
    (a paired randomisation over the pairs, `p` below 0.05): of two dozen languages whose nDCG is
    known to 0.4 points, one falls by half a point though nothing is worse. With fewer than 32 pairs
    all three are None, and not judged.
    """
    texts = texts_by_language(pairs)
    exact, rough = ({k: e(t, "passage") for k, t in texts.items()} for e in (full, coarse))
    pools = np.concatenate(list(exact.values())), np.concatenate(list(rough.values()))
    judged = {language: _translations(language, pairs, own) for language, own in texts.items()}
    table: list[Row] = []
    start = 0
    for language, chosen in texts.items():
        a, b = exact[language], rough[language]
        own = np.arange(start, start + len(chosen))
        start += len(chosen)
        cosines = (a * b).sum(axis=1)
        nearest = _nearest(a, pools[0], own), _nearest(b, pools[1], own)
        before, after = (
            _found(judged[language], foreign, embed) for foreign, embed in ((a, full), (b, coarse))
        )
        known = len(before) >= FEWEST_PAIRS
        _, _, p = paired(before - after, np.arange(len(before)), seed=0) if known else (0, 0, None)
        row: Row = {
            "language": language,
            "texts": len(chosen),
            "mean_cosine": round(float(cosines.mean()), 5),
            "min_cosine": round(float(cosines.min()), 5),
            "top10_overlap": round(_overlap(*nearest), 4),
            "fp32_ndcg": round(float(before.mean()), 3) if known else None,
            "ndcg": round(float(after.mean()), 3) if known else None,
            "p": None if p is None else round(p, 4),
        }
        table.append({**row, "passed": _passes(row, limits)})
    return table


def texts_by_language(pairs: Sequence[HeldOut]) -> dict[str, list[str]]:
    """The texts that are looked at in each language, English last; each once."""
    found: dict[str, dict[str, None]] = {}
    for pair in pairs:
        texts = found.setdefault(pair.language, {})
        if len(texts) < PAIRS_PER_LANGUAGE:
            texts[pair.foreign] = None
    english = found.pop(ENGLISH, {})
    for pair in pairs:
        if pair.english and len(english) < PAIRS_PER_LANGUAGE:
            english[pair.english] = None
    if english:
        found[ENGLISH] = english
    return {language: list(texts) for language, texts in found.items()}


def translation_ndcg(queries: Matrix, candidates: Matrix) -> float:
    """nDCG@10 in percent where row i of both belongs together; equal scores rank behind it."""
    return float(_gains(queries, candidates).mean())


def _gains(queries: Matrix, candidates: Matrix) -> NDArray[np.float64]:
    """Of each query by itself."""
    scores = queries @ candidates.T
    ranks = 1 + (scores > np.diagonal(scores)[:, None]).sum(axis=1)
    return np.where(ranks <= TOP, 100 / np.log2(1.0 + ranks), 0.0)


def _translations(language: str, pairs: Sequence[HeldOut], texts: Sequence[str]) -> dict[str, int]:
    """By English text the row of its translation among the language's texts, each row once."""
    rows = {text: row for row, text in enumerate(texts)}
    found: dict[str, int] = {}
    for pair in pairs:
        if pair.language == language != ENGLISH and pair.english and pair.foreign in rows:
            found.setdefault(pair.english, rows.pop(pair.foreign))
    return found


def _found(translations: Mapping[str, int], foreign: Matrix, embed: Embed) -> NDArray[np.float64]:
    """nDCG@10 of each pair, the mean of both ways; of none where there are too few."""
    if len(translations) < FEWEST_PAIRS:
        return np.zeros(0)
    a, b = foreign[list(translations.values())], embed(list(translations), "passage")
    return (_gains(a, b) + _gains(b, a)) / 2


def _nearest(queries: Matrix, pool: Matrix, own: np.typing.NDArray[np.int64]) -> list[set[int]]:
    scores = queries @ pool.T
    scores[np.arange(len(queries)), own] = -np.inf
    count = min(TOP, len(pool) - 1)
    return [set(row[:count].tolist()) for row in np.argsort(-scores, axis=1, kind="stable")]


def _overlap(left: Sequence[set[int]], right: Sequence[set[int]]) -> float:
    shares = [len(a & b) / max(1, len(a)) for a, b in zip(left, right, strict=True)]
    return float(np.mean(shares))


def _passes(row: Row, limits: Variants) -> bool:
    before, after, p = row["fp32_ndcg"], row["ndcg"], row["p"]
    return bool(
        row["mean_cosine"] >= limits.min_mean_cosine
        and row["min_cosine"] >= limits.min_cosine
        and row["top10_overlap"] >= limits.min_top10_overlap
        and (before is None or before - after <= limits.max_ndcg_drop or p >= 1 - CONFIDENCE)
    )
