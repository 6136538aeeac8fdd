"""The methods of training on real data: every recipe of `training/recipes/compare`, several seeds.

    python -m tests.benchmarks.methods --data FOLDER [--out runs/compare] [--seeds 3] [--jobs 2]

Runs what is missing below `--out`, then prints the tables of `docs/results.md`. A cell is the mean
over seeds with the half width of its 95 % interval (Student's t over seeds); the difference to a
baseline is taken seed by seed. Interrupted, it goes on with the runs that are not complete.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from training.results import Results

RECIPES = Path("training/recipes/compare")
START = "models/starter/1.0.0"
BASELINES = {
    "clear": "info_nce",
    "hybrid": "mono",
    "cross": "mono",
    "mixed_rows": "mono",
    "mono": "info_nce",
    "ear": "info_nce_english",
    "info_nce_english": "info_nce",
    "ml_ctl": "info_nce_bitext",
    "weam": "info_nce_bitext",
    "distillation": "info_nce_bitext",
    "info_nce_bitext": "info_nce",
}
"""Which run a method is held against: InfoNCE on the same rows, as far as there are the same."""
STUDENT_T = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
Measure = Callable[[Results], float]


def main() -> None:
    options = parse_options()
    slugs = options.recipes or sorted(path.stem for path in RECIPES.glob("*.toml"))
    options.out.mkdir(parents=True, exist_ok=True)
    start = options.out / "start.json"
    if not start.is_file():
        evaluate_start(options, start)
    runs = [(slug, seed) for seed in range(1, options.seeds + 1) for slug in slugs]
    with ThreadPoolExecutor(options.jobs) as pool:
        for slug, seed, seconds in pool.map(lambda run: train(options, *run), runs):
            print(f"{slug} {seed}: {seconds}", file=sys.stderr, flush=True)
    found = {
        slug: [
            Results.read(options.out / f"{slug}-{seed}" / "scores.json")
            for seed in range(1, options.seeds + 1)
        ]
        for slug in slugs
    }
    print(tables(Results.read(start), found))


def evaluate_start(options: argparse.Namespace, out: Path) -> None:
    recipe = str(RECIPES / "info_nce.toml")
    arguments = ["evaluate", START, "--data", str(options.data), "--recipe", recipe]
    run([*arguments, "--out", str(out)], out.with_suffix(".log"), options)


def train(options: argparse.Namespace, slug: str, seed: int) -> tuple[str, int, str]:
    folder = options.out / f"{slug}-{seed}"
    if (folder / "scores.json").is_file():
        return slug, seed, "was there"
    arguments = ["train", str(RECIPES / f"{slug}.toml"), "--data", str(options.data)]
    arguments += ["--out", str(folder), "--seed", str(seed), "--no-export", "--resume"]
    arguments += ["--cache", str(options.out / "cache"), "--device", options.device]
    run(arguments, options.out / f"{slug}-{seed}.log", options)
    return slug, seed, "done"


def run(arguments: Sequence[str], log: Path, options: argparse.Namespace) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    command = [sys.executable, "-m", "training", *arguments]
    with log.open("w", encoding="utf-8") as said:
        subprocess.run(command, check=True, stdout=said, stderr=said, env=environment)


def tables(start: Results, found: dict[str, list[Results]]) -> str:
    names = list(measures(start))
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    taken = measures(start)
    lines.append(
        "| untrained start | " + " | ".join(f"{m(start):.1f}" for m in taken.values()) + " |"
    )
    for slug, results in found.items():
        cells = [spread([m(result) for result in results]) for m in taken.values()]
        lines.append(f"| {slug} | " + " | ".join(cells) + " |")
    lines += ["", "| against | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for slug, baseline in BASELINES.items():
        if slug in found and baseline in found:
            cells = [
                spread(
                    [m(a) - m(b) for a, b in zip(found[slug], found[baseline], strict=True)],
                    sign="+",
                )
                for m in taken.values()
            ]
            lines.append(f"| {slug} − {baseline} | " + " | ".join(cells) + " |")
    lines += ["", *by_language(start, found)]
    return "\n".join(lines)


def measures(start: Results) -> dict[str, Measure]:
    """What the tables show, by the names of the summary that the start has."""
    shown = [
        name
        for name in start.summary()
        if name.endswith((" ndcg@10", " map", " rank_distance", " csls_p@1"))
    ]
    return {name: (lambda results, name=name: results.summary()[name]) for name in shown}


def by_language(start: Results, found: dict[str, list[Results]]) -> list[str]:
    """Mean nDCG@10 of XQuAD by language of the question, over the paragraphs of other languages."""
    languages = sorted({cell.queries for cell in start.cells if cell.benchmark == "xquad"})
    lines = ["| xquad cross, questions in | " + " | ".join(languages) + " |"]
    lines.append("|---|" + "---|" * len(languages))
    for name, results in {"untrained start": [start], **found}.items():
        cells = [
            statistics.fmean(
                cell.metrics["ndcg@10"]
                for result in results
                for cell in result.cells
                if cell.benchmark == "xquad" and cell.task == "cross" and cell.queries == language
            )
            for language in languages
        ]
        lines.append(f"| {name} | " + " | ".join(f"{value:.1f}" for value in cells) + " |")
    return lines


def spread(values: Sequence[float], *, sign: str = "") -> str:
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:{sign}.1f}"
    half = STUDENT_T[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:{sign}.1f} ± {half:.1f}"


def parse_options() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--out", type=Path, default=Path("runs/compare"))
    options.add_argument("--seeds", type=int, default=3, choices=range(1, 11))
    options.add_argument("--jobs", type=int, default=2, help="runs at a time")
    options.add_argument("--threads", type=int, default=1, help="of each run")
    options.add_argument("--device", default="auto")
    options.add_argument("--recipes", nargs="*", help="only these; all of them by default")
    return options.parse_args()


if __name__ == "__main__":
    main()
