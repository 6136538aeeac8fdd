"""What is published of a folder: its own bundle, that of its run, or a new one."""

import json
import os

import pytest

from service.bundle import Bundle
from service.errors import BundleInvalid
from tests.tiny_bundle import build_tiny_bundle
from tests.training.export.test_bundle import RECIPE, held_out
from tests.training.pretrained_fixtures import backbone, saved_run, spelling_model
from training.checkpoint import Progress, RunFolder
from training.config.recipe import Recipe
from training.export.graph import ExportFailed
from training.export.publication import published, with_version
from training.model import SentenceEncoder


@pytest.fixture
def run(tmp_path):
    """A run of one step that is over, without a bundle."""
    recipe = Recipe.model_validate(RECIPE).model_dump(mode="json")
    encoder = SentenceEncoder(backbone(seed=1))
    folder = saved_run(tmp_path / "run", spelling_model(), recipe, last=encoder)
    RunFolder(folder).checkpoint.save(encoder, None, Progress("by hand", step=1))
    lines = [
        json.dumps({"language": p.language, "english": p.english, "foreign": p.foreign})
        for p in held_out()
    ]
    (folder / "held_out.jsonl").write_text("\n".join(lines), "utf-8")
    source = {"licence": "CC0-1.0", "rows": 3, "sha256": "0" * 64}
    (folder / "sources.json").write_text(json.dumps({"templates": source}), "utf-8")
    return folder


def unexpected(sealed):
    raise AssertionError(f"{sealed} was exported")


def age(path, seconds):
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


@pytest.mark.slow
def test_a_run_is_exported_once_and_again_when_its_weights_are_newer(run):
    exported = []
    first = published(run, exported=exported.append)
    assert [sealed.bundle for sealed in exported] == [first]
    assert first.folder == run / "bundle"
    golden = first.golden()
    assert len({one.query["en"] for one in golden}) == len(golden) >= 32
    assert {language for one in golden for language in one.passage} == {"en", "de", "zh"}
    assert published(run, exported=unexpected).manifest == first.manifest
    age(run / "bundle" / "model.onnx", 3600)
    again = published(run, exported=exported.append)
    assert len(exported) == 2
    assert again.manifest.space == first.manifest.space
    assert again.golden() == golden


def test_a_bundle_of_a_run_that_is_newer_than_its_weights_is_taken(run):
    bundle = build_tiny_bundle(run / "bundle")
    age(RunFolder(run).checkpoint.weights, 60)
    assert published(run, exported=unexpected) == bundle
    assert published(run / "bundle", exported=unexpected) == bundle


def test_a_run_that_is_not_over_is_refused(run):
    checkpoint = RunFolder(run).checkpoint
    encoder = SentenceEncoder(backbone(seed=1))
    checkpoint.save(encoder, None, Progress("by hand", step=0))
    with pytest.raises(ExportFailed, match="0 of 1 steps are done: go on with --resume"):
        published(run, exported=unexpected)
    checkpoint.save(encoder, None, Progress("by hand", step=0, ended="nothing got better"))
    build_tiny_bundle(run / "bundle")
    age(checkpoint.weights, 60)
    assert published(run, exported=unexpected).manifest.name == "tiny"


def test_a_folder_without_weights_or_recipe_is_refused(tmp_path, run):
    with pytest.raises(ExportFailed, match="neither a bundle nor a run"):
        published(tmp_path, exported=unexpected)
    (run / "checkpoint" / "progress.json").unlink()
    with pytest.raises(ExportFailed, match="is no finished run"):
        published(run, exported=unexpected)


def test_a_copy_in_another_version_differs_in_nothing_else(tmp_path):
    bundle = build_tiny_bundle(tmp_path / "tiny", dimensions=[8, 16], precisions=("fp32", "int8"))
    copy = with_version(bundle, "2", _new(tmp_path / "copy"))
    assert copy == Bundle.open(tmp_path / "copy")
    stated = bundle.manifest.model_dump() | {"version": "2"}
    assert copy.manifest.model_dump() == stated
    with pytest.raises(BundleInvalid, match="version"):
        with_version(bundle, "/", _new(tmp_path / "other"))


def _new(folder):
    folder.mkdir()
    return folder
