"""How well an encoder finds what golden queries should find: nDCG@10 of each query, by language pair.

A bundle's golden queries are ranked by brute force among their own passages; the user's are searched
in the generation's indexes. Equal scores count as ranked before the one that is sought: an encoder
that makes one vector of all texts finds nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from service.catalog import Catalog
from service.errors import NotFound
from service.filters import LANGUAGE, Equals
from service.golden import GoldenQuery
from service.types import Matrix
from service.vectors.backend import Match, Query
from service.verification.searches import GoldenSearch
from service.verification.side import PIECES, Side, encode, encode_distinct, run

TOP = 10
ALL = "all"
"""In place of a passage language: passages of every language at once."""
FEWEST = 8
"""Queries below which a mean says nothing: of a pair it is left out, of a language it is not judged."""
LINES_PER_LANGUAGE = 256
"""Golden lines of a bundle that are ranked; enough to see a drop of two or three points."""

Pair: TypeAlias = tuple[str, str]
"""Language of the queries, and of the passages or `ALL`."""


@dataclass(slots=True)
class Scores:
    """nDCG@10 of the queries of a pair; `lines` says which golden line each belongs to.

    `chance` is the nDCG@10 that a random order has on average.
    """

    chance: float = 0.0
    lines: list[int] = field(default_factory=list)
    ndcg: list[float] = field(default_factory=list)
    first: list[bool] = field(default_factory=list)
    """Whether the first hit is relevant."""


Measured: TypeAlias = Mapping[Pair, Scores]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A golden search whose collection and documents are there: the relevant ones by language."""

    line: int
    search: GoldenSearch
    collection: int
    relevant: Mapping[str, frozenset[str]]


def chosen(golden: Sequence[GoldenQuery], *, seed: int) -> list[GoldenQuery]:
    """The lines to rank: in a drawn order, each that has a language of which few were taken yet."""
    taken: defaultdict[str, int] = defaultdict(int)
    kept = []
    for line in np.random.default_rng(seed).permutation(len(golden)).tolist():
        languages = golden[line].query.keys() | golden[line].passage.keys()
        if any(taken[language] < LINES_PER_LANGUAGE for language in languages):
            kept.append(line)
            for language in languages:
                taken[language] += 1
    return [golden[line] for line in sorted(kept)]


async def rank(side: Side, golden: Sequence[GoldenQuery]) -> dict[Pair, Scores]:
    """Every pair of languages that enough lines have: each query among the passages of the other."""
    queries = await encode_distinct(
        side.queries, [text for line in golden for text in line.query.values()], role="query"
    )
    passages = await encode_distinct(
        side.engine, [text for line in golden for text in line.passage.values()], role="passage"
    )
    asked = sorted({language for line in golden for language in line.query})
    answers = sorted({language for line in golden for language in line.passage})
    measured = {}
    for pair in [(one, other) for one in asked for other in answers]:
        scores = await run(_ranked, golden, pair, queries, passages)
        if len(scores.lines) >= FEWEST:
            measured[pair] = scores
    return measured


async def wanted(catalog: Catalog, searches: Sequence[GoldenSearch]) -> list[Wanted]:
    """The searches that can be judged, with the languages of their documents as the catalog has them."""
    return await run(_wanted, catalog, searches)


async def search(side: Side, catalog: Catalog, wanted: Sequence[Wanted]) -> dict[Pair, Scores]:
    """Every search in all passages, and once more in each language that has a relevant document."""
    measured: defaultdict[Pair, Scores] = defaultdict(Scores)
    step = PIECES["query"]
    for start in range(0, len(wanted), step):
        some = wanted[start : start + step]
        texts = await encode(side.queries, [one.search.query for one in some], "query")
        for one, text in zip(some, texts, strict=True):
            within = [ALL, *one.relevant]
            found: Sequence[Sequence[str]] = [[] for _ in within]
            if text.vector is not None:
                queries = [_query(text.vector, language) for language in within]
                matches = await side.index(one.collection).search(queries)
                found = await run(_documents, catalog, matches)
            for language, documents in zip(within, found, strict=True):
                relevant = (
                    frozenset().union(*one.relevant.values())
                    if language == ALL
                    else one.relevant[language]
                )
                scores = measured[one.search.language, language]
                scores.lines.append(one.line)
                scores.ndcg.append(_ndcg(documents, relevant))
                scores.first.append(bool(documents) and documents[0] in relevant)
    return dict(measured)


def discount(rank: int) -> float:
    """What a relevant hit at a rank (1 is best) adds to DCG@10 (Järvelin and Kekäläinen 2002)."""
    return 1.0 / float(np.log2(1.0 + rank)) if rank <= TOP else 0.0


def _ranked(
    golden: Sequence[GoldenQuery],
    pair: Pair,
    queries: Mapping[str, Matrix],
    passages: Mapping[str, Matrix],
) -> Scores:
    asked, answered = pair
    pool: dict[str, int] = {}
    for line in golden:
        if answered in line.passage:
            pool.setdefault(
                line.passage[answered], len(pool)
            )  # of two equal texts, either is right
    rows = [
        (number, line.query[asked], pool[line.passage[answered]])
        for number, line in enumerate(golden)
        if asked in line.query
        and answered in line.passage
        and line.query[asked] != line.passage[answered]
    ]
    if not rows:
        return Scores()
    texts = np.stack([passages[text] for text in pool])
    scores = np.stack([queries[text] for _, text, _ in rows]) @ texts.T
    scores[np.isnan(scores)] = -np.inf
    own = scores[np.arange(len(rows)), [place for *_, place in rows]]
    ranks = np.count_nonzero(scores >= own[:, None], axis=1).tolist()
    return Scores(
        chance=sum(discount(place) for place in range(1, min(TOP, len(pool)) + 1)) / len(pool),
        lines=[number for number, *_ in rows],
        ndcg=[discount(one) for one in ranks],
        first=[one == 1 for one in ranks],
    )


def _wanted(catalog: Catalog, searches: Sequence[GoldenSearch]) -> list[Wanted]:
    found = []
    for line, one in enumerate(searches):
        relevant: defaultdict[str, set[str]] = defaultdict(set)
        try:
            collection = catalog.collections.get(one.collection).id
        except NotFound:
            continue
        for document in sorted(one.relevant):
            try:
                language = catalog.documents.get(collection, document).language
            except NotFound:
                continue
            relevant[language].add(document)
        if relevant:
            known = {language: frozenset(ids) for language, ids in sorted(relevant.items())}
            found.append(Wanted(line, one, collection, known))
    return found


def _query(vector: Matrix, language: str) -> Query:
    where = None if language == ALL else Equals(LANGUAGE, language)
    return Query(vector, limit=TOP, where=where, group_by="document")


def _documents(catalog: Catalog, answers: Iterable[Sequence[Match]]) -> list[list[str]]:
    """The ids of the documents that were found, best first."""
    lists = [[match.id for match in matches] for matches in answers]
    passages = catalog.passages.hydrate([number for numbers in lists for number in numbers])
    return [[passages[one].document for one in numbers if one in passages] for numbers in lists]


def _ndcg(documents: Sequence[str], relevant: frozenset[str]) -> float:
    gain = sum(discount(rank) for rank, one in enumerate(documents, 1) if one in relevant)
    return gain / sum(discount(rank) for rank in range(1, min(TOP, len(relevant)) + 1))
