"""Exact search, ranks, and what follows from ranks: retrieval, language bias, bitext, margin.

The rule of order, everywhere: by score, and among equal scores by document id, both descending,
which is trec_eval's. Equal vectors have equal scores, whatever the matrix product made of them.

*Why ranks and not rankings*: a benchmark that ranks ten thousand candidates for ten thousand
questions needs only the places of the relevant ones; they are counted, and nothing is sorted. The
cut-off metrics are then taken from ir_measures, which gets exactly the places above the cut-off.
Average precision has no cut-off: the library would need every ranking whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import ir_measures
import numpy as np
from numpy.typing import NDArray

from service.types import Matrix
from training.groups import Links

Ranks: TypeAlias = NDArray[np.int64]
NONE = -1
SCORES_AT_ONCE = 1 << 24
"""So many scores are held at a time (64 MiB)."""
MARGIN_NEIGHBOURS = 4
LEAST_MEAN_COSINE = 1e-6
LIBRARY_NAMES = {"ndcg": "nDCG", "recall": "R"}
"""What ir_measures calls them."""


def score_blocks(
    queries: Matrix, candidates: Matrix, *, scores_at_once: int = SCORES_AT_ONCE
) -> Iterator[tuple[slice, Matrix]]:
    """Inner products [rows of the slice, candidates], some queries at a time, in float32."""
    distinct, places = _distinct(candidates)
    step = max(1, scores_at_once // max(1, len(candidates)))
    for start in range(0, len(queries), step):
        scores = queries[start : start + step] @ distinct.T
        yield slice(start, start + step), scores if places is None else scores[:, places]


def order_of(ids: Sequence[str]) -> NDArray[np.int64]:
    """The place of each document id in ascending order; the higher one wins among equal scores."""
    order = np.empty(len(ids), dtype=np.int64)
    order[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    return order


def ranks_of(
    queries: Matrix,
    candidates: Matrix,
    relevant: NDArray[np.int64],
    order: NDArray[np.int64],
    *,
    scores_at_once: int = SCORES_AT_ONCE,
) -> Ranks:
    """The rank (1 is best) of each query's relevant candidates among all candidates.

    `relevant` is [queries, most], numbers of candidates, NONE where a query has no more; the ranks
    have its shape, with 0 there. `order` is `order_of` the candidates' ids.
    """
    ranks = np.zeros(relevant.shape, dtype=np.int64)
    for rows, scores in score_blocks(queries, candidates, scores_at_once=scores_at_once):
        for column in range(relevant.shape[1]):
            wanted = relevant[rows, column]
            own = np.take_along_axis(scores, np.maximum(wanted, 0)[:, None], axis=1)
            above = np.count_nonzero(scores > own, axis=1)
            tied = np.nonzero(np.count_nonzero(scores == own, axis=1) > 1)[0]
            for row in tied:
                same = scores[row] == own[row]
                above[row] += np.count_nonzero(same & (order > order[wanted[row]]))
            ranks[rows, column] = np.where(wanted == NONE, 0, above + 1)
    return ranks


def cut_off(
    ranks: Ranks, grades: NDArray[np.int64], measures: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """`ndcg@K` and `recall@K` of every query, by ir_measures (trec_eval), from 0 to 1.

    `ranks` and `grades` are [queries, most], 0 where a query has no more relevant candidates.

    Raises:
        ValueError: a query without a positive, which libraries would leave out or count as 0.
    """
    if len(ranks) and not (ranks > 0).any(axis=1).all():
        row = int(np.argmin((ranks > 0).any(axis=1)))
        raise ValueError(f"query {row} has no relevant candidate: it cannot be scored")
    names = {ir_measures.parse_measure(_as_in_the_library(name)): name for name in measures}
    depth = max(int(name.partition("@")[2]) for name in measures)
    qrels: dict[str, dict[str, int]] = {}
    run: dict[str, dict[str, float]] = {}
    for row, (places, gains) in enumerate(zip(ranks.tolist(), grades.tolist(), strict=True)):
        known = [(rank, gain) for rank, gain in zip(places, gains, strict=True) if rank > 0]
        qrels[str(row)] = {f"rank{rank}": gain for rank, gain in known}
        run[str(row)] = {f"rank{rank}": -float(rank) for rank in range(1, depth + 1)}
    found = {name: np.zeros(len(ranks)) for name in measures}
    for value in ir_measures.iter_calc(list(names), qrels, run):
        found[names[value.measure]][int(value.query_id)] = value.value
    return found


def average_precision(ranks: Ranks) -> NDArray[np.float64]:
    """Mean over a query's relevant candidates of the precision at their ranks; [queries]."""
    ordered = np.sort(np.where(ranks > 0, ranks, np.iinfo(np.int64).max), axis=1).astype(np.float64)
    places = np.arange(1, ranks.shape[1] + 1)
    there = np.sort(ranks > 0, axis=1)[:, ::-1]
    mean: NDArray[np.float64] = np.where(there, places / ordered, 0.0).sum(axis=1)
    mean /= there.sum(axis=1)
    return mean


