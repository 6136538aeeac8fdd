"""All benchmarks, one after another: `make bench`, or `make bench DATA=folder` with real sentences."""

import argparse
import subprocess
import sys
from pathlib import Path


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", type=Path, help="folder with parallel/en-xx.tsv.gz and qa/")
    options.add_argument("--bundle", type=Path, default=max(Path("models/starter").iterdir()))
    chosen = options.parse_args()
    commands = [
        ["tests.benchmarks.vectors"],
        ["tests.benchmarks.batcher", "--bundle", str(chosen.bundle)],
        ["tests.e2e.kills", "--kills", "50"],
        ["tests.benchmarks.swap", "--bundle", str(chosen.bundle)],
    ]
    if chosen.data:
        commands.append(["tests.benchmarks.service", "--data", str(chosen.data)])
        commands.append(["tests.benchmarks.training", "--data", str(chosen.data)])
    for command in commands:
        print(f"\n# {' '.join(command)}", flush=True)
        subprocess.run([sys.executable, "-m", *command], check=True)


if __name__ == "__main__":
    main()
