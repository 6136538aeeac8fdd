"""From a run to a bundle: nothing lies in its place before the serving code reproduced the model.

The fp32 graph must equal torch on held-out text of every language. The int8 graph is shipped
beside it only if it passes the recipe's gate, whose table goes into the manifest either way.
"""

import datetime as dt
import json
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from tokenizers import Tokenizer

from service.bundle import Bundle, Probes, write_bundle
from service.encoder import Encoder
from service.types import Matrix, Role
from training.checkpoint import MODEL as CHECKPOINT_MODEL
from training.checkpoint import RunFolder
from training.config import Evaluation, Recipe
from training.data import ENGLISH, HeldOut
from training.evaluation import Embed
from training.export.card import model_card
from training.export.gate import by_language, check_parity, probe_texts, quantisation_gate
from training.export.graph import GRAPH, SMALL_GRAPH, ExportFailed, write_graphs
from training.export.sentence_transformers import write_sentence_transformers
from training.model import SentenceEncoder, embed, new_student
from training.vocabulary import PAD, SPECIAL

PADDING = SPECIAL.index(PAD)


def export_run(run: Path, out: Path) -> list[dict[str, object]]:
    """Write the bundle of a run's last checkpoint; returns the table of the int8 gate.

    Raises:
        ExportFailed: no checkpoint, `out` holds something else, or the vectors do not match.
    """
    if out.exists() and not (out / "bundle.json").is_file():
        raise ExportFailed(f"{out} exists and is no bundle: take another --out")
    recipe, student, tokenizer = load_run(run)
    held_out = _held_out(RunFolder(run).held_out)
    staged = out.with_name(out.name + ".partial")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        write_sentence_transformers(staged, student, tokenizer, recipe)
        write_graphs(staged, student, max_tokens=recipe.student.max_tokens)
        gate = _seal(staged, RunFolder(run), recipe, student, tokenizer, held_out)
    except BaseException:
        shutil.rmtree(staged)
        raise
    shutil.rmtree(out, ignore_errors=True)
    staged.rename(out)
    return gate


def load_run(run: Path) -> tuple[Recipe, SentenceEncoder, Tokenizer]:
    """The recipe, the trained student and the tokenizer of a run.

    Raises:
        ExportFailed: the run has no checkpoint.
    """
    folder = RunFolder(run)
    weights = run / "checkpoint" / CHECKPOINT_MODEL
    if not weights.is_file():
        raise ExportFailed(f"{run} holds no checkpoint")
    recipe = Recipe.model_validate_json(folder.recipe.read_text("utf-8"))
    tokenizer = Tokenizer.from_file(str(folder.tokenizer))
    student = new_student(
        recipe.student, vocabulary_size=tokenizer.get_vocab_size(), padding_id=PADDING
    )
    student.load_state_dict(load_file(weights))
    return recipe, student.eval(), tokenizer


def open_model(path: Path, *, precision: str, threads: int) -> tuple[Embed, Evaluation]:
    """Anything that can be measured: a run's torch model, or a bundle through the serving code."""
    if (path / "checkpoint").is_dir():
        recipe, student, tokenizer = load_run(path)
        return _torch_embed(student, tokenizer), recipe.evaluation
    bundle = Bundle.open(path)
    if precision not in bundle.manifest.precisions:
        has = ", ".join(bundle.manifest.precisions)
        raise ExportFailed(f"{path} has no {precision} graph, only {has}")
    encoder = Encoder.open(bundle, precision=precision, threads=threads)
    recipe = Recipe.model_validate(bundle.manifest.provenance.recipe)
    return _served_embed(encoder), recipe.evaluation


def _torch_embed(student: SentenceEncoder, tokenizer: Tokenizer) -> Embed:
    return lambda texts, _role: embed(student, tokenizer, texts, padding_id=PADDING)


def _served_embed(encoder: Encoder, *, rows: int = 32) -> Embed:
    def vectors(texts: Sequence[str], role: Role) -> Matrix:
        tokens = encoder.tokenize(texts, role)
        order = sorted(range(len(tokens)), key=lambda text: len(tokens[text]))
        found = np.empty((len(tokens), encoder.dimension), dtype=np.float32)
        for start in range(0, len(order), rows):
            chosen = order[start : start + rows]
            found[chosen] = encoder.infer([tokens[text] for text in chosen])
        return found

    return vectors


def _held_out(path: Path) -> list[HeldOut]:
    return [HeldOut(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]


def _seal(  # noqa: PLR0917 - one caller
    folder: Path,
    run: RunFolder,
    recipe: Recipe,
    student: SentenceEncoder,
    tokenizer: Tokenizer,
    held_out: Sequence[HeldOut],
) -> list[dict[str, object]]:
    """Check both graphs through the serving code, then write the manifest for good."""
    probes = probe_texts(held_out)
    exact = embed(student, tokenizer, probes.texts, padding_id=PADDING)
    draft = Probes(probes.texts, probes.roles, probes.languages, {"fp32": exact, "int8": exact})
    draft.save(folder / "probes.npz")
    declared = _declaration(run, recipe)
    bundle = write_bundle(folder, **declared)
    encoders = {name: Encoder.open(bundle, precision=name, threads=2) for name in ("fp32", "int8")}
    full, small = (_served_embed(encoder) for encoder in encoders.values())
    check_parity(_torch_embed(student, tokenizer), full, held_out)
    gate = quantisation_gate(full, small, held_out, recipe.quantisation)
    vectors: dict[Any, Matrix] = {"fp32": exact}
    if all(row["passed"] for row in gate):
        vectors["int8"] = small(probes.texts, "passage")
    else:
        (folder / SMALL_GRAPH).unlink()
        declared["precisions"] = {"fp32": GRAPH}
    Probes(probes.texts, probes.roles, probes.languages, vectors).save(folder / "probes.npz")
    scores = json.loads(run.scores.read_text("utf-8")) if run.scores.is_file() else {}
    evaluation = {
        "scores": scores,
        "int8_gate": gate,
        "thresholds": recipe.quantisation.model_dump(),
    }
    (folder / "README.md").write_text(model_card(declared, scores, gate), "utf-8")
    write_bundle(folder, **declared, evaluation=evaluation)
    Bundle.open(folder)
    return gate


def _declaration(run: RunFolder, recipe: Recipe) -> dict[str, Any]:
    held_out = _held_out(run.held_out)
    packages = ("torch", "transformers", "tokenizers", "onnx", "onnxscript", "onnxruntime")
    return {
        "name": recipe.name,
        "version": recipe.version,
        "dimension": recipe.student.hidden,
        "max_tokens": recipe.student.max_tokens,
        "pooling": "mean",
        "languages": sorted({ENGLISH, *by_language(held_out)}),
        "precisions": {"fp32": GRAPH, "int8": SMALL_GRAPH},
        "provenance": {
            "base_model": f"trained from scratch, taught by {recipe.teacher.model}",
            "recipe": recipe.model_dump(mode="json"),
            "data": json.loads(run.sources.read_text("utf-8")),
            "commit": _commit(),
            "licence": recipe.licence,
            "created": dt.datetime.now(dt.UTC).replace(microsecond=0),
            "tools": {name: version(name) for name in packages},
        },
    }


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return "unknown"
    found = subprocess.run(  # noqa: S603 - a fixed command, no input of others
        [git, "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() if found.returncode == 0 else "unknown"
