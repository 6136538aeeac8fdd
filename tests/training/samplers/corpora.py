"""Corpora made by hand or drawn by hypothesis, and stages that deal them."""

import numpy as np
from hypothesis import strategies as st

from training.config.recipe import Stage
from training.corpus import NOTHING, Corpus, GroupTable

LANGUAGES = ("en", "de", "ru", "te")
INFO_NCE = {"method": "info_nce"}


def stage_of(*batches, methods=(INFO_NCE,), rows=8, tokens=100_000, **changes) -> Stage:
    return Stage.model_validate(
        {
            "name": "toy",
            "steps": 10,
            "batches": [{"data": ["a"], **one} for one in batches],
            "methods": list(methods),
            "rows": rows,
            "tokens": tokens,
            "learning_rate": 1e-3,
            **changes,
        }
    )


def corpus_of(languages=LANGUAGES, targets=(), **sets) -> Corpus:
    """Sets by name: by role, the words of each group by language; `negatives` are group numbers.

    A text is `ROLE WORD LANGUAGE`, so that equal words of a role and language are one text, and
    its key is its place among the distinct texts.
    """
    texts: dict[str, int] = {}
    text_language: list[int] = []

    def number(role, language, word):
        text = f"{role} {word} {languages[language]}"
        if text not in texts:
            texts[text] = len(texts)
            text_language.append(language)
        return texts[text]

    tables = {}
    for name, roles in sets.items():
        negatives = roles.pop("negatives", None)
        taught = roles.pop("targets", {})
        count = len(next(iter(roles.values())))
        table = {
            role: np.array(
                [
                    [
                        number(role, column, group[code]) if code in group else NOTHING
                        for column, code in enumerate(languages)
                    ]
                    for group in groups
                ],
                dtype=np.int32,
            )
            for role, groups in roles.items()
        }
        most = max(map(len, negatives), default=0) if negatives else 0
        named = np.full((count, most), NOTHING, dtype=np.int32)
        for group, others in enumerate(negatives or []):
            named[group, : len(others)] = others
        tables[name] = GroupTable(
            name,
            [f"{name}{i}" for i in range(count)],
            table,
            named,
            {role: np.array(places, dtype=np.int32) for role, places in taught.items()},
        )
    return Corpus(
        texts=list(texts),
        text_language=np.array(text_language, dtype=np.int64),
        keys=np.arange(len(texts)),
        languages=languages,
        sets=tables,
        targets=targets,
        held_out=[],
        facts={},
    )


def parallel(count, codes=LANGUAGES, words=None):
    """Groups that have the same word in all languages."""
    return [{code: str(words[i] if words else i) for code in codes} for i in range(count)]


def lengths_of(corpus, seed=0, longest=40):
    """Skewed lengths: many short texts, few long ones; translations are about as long."""
    rng = np.random.default_rng(seed)
    by_word: dict[str, int] = {}
    for text in corpus.texts:
        by_word.setdefault(" ".join(text.split()[:-1]), int(min(longest, 3 + rng.gamma(1.0, 9.0))))
    own = np.array([by_word[" ".join(t.split()[:-1])] + int(rng.integers(2)) for t in corpus.texts])
    return dict.fromkeys(("query", "passage", "sentence"), own)


@st.composite
def corpora(draw):
    """Groups with queries and passages in any languages, some passages shared, some negatives."""
    count = draw(st.integers(4, 30))
    words = draw(st.lists(st.integers(0, count), min_size=count, max_size=count))
    some = st.sets(st.sampled_from(LANGUAGES), min_size=1)
    queries = [dict.fromkeys(draw(some), f"q{i}") for i in range(count)]
    passages = [dict.fromkeys(draw(some), f"p{words[i]}") for i in range(count)]
    numbers = st.lists(st.integers(0, count - 1), unique=True, max_size=4)
    negatives = [draw(numbers) for _ in range(count)]
    return corpus_of(a={"query": queries, "passage": passages, "negatives": negatives})
