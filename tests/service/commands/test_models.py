import json

import pytest

from service.client import Refused
from service.commands.models import models
from service.errors import BundleInvalid, ConfigurationError, InvalidInput, NotFound
from tests.service.http.memory_migrations import migration
from tests.tiny_bundle import build_tiny_bundle


@pytest.mark.parametrize(
    "command", [("--url", "URL"), ("list", "--url", "URL"), ("--url", "URL", "list")]
)
def test_the_registry_is_listed_by_the_bare_command_too(run, service, command):
    output = run(models, *(service.url if word == "URL" else word for word in command))
    broken, first, second = output.splitlines()[1:]
    assert "invalid: bundle.json: [x] is missing" in broken
    assert first.split() == ["tiny/1", "active", "16", "64", "fp32", "int8", "2"]
    assert second.startswith("tiny/2")


def test_a_bundle_is_shown_whole(run, service):
    output = run(models, "show", "tiny/1", "--url", service.url)
    for fact in (
        "tiny/1",
        "active",
        "Apache-2.0",
        "8 16",
        "de en",
        "1" * 32,
        "tatoeba: 69,209 rows, CC-BY-2.0-FR",
        "generation 1",
        "fp32, active, live",
        "0123456789ab",
    ):
        assert fact in output
    assert json.loads(output[output.index("{") :]) == {"ntrex": {"de": 73.9}}


def test_without_a_version_the_latest_is_meant(run, service):
    assert "tiny/2" in run(models, "show", "tiny", "--url", service.url)


def test_an_invalid_bundle_is_shown_with_its_reason(run, service):
    output = run(models, "show", "broken/1", "--url", service.url)
    assert "invalid: bundle.json: [x] is missing" in output
    assert "evaluation" not in output


def test_a_bundle_that_is_not_there_is_an_error_that_says_which_are(run, service):
    with pytest.raises(NotFound, match=r"'other'.*tiny/1, tiny/2"):
        run(models, "show", "other", "--url", service.url)
    with pytest.raises(Refused, match=r"tiny/9.*\[not_found\]"):
        run(models, "show", "tiny/9", "--url", service.url)


@pytest.mark.parametrize("reference", ["../etc", "tiny/..", "tiny/1/2", "a?b", "tiny/", "/1"])
def test_what_is_no_name_is_never_asked_for(run, service, reference):
    with pytest.raises(InvalidInput, match="not a bundle's name"):
        run(models, "show", reference, "--url", service.url)


def test_a_bundle_is_verified_or_refused_with_the_reason(run, service):
    output = run(models, "verify", "tiny/2", "--url", service.url)
    assert output.splitlines() == [f"fp32: 210 MiB, 2 s, space {'5' * 32}", "sound: tiny/2"]
    with pytest.raises(Refused, match=r"wrong SHA-256 \[bundle_refused\]"):
        run(models, "verify", "broken/1", "--url", service.url)


def test_a_bundle_is_removed_after_a_yes(run, service):
    asked = run(models, "remove", "tiny/2", "--url", service.url, input="n\n", exit_code=1)
    assert "delete tiny/2" in asked
    assert ("tiny", "2") in service.migrations.bundles
    assert "removed: tiny/2" in run(models, "remove", "tiny/2", "-y", "--url", service.url)
    assert ("tiny", "2") not in service.migrations.bundles


def test_a_bundle_that_is_used_stays(run, service):
    service.migrations.rows[1] = migration(1, version="1", state="active")
    with pytest.raises(Refused, match=r"generation 1 uses tiny/1 \[conflict\]"):
        run(models, "remove", "tiny/1", "--yes", "--url", service.url)


def test_a_folder_is_added_to_the_registry(run, tmp_path):
    build_tiny_bundle(tmp_path / "exported", version="3")
    (tmp_path / "models").mkdir()
    output = run(models, "add", tmp_path / "exported", "--models-dir", tmp_path / "models")
    assert "added: tiny/3" in output
    assert "isogloss migrate start tiny/3" in output
    assert (tmp_path / "models" / "tiny" / "3" / "bundle.json").is_file()


def test_the_registrys_folder_may_be_a_variable(run, tmp_path, monkeypatch):
    build_tiny_bundle(tmp_path / "exported", version="3")
    (tmp_path / "models").mkdir()
    monkeypatch.setenv("ISOGLOSS_MODELS_DIR", str(tmp_path / "models"))
    run(models, "add", tmp_path / "exported")
    assert (tmp_path / "models" / "tiny" / "3" / "bundle.json").is_file()


def test_a_folder_that_is_no_bundle_is_refused_and_nothing_is_added(run, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "exported").mkdir()
    with pytest.raises(BundleInvalid):
        run(models, "add", tmp_path / "exported", "--models-dir", tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []
    with pytest.raises(ConfigurationError, match="ISOGLOSS_MODELS_DIR"):
        run(models, "add", tmp_path / "exported", "--models-dir", tmp_path / "nowhere")


@pytest.mark.parametrize("command", ["list", "show", "add", "verify", "remove"])
def test_every_command_explains_itself(run, command):
    assert "Usage" in run(models, command, "--help")
    assert command in run(models, "--help")
