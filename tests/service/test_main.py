"""The command line, used against a service in another process."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from service.__main__ import app
from service.client import Client, Refused, Upload
from service.errors import Unavailable
from service.settings import Settings
from tests.e2e.process import ServiceProcess, free_port
from tests.tiny_bundle import build_tiny_bundle

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    build_tiny_bundle(folder / "models" / "tiny" / "1")
    process = ServiceProcess(data=folder / "data", models=folder / "models", bundle="tiny")
    with process:
        yield process


def run(*arguments, exit_code=0):
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == exit_code, result.output
    return result.output


def test_files_are_indexed_and_found(service, tmp_path):
    documents = [
        {"id": "a", "text": "bread is baked", "metadata": {"year": 1999}},
        {"id": "b", "text": "Flüsse fließen", "title": "Fluss", "metadata": {"year": 2020}},
    ]
    path = tmp_path / "some.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in documents))
    output = run("index", path, "-c", "news", "--field", "year=integer", "--url", service.url)
    assert "2 documents" in output
    found = run("search", "bread is baked", "-c", "news", "-n", "1", "--url", service.url)
    assert "1.000" in found
    assert "bread is baked" in found
    answer = json.loads(run("search", "x", "-c", "news", "--json", "--url", service.url))
    assert {hit["metadata"]["year"] for hit in answer["hits"]} == {1999, 2020}
    german = run("search", "x", "-c", "news", "-l", "de", "--url", service.url)
    assert "bread" not in german
    assert "Fluss" in german


def test_bad_documents_are_named_and_the_others_are_stored(service, tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text('{"id": "good", "text": "fine"}\n{"id": "bad", "text": ""}\n')
    output = run("index", path, "-c", "mixed", "--url", service.url, exit_code=1)
    assert "rejected bad:" in output
    assert "good" in run("search", "fine", "-c", "mixed", "--url", service.url)


def test_a_table_is_indexed_up_to_a_limit(service, tmp_path):
    path = tmp_path / "some.tsv"
    path.write_text("english\tforeign\n" + "".join(f"e{n}\tf{n}\n" for n in range(9)))
    options = ("--text-column", "foreign", "--limit", 4)
    run("index", path, "-c", "table", *options, "--url", service.url)
    answer = json.loads(run("search", "f", "-c", "table", "--json", "--url", service.url))
    assert sorted(hit["text"] for hit in answer["hits"]) == ["f0", "f1", "f2", "f3"]


def test_what_looks_like_markup_is_found_as_it_was_written(service, tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text(json.dumps({"id": "[/]", "text": "a [/] b [red]c", "title": "[d]"}) + "\n")
    run("index", path, "-c", "brackets", "--url", service.url)
    found = run("search", "a [/] b [red]c", "-c", "brackets", "--url", service.url)
    for text in ("[/]", "[d]", "a [/] b [red]c"):
        assert text in found


def test_the_registry_is_listed_and_the_live_bundle_shown(service):
    assert "tiny/1" in run("models", "--url", service.url)
    shown = run("models", "show", "tiny", "--url", service.url)
    for fact in ("tiny/1", "active", "Apache-2.0", "random: 0 rows", "fp32, active, live"):
        assert fact in shown


def test_the_generation_of_the_first_start_is_a_migration_at_rest(service):
    assert "live" in run("migrate", "status", "--url", service.url)
    assert "live: tiny/1, epoch 1" in run("migrate", "watch", "1", "--url", service.url)


def test_every_setting_is_listed():
    output = run("settings")
    shown = output.replace("\n", "").replace(" ", "")
    assert all(f"ISOGLOSS_{name.upper()}"[:20] in shown for name in Settings.model_fields)


@pytest.mark.parametrize("command", ["serve", "index", "search", "models", "migrate", "settings"])
def test_every_command_explains_itself(command):
    assert "Usage" in run(command, "--help")
    assert command in run("--help")


def test_a_wrong_field_declaration_says_what_is_meant(service, tmp_path):
    (tmp_path / "a.txt").write_text("text")
    arguments = ("index", tmp_path / "a.txt", "--field", "year", "--url", service.url)
    assert "name=type" in run(*arguments, exit_code=2)


def test_an_error_is_one_line_and_exit_code_2():
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "service", "search", "x", "--url", url]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "no service answers" in line
    assert "isogloss serve" in line


def test_a_refusal_is_one_line_with_its_code(service):
    command = [sys.executable, "-m", "service", "migrate", "pause", "77", "--url", service.url]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith("[not_found]")


def test_a_problem_document_becomes_an_error_with_its_detail_and_code(service):
    with Client(service.url) as client, pytest.raises(Refused, match=r"nowhere.*\[not_found\]"):
        client.post("/search", {"query": "x", "collection": "nowhere"})


def test_a_client_without_a_service_is_told_so():
    with Client(f"http://127.0.0.1:{free_port()}") as client:
        assert not client.ready()
        with pytest.raises(Unavailable, match="no service answers"):
            client.get("/info")


def test_an_upload_that_the_service_gives_up_says_what_is_stored():
    state = Upload(accepted=5)
    event = {"event": "failed", "accepted": 2, "detail": "disk full", "code": "storage_full"}
    with pytest.raises(Refused, match=r"disk full \[storage_full\]; 7 are stored"):
        state.take(event, [])