def reciprocal_rank(ranks: Ranks) -> NDArray[np.float64]:
    """One over the rank of the first relevant candidate; [queries]."""
    best: NDArray[np.float64] = _first(ranks).astype(np.float64)
    return 1.0 / best


def rank_distance(ranks: Ranks) -> NDArray[np.float64]:
    """The last relevant candidate's rank minus the first one's, in the whole pool; [queries].

    With one relevant candidate a language this is the language bias of Huang et al. 2023
    (arXiv 2305.09025); its least value is the number of relevant candidates minus one.
    """
    distance: NDArray[np.float64] = (ranks.max(axis=1) - _first(ranks)).astype(np.float64)
    return distance


def nearest_is_own(left: Matrix, right: Matrix, order: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether row i of `right` is the nearest of all to row i of `left`."""
    own = np.arange(len(left), dtype=np.int64)[:, None]
    found: NDArray[np.bool_] = ranks_of(left, right, own, order)[:, 0] == 1
    return found


def nearest(queries: Matrix, candidates: Matrix, count: int) -> tuple[Matrix, NDArray[np.int64]]:
    """The `count` best scores of each query and their candidates, best first; fewer if there are."""
    count = min(count, len(candidates))
    scores = np.empty((len(queries), count), dtype=np.float32)
    places = np.empty((len(queries), count), dtype=np.int64)
    for rows, block in score_blocks(queries, candidates):
        # A stable sort of the few that can be meant: among equals, the earlier candidate first.
        least = np.partition(block, -count, axis=1)[:, -count][:, None]
        for row, (values, bound) in enumerate(zip(block, least, strict=True), rows.start):
            meant = np.nonzero(values >= bound)[0]
            best = meant[np.argsort(-values[meant], kind="stable")[:count]]
            places[row], scores[row] = best, values[best]
    return scores, places


def margins(
    left: Matrix, right: Matrix, *, neighbours: int = MARGIN_NEIGHBOURS
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """For each row of `left`, its best ratio margin and the row of `right` that has it.

    cos(x, y) over the mean of both sides' mean cosine to their k nearest, among x's k nearest
    (Artetxe and Schwenk 2019, arXiv 1811.01136, eq. 2 with "ratio"; k = 4 as in LASER's xsim).
    """
    scores, places = nearest(left, right, neighbours)
    there = scores.mean(axis=1)
    back = nearest(right, left, neighbours)[0].mean(axis=1)
    # Where all cosines are near 0 or below it, a ratio means nothing: kept finite, and in order.
    ratio = scores / np.maximum((there[:, None] + back[places]) / 2, LEAST_MEAN_COSINE)
    best = np.argmax(ratio, axis=1)
    rows = np.arange(len(left))
    return ratio[rows, best], places[rows, best]


def error_rate(
    found: Sequence[Links], sure: Sequence[Links], possible: Sequence[Links] | None = None
) -> float:
    """Alignment error rate over all pairs: 0 is perfect, 1 the worst (Och and Ney 2003, eq. 37).

    `possible` holds the sure ones too; they are the only ones if it is not given.

    Raises:
        ValueError: the lists differ in length, or there is no link at all.
    """
    hits_sure = hits_possible = size = sure_size = 0
    for here, certain, more in zip(found, sure, possible or sure, strict=True):
        chosen, gold = set(here), set(certain)
        hits_sure += len(chosen & gold)
        hits_possible += len(chosen & (gold | set(more)))
        size += len(chosen)
        sure_size += len(gold)
    if size + sure_size == 0:
        raise ValueError("the error rate is not defined: no links were found and none are sure")
    return 1.0 - (hits_sure + hits_possible) / (size + sure_size)


def percent(values: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Means in percent, but for `rank_distance`, which stays in ranks; to four decimals."""
    return {
        name: round(float(each.mean()) * (1.0 if name == "rank_distance" else 100.0), 4)
        for name, each in values.items()
    }


def _first(ranks: Ranks) -> Ranks:
    first: Ranks = np.where(ranks > 0, ranks, np.iinfo(np.int64).max).min(axis=1)
    return first


def _as_in_the_library(name: str) -> str:
    kind, _, depth = name.partition("@")
    return f"{LIBRARY_NAMES[kind]}@{depth}"


def _distinct(vectors: Matrix) -> tuple[Matrix, NDArray[np.int64] | None]:
    """The different rows, and for each row which of them it is; None where all differ."""
    seen: dict[bytes, int] = {}
    places = np.array(
        [seen.setdefault(row.tobytes(), len(seen)) for row in vectors], dtype=np.int64
    )
    if len(seen) == len(vectors):
        return vectors, None
    first = np.full(len(seen), len(vectors), dtype=np.int64)
    np.minimum.at(first, places, np.arange(len(vectors)))
    return vectors[first], places
