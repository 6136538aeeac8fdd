"""Results of two small models on three languages, and a run's folder around one of them."""

import json

import numpy as np

from training.results import Cell, Results

LANGUAGES = ("en", "de", "zh")


def results(model, *, gain=0.0, npz=True):
    random = np.random.default_rng(3)
    cells = []
    for queries in LANGUAGES:
        for candidates in LANGUAGES:
            task = "mono" if queries == candidates else "cross"
            values = random.uniform(0, 80, 30).astype(np.float32) + np.float32(gain)
            cells.append(
                Cell(
                    "xquad",
                    task,
                    queries,
                    candidates,
                    {"ndcg@10": float(values.mean())},
                    30,
                    values if npz else None,
                    np.arange(30) // 3 if npz else None,
                )
            )
        metrics = {"map": 20.0 + gain, "rank_distance": 90.0 - gain}
        cells.append(Cell("xquad_r", "pool", queries, "*", metrics, 30))
    return Results(model, tuple(cells))


def run_folder(folder, *, gain=0.0):
    folder.mkdir()
    results(folder.name, gain=gain).write(folder / "scores.json")
    records = [
        {"step": step, "kind": "train", "stage": "align", "loss": 3.0 / step, "learning_rate": 0.1}
        for step in range(1, 40)
    ]
    records.append({"step": 40, "kind": "evaluation", "xquad mono ndcg@10": 41.5})
    lines = [json.dumps(record) for record in records]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    sources = {"tatoeba <b>": {"rows": 1234, "licence": "CC-BY", "sha256": "0"}}
    texts = {"sentence": {"en": 900, "de": 400, "zh": 100}, "query": {"de": 5}}
    data = {"rows": {"read": 1400}, "sets": {"parallel": {"groups": 900, "texts": texts}}}
    (folder / "data.json").write_text(json.dumps(data), "utf-8")
    (folder / "sources.json").write_text(json.dumps(sources), "utf-8")
    leaks = {"texts": 7, "by_benchmark": {"xquad": 7}, "examples": ["a", "b"]}
    (folder / "leaks.json").write_text(json.dumps(leaks), "utf-8")
    (folder / "recipe.json").write_text(json.dumps({"start": {"model": "first"}}), "utf-8")
    return folder
