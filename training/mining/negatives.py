"""Hard negatives: passages that the current model ranks high for a query that they do not answer.

The passages of a data set are embedded once into a faiss index, the queries asked in chunks, so
that memory grows with the passages and never with queries times passages. What is known to be no
negative is left out: the passages of the query's own group, those of groups that ask the same
question in any language, and all copies of these texts.

*Why* ranks 10 to 100: the very first are often answers that nobody labelled, those beyond are told
apart already. *Why* at most 95 % of the positive's score: among what is left it takes out the false
negatives that a rank cannot see, best of the rules that NV-Retriever compares (Moreira et al. 2024,
arXiv 2407.15831, sec. 4). *Why* an inverted file and no graph for large sets: it is built the
same way each time, whatever the number of threads.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import faiss
import numpy as np

from service.types import Matrix, Role
from training.config.batches import TextRole
from training.corpus import NOTHING, Corpus, GroupTable, Ids
from training.groups import PROMPTED
from training.mining.pool import Pool
from training.mining.report import Example, Mined, Negative
from training.mining.settings import IndexKind, Mining

Embed: TypeAlias = Callable[[Sequence[str], Role], Matrix]
EXACT_UP_TO = 500_000
"""Passages above which `auto` no longer compares each query with each of them."""
AT_ONCE = 2048
"""Texts that are embedded, and queries that are asked, at a time."""
EXAMPLES = 8


@dataclass(frozen=True, slots=True)
class Ranking:
    """What was found for one query: passages that are no positives, best first."""

    passages: Ids
    cosines: Matrix
    positive: float
    """The cosine of the query's own passage."""

    @property
    def at_first_rank(self) -> bool:
        """Whether no other passage beats the positive."""
        return not len(self.cosines) or bool(self.cosines[0] <= self.positive)

    def within(self, mining: Mining) -> Iterator[tuple[int, int, float]]:
        """Rank, passage and cosine of those that may be negatives."""
        ceiling = min(
            self.positive - mining.margin, self.positive - (1 - mining.share) * abs(self.positive)
        )
        for rank in range(mining.first, min(mining.last, len(self.passages)) + 1):
            cosine = float(self.cosines[rank - 1])
            if cosine <= ceiling:
                yield rank, int(self.passages[rank - 1]), cosine


def mine(
    corpus: Corpus,
    table: GroupTable,
    embed: Embed,
    mining: Mining,
    *,
    progress: Callable[[int], None] = lambda _: None,
) -> Mined:
    """Hard negatives of the groups of a data set; deterministic, ties go to the earlier group.

    `progress` is told how many texts were embedded.

    Raises:
        MiningImpossible: no group has both texts, or none has a query in one of the languages.
    """
    pool = Pool.of(corpus, table, mining)
    asked = pool.asked()
    passages = [corpus.texts[text] for text in pool.passages]
    vectors = _embedded(passages, embed, mining.roles[1], progress)
    index = build_index(vectors, mining.index)
    mined = Mined(passages=len(passages))
    shown = set(asked[np.linspace(0, len(asked) - 1, EXAMPLES).astype(int)].tolist())
    for start in range(0, len(asked), AT_ONCE):
        groups = asked[start : start + AT_ONCE]
        texts = [corpus.texts[text] for text in pool.queries[groups]]
        queries = _embedded(texts, embed, mining.roles[0], progress)
        own = np.einsum("ij,ij->i", queries, vectors[pool.place[groups]])
        rankings = _rankings(
            index, queries, own, [pool.positives(g) for g in groups], last=mining.last
        )
        for group, text, ranking in zip(groups.tolist(), texts, rankings, strict=True):
            found, enough = choose(pool, group, ranking, mining)
            mined.add(
                group,
                found,
                positive=ranking.positive,
                at_first_rank=ranking.at_first_rank,
                enough=enough,
            )
            if group in shown:
                ranked = [(n.rank, n.cosine, passages[pool.place[n.group]]) for n in found]
                positive = passages[pool.place[group]]
                mined.examples.append(Example(text, positive, ranking.positive, ranked))
    return mined


def choose(pool: Pool, group: int, ranking: Ranking, mining: Mining) -> tuple[list[Negative], bool]:
    """The hardest negatives of a group within the bounds, and whether there are enough."""
    spoken = pool.spoken[group]
    missing = np.full(max(len(spoken), 1), mining.count)
    if len(spoken):
        missing *= spoken
    found: list[Negative] = []
    for rank, passage, cosine in ranking.within(mining):
        groups = pool.of_passage[passage]
        says = pool.spoken[groups] if len(spoken) else np.ones((len(groups), 1), dtype=np.bool_)
        # One group a passage, the one that serves most languages: a row must not meet it twice.
        useful = (says & (missing > 0)).sum(1)
        best = int(useful.argmax())
        if useful[best]:
            found.append(Negative(int(groups[best]), rank, cosine))
            missing = np.maximum(missing - says[best], 0)
        if not missing.any():
            break
    return found, not missing.any()


def build_index(vectors: Matrix, kind: IndexKind = "auto") -> faiss.Index:
    """An index of unit vectors by inner product: exact, or an inverted file for large sets.

    The inverted file has about 4 sqrt(n) lists, of which an eighth is searched.
    """
    width = vectors.shape[1]
    exact = faiss.IndexFlatIP(width)
    if kind == "exact" or (kind == "auto" and len(vectors) <= EXACT_UP_TO):
        exact.add(vectors)
        return exact
    # faiss wants 39 vectors a list to learn their centres from.
    lists = max(1, min(int(4 * len(vectors) ** 0.5), len(vectors) // 39))
    index = faiss.IndexIVFFlat(exact, width, lists, faiss.METRIC_INNER_PRODUCT)
    index.nprobe = max(1, lists // 8)
    index.train(vectors)
    index.add(vectors)
    return index


def _rankings(
    index: faiss.Index, queries: Matrix, own: Matrix, positives: Sequence[list[int]], *, last: int
) -> Iterator[Ranking]:
    """Search deep enough for `last` passages beside the positives; equal ones in their order."""
    depth = min(index.ntotal, last + max(map(len, positives)))
    cosines, found = index.search(queries, depth)
    order = np.lexsort((found, -cosines), axis=1)
    for row, known in enumerate(positives):
        passages = found[row][order[row]]
        kept = (passages != NOTHING) & ~np.isin(passages, known)
        yield Ranking(passages[kept], cosines[row][order[row]][kept], float(own[row]))


def _embedded(
    texts: Sequence[str], embed: Embed, role: TextRole, progress: Callable[[int], None]
) -> Matrix:
    parts = []
    for start in range(0, len(texts), AT_ONCE):
        part = texts[start : start + AT_ONCE]
        parts.append(embed(part, PROMPTED[role]))
        progress(len(part))
    return np.ascontiguousarray(np.concatenate(parts), dtype=np.float32)
