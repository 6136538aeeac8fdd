"""The command that proves that two spaces are compatible."""

import json

import pytest
import typer
from typer.testing import CliRunner

from service.bundle import Bundle
from service.golden import GoldenQuery
from tests.tiny_bundle import PROBE_TEXTS, build_tiny_bundle
from tests.training.export.test_compatibility import with_golden
from training.commands.compatible import compatible
from training.export.compatibility import CompatibilityInvalid

app = typer.Typer()
app.command()(compatible)
TEXTS = [f"{PROBE_TEXTS['de']} {'.' * number}" for number in range(20)]
SAME = [GoldenQuery({"de": text}, {"de": text}) for text in TEXTS]


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def bundles(tmp_path):
    """An old one, one whose vectors are the same, and a stranger."""
    old = build_tiny_bundle(tmp_path / "old", precisions=("fp32", "int8"))
    near = build_tiny_bundle(tmp_path / "near", version="2", max_tokens=64)
    far = build_tiny_bundle(tmp_path / "far", version="3", seed=1)
    return old.folder, with_golden(near, SAME).folder, with_golden(far, SAME).folder


def test_a_proof_is_a_table_and_with_declare_a_claim_in_the_manifest(bundles):
    old, near, _ = bundles
    done = call(near, old)
    assert done.exit_code == 0, done.output
    assert "golden tiny/2" in done.output
    assert "not measured: ar, en, hi, ja, ru, th, zh" in done.output
    assert Bundle.open(near).manifest.compatible_with == []
    assert call(near, old, "--declare").exit_code == 0
    [claim] = json.loads((near / "bundle.json").read_text())["compatible_with"]
    assert claim == {
        "space": Bundle.open(old).manifest.space["fp32"],
        "precision": "fp32",
        "ndcg": {"de-de": [1.0, 1.0]},
        "tolerance": 0.02,
        "measured_on": "golden tiny/2",
    }


def test_what_loses_too_much_is_named_and_never_declared(bundles):
    old, _, far = bundles
    done = call(far, old, "--declare")
    assert isinstance(done.exception, ValueError)
    assert "queries of tiny/3 do not fit passages of tiny/1: de-de loses 0." in str(done.exception)
    assert "--tolerance" in str(done.exception)
    assert Bundle.open(far).manifest.compatible_with == []


def test_the_precisions_of_both_can_be_chosen(bundles):
    old, near, _ = bundles
    done = call(near, old, "--old-precision", "int8", "--declare", "--tolerance", "0.1")
    assert done.exit_code == 0, done.output
    [claim] = Bundle.open(near).manifest.compatible_with
    assert claim.space == Bundle.open(old).manifest.space["int8"]
    assert claim.tolerance == 0.1
    assert "has only fp32" in str(call(near, old, "--precision", "int8").exception)


def test_what_cannot_be_compared_is_refused(bundles, tmp_path):
    old, near, _ = bundles
    assert isinstance(call(near, near).exception, CompatibilityInvalid)
    assert call(near, old, "--benchmarks", "xquad").exit_code == 2
    assert call(near, tmp_path / "absent").exit_code == 2
