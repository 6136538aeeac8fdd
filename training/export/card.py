"""The model card, README.md of a bundle: what it is, from what, how good, and what is not known."""

from collections.abc import Mapping, Sequence
from typing import Any

from training.config.batches import ENGLISH
from training.pretrained import Pretrained

SHOWN = 3
"""Languages that are named as the weakest."""

CARD = """---
license: {licence_tag}
{library_tag}pipeline_tag: sentence-similarity
language: [{tags}]
{base_tag}---

# {name} {version}

A sentence encoder for retrieval across languages: {dimension} dimensions, {layers} layers, {pieces:,} word pieces, at
most {max_tokens} tokens; {pooling}. Queries and passages of all languages share one space.

- Licence of the weights: {licence}.
- {origin}
- {prompts}
- Languages: {languages}.
- What made it, with versions and hashes, is in `bundle.json`.

{use}

## How good

{scores}

{variants}

{removal}## From what

{sources}

{leaks}

## Where it fails, and what is not known

{weakest}It was not tested for bias, nor on texts longer than its limit. A language without a row above was not measured.
"""

LIBRARY = "library_name: sentence-transformers\n"
USE = """```python
SentenceTransformer("path/to/this/folder").encode(["Guten Morgen", "good morning"])
```"""
USE_SMALL = """Its weights are int8, each row of a matrix with its own scale. The service reads them as they are, and
training starts from them. For libraries that want them in full, Sentence Transformers among them:

```
isogloss-train import-model path/to/this/folder --out another/folder --precisions fp32
```"""

POOLING = {
    "mean": "the vector is the mean over the tokens",
    "cls": "the vector is that of the first token",
}


def model_card(declared: Mapping[str, Any], model: Pretrained) -> str:
    """The card of a bundle that is declared so."""
    provenance = declared["provenance"]
    config = model.encoder.backbone.config
    trained = isinstance(provenance["recipe"], Mapping)
    started = trained and bool(provenance["recipe"].get("start"))
    base = provenance["base_model"]
    evaluation = declared.get("evaluation", {})
    full = "fp32" in declared["precisions"]
    return CARD.format(
        licence_tag=provenance["licence"].lower(),
        licence=provenance["licence"],
        library_tag=LIBRARY if full else "",
        use=USE if full else USE_SMALL,
        tags=", ".join(declared["languages"]),
        base_tag=f"base_model: {base.partition(' ')[0]}\n" if started or not trained else "",
        name=declared["name"],
        version=declared["version"],
        dimension=declared["dimension"],
        layers=config.num_hidden_layers,
        pieces=config.vocab_size,
        max_tokens=declared["max_tokens"],
        pooling=POOLING[declared["pooling"]],
        origin=_origin(base, trained=trained, started=started),
        prompts=_prompts(declared["prompts"]),
        languages=", ".join(declared["languages"]) or "not stated",
        scores=_scores(evaluation),
        variants=_variants(evaluation.get("variants", {})),
        removal=_removal(evaluation.get("language_removal")),
        sources=_sources(provenance["data"]),
        leaks=_leaks(evaluation.get("leaks")),
        weakest=_weakest(evaluation.get("cells", {})),
    )


def retitled(card: str, name: str, *, before: str, after: str) -> str:
    """The card of the same bundle in another version."""
    return card.replace(f"\n# {name} {before}\n", f"\n# {name} {after}\n", 1)


def _origin(base: str, *, trained: bool, started: bool) -> str:
    if started:
        return f"Fine-tuned from {base}, whose licence goes on to hold for what it brought."
    if trained:
        return f"Its weights were {base}."
    return f"The weights are those of {base}, unchanged: nothing was trained here."


def _prompts(prompts: Mapping[str, str]) -> str:
    if not any(prompts.values()):
        return "No text goes before a query or a passage."
    said = (f"{text!r} before a {role}" for role, text in prompts.items())
    return f"Prompts, which the service puts there by itself: {', '.join(said)}."


def _scores(evaluation: Mapping[str, Any]) -> str:
    """Averages, and the languages of every benchmark's main task against English."""
    summary = [f"- {name}: {value}" for name, value in evaluation.get("scores", {}).items()]
    rows: dict[str, list[str]] = {}
    for name, cell in evaluation.get("cells", {}).items():
        benchmark, task, pair = name.split("/", 2)
        line = f"{pair} {cell['value']:.0f}"
        rows.setdefault(f"{benchmark} {task}, {cell['metric']}", []).append(line)
    single = [f"{name}: {' · '.join(found)}" for name, found in rows.items()]
    return "\n\n".join(["\n".join(summary), *single]).strip() or "Not measured."


def _weakest(cells: Mapping[str, Any]) -> str:
    """The languages whose texts find their English counterparts least often, by benchmark."""
    scores: dict[str, list[tuple[float, str]]] = {}
    for name, cell in cells.items():
        benchmark, _, pair = name.split("/", 2)
        asked, _, found = pair.rpartition("-")
        if found == ENGLISH != asked:
            scores.setdefault(f"{benchmark} ({cell['metric']})", []).append((cell["value"], asked))
    lines = [
        f"- {name}: {', '.join(f'{asked} {value:.0f}' for value, asked in sorted(own)[:SHOWN])}"
        for name, own in scores.items()
        if len(own) > SHOWN
    ]
    return (
        "Weakest from other languages to English:\n\n" + "\n".join(lines) + "\n\n" if lines else ""
    )


def _leaks(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "Whether evaluation texts are among it was not checked."
    looked = f"{sum(found['checked'].values()):,} texts of {', '.join(found['checked'])}"
    fate = {"drop": "left out", "keep": "trained on all the same"}.get(found["handling"], "refused")
    return f"{looked} were looked for in it; {found['texts']:,} were found and {fate}."


def _variants(variants: Mapping[str, Any]) -> str:
    lines = []
    for precision, found in variants.items():
        table: Sequence[Mapping[str, Any]] = found["languages"]
        judged = [row for row in table if row["ndcg"] is not None]
        drop = max((row["fp32_ndcg"] - row["ndcg"] for row in judged), default=None)
        ndcg = "" if drop is None else f", nDCG@10 at most {max(drop, 0.0):.2f} points lower"
        failed = [row["language"] for row in table if not row["passed"]]
        fate = f"not shipped: it failed in {', '.join(failed)}" if failed else "shipped"
        lines.append(
            f"{precision} against fp32, over {len(table)} languages: mean cosine at least"
            f" {min(row['mean_cosine'] for row in table):.4f}, single cosine at least"
            f" {min(row['min_cosine'] for row in table):.4f}, overlap of the ten nearest at least"
            f" {min(row['top10_overlap'] for row in table):.3f}{ndcg}. {precision} is {fate}."
        )
    return "\n\n".join(lines)


def _removal(report: Mapping[str, Any] | None) -> str:
    if report is None:
        return ""
    lines = [
        f"| {name.replace('_', ' ')} | {row['language_accuracy']} | {row['translation_ndcg']} |"
        for name, row in report.items()
        if isinstance(row, Mapping)
    ]
    return f"""The {report["removed_directions"]} directions in which the languages differ most were removed.
On texts that they were not estimated on:

| vectors | language told by a linear classifier | nDCG@10 of translations |
|---|---|---|
{chr(10).join(lines)}

"""


def _sources(data: Mapping[str, Mapping[str, Any]]) -> str:
    if not data:
        return "The training data of the weights is described by their maker."
    lines = [
        f"| {source} | {facts['rows']:,} | {facts['licence']} |"
        for source, facts in sorted(data.items())
    ]
    return "\n".join(["| source | rows | licence |", "|---|---|---|", *lines])
