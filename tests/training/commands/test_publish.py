"""The command that puts a bundle into a registry and makes a service go over to it."""

import pytest
import typer
from typer.testing import CliRunner

from service.bundle import Bundle, write_bundle
from service.registry import Registry
from tests.tiny_bundle import build_tiny_bundle, declared
from tests.training.commands.migrating_service import REPORT, MigratingService
from training.commands import activation
from training.commands.publish import publish
from training.export.graph import ExportFailed
from training.remote import ServiceFailed

app = typer.Typer()
app.command()(publish)


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def said(done):
    return " ".join(done.output.replace("│", " ").split())


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(activation, "POLL_S", 0.001)


@pytest.fixture
def bundle(tmp_path):
    folder = build_tiny_bundle(tmp_path / "tiny").folder
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# tiny 1\n\nIt is tiny 1.\n")
    write_bundle(folder, **declared())
    return folder


@pytest.fixture
def registry(tmp_path):
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def test_a_bundle_is_published_once_however_often_it_is_asked(bundle, registry):
    for _ in range(2):
        done = call(bundle, "--registry", registry)
        assert done.exit_code == 0, done.output
        assert f"tiny/1 is in {registry}" in said(done)
    assert Registry(registry).find("tiny/1").manifest == Bundle.open(bundle).manifest


def test_a_version_with_other_content_is_refused_with_the_option_that_helps(
    bundle, registry, tmp_path
):
    build_tiny_bundle(registry / "tiny" / "1", seed=1)
    done = call(bundle, "--registry", registry)
    assert isinstance(done.exception, ValueError)
    assert "with other content" in str(done.exception)
    assert str(done.exception).endswith("2 is free: publish it with --version 2")
    for _ in range(2):
        done = call(bundle, "--registry", registry, "--version", "2")
        assert done.exit_code == 0, done.output
    placed = Registry(registry).find("tiny/2")
    assert placed.manifest.space == Bundle.open(bundle).manifest.space
    card = placed.path("README.md").read_text()
    assert "# tiny 2\n" in card
    assert "It is tiny 1.\n" in card
    assert Bundle.open(bundle).manifest.version == "1"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--hold",), "only with --activate"),
        (("--no-wait",), "only with --activate"),
        (("--precision", "fp32"), "only with --activate"),
        (("--precision", "int8", "--activate", "http://x"), "'int8' is none of the bundle's: fp32"),
        (("--version", "../2"), "'../2' is no version"),
        (("--registry", "/nowhere"), "does not exist"),
    ],
)
def test_options_that_cannot_be_meant_are_usage_errors(bundle, registry, options, reason):
    done = call(bundle, "--registry", registry, *options)
    assert done.exit_code == 2
    assert reason in said(done)
    assert list(registry.iterdir()) == []


def test_a_folder_of_something_else_is_refused(registry):
    done = call(registry, "--registry", registry)
    assert isinstance(done.exception, ExportFailed)
    assert "neither a bundle nor a run" in str(done.exception)


def test_a_service_is_followed_until_the_bundle_is_live(bundle, registry):
    states = ("registered", "building", "indexing", "verifying", "ready", "active")
    with MigratingService(*states, soak_until="2026-01-01T12:00:00Z") as service:
        done = call(bundle, "--registry", registry, "--activate", service.url)
    assert done.exit_code == 0, done.output
    text = said(done)
    assert f"tiny/1: {service.url}/migrations/1 registered building indexing verifying" in text
    assert "tiny/1 is live: generation 1, epoch 3" in text
    assert "until 2026-01-01T12:00:00Z: isogloss migrate rollback 1" in text


def test_publishing_again_what_is_live_begins_nothing_new(bundle, registry):
    with MigratingService("building", "active") as service:
        for _ in range(2):
            assert call(bundle, "--registry", registry, "--activate", service.url).exit_code == 0
        assert len(service.migrations) == 1


def test_what_the_gate_refused_is_shown_by_language_and_is_a_failure(bundle, registry):
    broken = {"report": REPORT, "error": "the gate refused it"}
    with MigratingService("verifying", "failed", **broken) as service:
        done = call(bundle, "--registry", registry, "--activate", service.url)
        assert isinstance(done.exception, RuntimeError)
        assert "generation 1 is failed: the gate refused it" in str(done.exception)
        assert "golden (may be overridden)" in said(done)
        assert "hi>en" in said(done)
        assert "vectors: another encoder made [some] of them" in said(done)
        call(bundle, "--registry", registry, "--activate", service.url)
        assert len(service.migrations) == 2  # it failed: asked again, it is tried again


def test_one_that_is_held_is_done_when_it_is_ready(bundle, registry):
    with MigratingService("building", "ready") as service:
        options = ("--activate", service.url, "--hold", "--precision", "fp32")
        done = call(bundle, "--registry", registry, *options)
    assert done.exit_code == 0, done.output
    assert "tiny/1 is ready: isogloss migrate cut-over 1" in said(done)
    assert service.posted()[0][2] == {"hold": True, "precision": "fp32"}


def test_without_waiting_the_address_of_the_migration_is_all(bundle, registry):
    with MigratingService("building") as service:
        done = call(bundle, "--registry", registry, "--activate", service.url, "--no-wait")
    assert done.exit_code == 0, done.output
    assert f"{service.url}/migrations/1" in said(done)
    assert [method for method, *_ in service.asked] == ["GET", "POST"]


@pytest.mark.parametrize(
    ("state", "reason"),
    [("soaking", "has gone back to what was before"), ("aborted", "generation 1 is aborted")],
)
def test_one_that_was_taken_back_is_a_failure(bundle, registry, state, reason):
    with MigratingService("building", state) as service:
        done = call(bundle, "--registry", registry, "--activate", service.url)
    assert isinstance(done.exception, RuntimeError)
    assert reason in str(done.exception)


def test_a_service_that_refuses_leaves_the_bundle_in_the_registry(bundle, registry):
    with MigratingService(refusals=[(409, {"detail": "one is under way"})]) as service:
        done = call(bundle, "--registry", registry, "--activate", service.url)
    assert isinstance(done.exception, ServiceFailed)
    assert "one is under way" in str(done.exception)
    assert Registry(registry).find("tiny/1")
