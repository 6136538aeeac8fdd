"""Real processes: several that train one run together, and one that is killed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from training.checkpoint import CheckpointMismatch
from training.config.recipe import Recipe
from training.trainer.run import Options, run_recipe

ROOT = Path(__file__).parents[3]
LAUNCHED = ["-m", "tests.training.trainer.launched"]


@pytest.fixture(scope="module")
def steady(recipe) -> Recipe:
    """All that is drawn at random is drawn for the whole batch: no dropout within the encoder."""
    content = json.loads(recipe.model_dump_json())
    content["student"]["dropout"] = 0.0
    content["loop"] |= {"log_every": 1, "trackers": []}
    for stage in content["stage"]:
        stage |= {"learning_rate": 1e-3, "steps": 4, "warmup_steps": 0}
    # Batches of 8 rows always: two processes leave out the odd row of a batch.
    content["stage"][0] |= {
        "rows": 8,
        "tokens": 4096,
        "batches": content["stage"][0]["batches"][::2],
    }
    content["stage"][1]["batches"] = [{"kind": "bridged", "data": ["questions"]}]
    content["stage"][1]["methods"].append({"method": "clear"})
    return Recipe.model_validate(content)


def command(recipe: Recipe, data: Path, out: Path, *flags: str) -> list[str]:
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.with_suffix(".json")
    path.write_text(recipe.model_dump_json(), "utf-8")
    return [*LAUNCHED, str(path), str(data), str(out), *flags]


def run(recipe: Recipe, data: Path, out: Path, *, resume: bool = False) -> None:
    options = Options(data=data, out=out, cache=out / "cache", device="cpu", resume=resume)
    run_recipe(recipe, options, Console(quiet=True))


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def call(arguments: list[str]) -> str:
    found = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stderr


def launched(arguments: list[str], *, processes: int) -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--multi_gpu", "--num_processes", processes, "--num_machines", 1]
    options += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", port]
    return call(["-m", "accelerate.commands.launch", *map(str, options), *arguments])


def losses(out: Path) -> list[dict[str, float]]:
    lines = (out / "metrics.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [row for row in rows if row["kind"] == "train"]


def weights(out: Path) -> dict[str, np.ndarray]:
    return load_file(out / "checkpoint" / "model.safetensors")


@pytest.mark.slow
def test_two_processes_train_what_one_does_with_the_whole_batch(steady, data, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    run(steady, data, one)
    two.mkdir()
    shutil.copytree(one / "encoder", two / "encoder")
    said = launched(command(steady, data, two), processes=2)
    assert said.count("texts in 5 languages") == 1  # only the main process speaks
    assert "processes: 2" in said
    expected, found = losses(one), losses(two)
    assert [row["step"] for row in found] == list(range(1, 9))
    assert {"clear_forward", "info_nce_nce", "distillation_cosine"} <= set().union(*expected)
    for left, right in zip(expected, found, strict=True):
        for name in left.keys() - {"tokens_per_second", "stage", "kind"}:
            assert right[name] == pytest.approx(left[name], rel=1e-5, abs=1e-6), name
    begun = load_file(one / "encoder" / "model.safetensors")
    left, right = weights(one), weights(two)
    moved = 0.0
    for name, value in left.items():
        if name.endswith("key.bias"):
            continue  # its gradient is nought but for rounding, which Adam makes as large as any
        moved = max(moved, float(np.abs(value - begun[name.removeprefix("backbone.")]).max()))
        assert np.abs(value - right[name]).max() < 1e-6, name
    assert moved > 1e-3


@pytest.mark.slow
def test_two_processes_resume_where_they_were_and_one_alone_does_not(recipe, data, tmp_path):
    """With dropout, every process has random numbers of its own."""
    short = recipe.scaled(0.5)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    launched(command(short, data, whole), processes=2)
    shutil.copytree(whole, parts, ignore=shutil.ignore_patterns("checkpoint", "metrics.jsonl"))
    script = command(short, data, parts, "--resume")
    launched([*script, "--stop-after=3"], processes=2)
    with pytest.raises(CheckpointMismatch, match="made by 2 processes and there are 1"):
        run(short, data, parts, resume=True)
    said = launched(script, processes=2)
    assert "resumed after step 3" in said
    left, right = weights(whole), weights(parts)
    assert all(np.array_equal(left[name], right[name]) for name in left)


@pytest.mark.slow
def test_a_run_that_is_killed_ends_with_the_same_weights(recipe, data, tmp_path):
    loop = recipe.loop.model_copy(update={"log_every": 1, "checkpoint_every": 3})
    often = recipe.model_copy(update={"loop": loop})
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(often, data, whole)
    killed.mkdir()
    shutil.copytree(whole / "encoder", killed / "encoder")
    script = command(often, data, killed, "--resume")
    for step in (2, 5, 11):  # before the first checkpoint, and in the middle of both stages
        kill_after(step, script, killed)
        assert (killed / "checkpoint" / "progress.json").is_file() == (step > 2)
    said = call(script)
    assert "resumed after step" in said
    left, right = weights(whole), weights(killed)
    assert all(np.array_equal(left[name], right[name]) for name in left)
    kept = [(row["step"], row["loss"]) for row in losses(killed)]
    assert kept == [(row["step"], row["loss"]) for row in losses(whole)]


def kill_after(step: int, arguments: list[str], out: Path) -> None:
    """SIGKILL as soon as the run has done a step."""
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL
    )
    metrics = out / "metrics.jsonl"
    while process.poll() is None:
        if metrics.is_file() and any(
            f'"step": {step},' in line for line in metrics.read_text("utf-8").splitlines()
        ):
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
