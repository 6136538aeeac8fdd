"""What is measured of each retrieval benchmark: its tasks and its measures, the main one first."""

from collections.abc import Mapping

from training.benchmarks.retrieval import Task

RANKING = ("ndcg@10", "recall@1", "recall@10", "mrr")
SENTENCES = ("map", "recall@1", "recall@10", "rank_distance")
KINDS: Mapping[str, tuple[tuple[Task, ...], tuple[str, ...]]] = {
    "xquad": (("mono", "cross"), RANKING),
    "xquad_r": (("mono", "cross", "pool"), SENTENCES),
    "mlqa_r": (("mono", "cross", "pool"), SENTENCES),
    "belebele": (("mono", "cross"), RANKING),
    "miracl": (("mono",), ("ndcg@10", "recall@100")),
    "beir": (("mono", "cross"), ("ndcg@10", "recall@10", "recall@100", "mrr")),
}
"""MIRACL's ids mean another thing in every language, so it has no pairs of languages."""

PUBLISHED: Mapping[str, Mapping[str, int]] = {
    "xquad_r": {
        "ar": 1222, "de": 1276, "el": 1234, "en": 1180, "es": 1215, "hi": 1244, "ru": 1219,
        "th": 852, "tr": 1167, "vi": 1209, "zh": 1196,
    },
    "mlqa_r": {
        "ar": 2545, "de": 2362, "en": 6264, "es": 1787, "hi": 2426, "vi": 2828, "zh": 2322,
    },
}  # fmt: skip
"""Candidates a language in the release of LAReQA."""


def sizes(benchmark: str, candidates: Mapping[str, int]) -> dict[str, object]:
    """How many candidates there are, and where their number is not the published one."""
    known = PUBLISHED.get(benchmark)
    if known is None:
        return {"candidates": dict(candidates)}
    differing = {
        tag: {"here": count, "published": known.get(tag)}
        for tag, count in candidates.items()
        if known.get(tag) != count
    }
    return {"candidates": dict(candidates), "not_as_published": differing}
