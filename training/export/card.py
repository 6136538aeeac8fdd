"""The model card, README.md of a bundle: what it is, from what, how good, and what it is not for."""

from collections.abc import Mapping, Sequence
from typing import Any

CARD = """---
license: {licence_tag}
library_name: sentence-transformers
pipeline_tag: sentence-similarity
language: [{tags}]
---

# {name} {version}

A small cross-lingual sentence encoder: {count} languages, {dimension} dimensions, {layers} layers, {pieces:,}
word pieces, at most {max_tokens} tokens. Queries and passages of all languages share one space.

- Licence of the weights: {licence}. Sources for non-commercial use were left out.
- Trained from nothing, on parallel text; its English was taught by `{teacher}`.
- The recipe, the hash of every source's rows and the versions of the tools are in `bundle.json`.

```python
SentenceTransformer("path/to/this/folder").encode(["Guten Morgen", "good morning"])
```

## How good

Retrieval of the translation among 1,007 sentences (NTREX, both directions, %), held out from training:

{ntrex}

Means: {means}.

int8 against fp32, per language on held-out pairs: mean cosine at least {int8_mean:.4f}, single cosine at least
{int8_least:.4f}, nDCG@10 at most {int8_drop:.2f} points lower. int8 is {int8}.

## From what

| source | rows | licence |
|---|---|---|
{sources}

## What it is not for

It is a first encoder, trained in an hour: it aligns sentences and finds passages on a topic, and is weak where a question
shares no words with its answer. Languages with little parallel text (Telugu, Thai) are the weakest.
"""


def model_card(
    declared: Mapping[str, Any], scores: Mapping[str, Any], gate: Sequence[Mapping[str, Any]]
) -> str:
    """The card of a bundle that is declared so; `gate` is the table of the int8 gate."""
    provenance = declared["provenance"]
    recipe = provenance["recipe"]
    ntrex = scores.get("bitext", {}).get("ntrex", {})
    shown = [f"{language} {score:.0f}" for language, score in sorted(ntrex.items())]
    means = [f"{name} {score:.1f}" for name, score in scores.get("summary", {}).items()]
    return CARD.format(
        licence_tag=provenance["licence"].lower(),
        licence=provenance["licence"],
        tags=", ".join(declared["languages"]),
        name=declared["name"],
        version=declared["version"],
        count=len(declared["languages"]),
        dimension=declared["dimension"],
        layers=recipe["student"]["layers"],
        pieces=recipe["vocabulary"]["pieces"],
        max_tokens=declared["max_tokens"],
        teacher=recipe["teacher"]["model"],
        ntrex=" · ".join(shown) or "not measured",
        means=", ".join(means) or "not measured",
        int8_mean=min(row["mean_cosine"] for row in gate),
        int8_least=min(row["min_cosine"] for row in gate),
        int8_drop=max(0.0, *(row["fp32_ndcg"] - row["int8_ndcg"] for row in gate)),
        int8="shipped" if "int8" in declared["precisions"] else "not shipped: it failed the gate",
        sources="\n".join(
            f"| {source} | {facts['rows']:,} | {facts['licence']} |"
            for source, facts in sorted(provenance["data"].items())
        ),
    )
