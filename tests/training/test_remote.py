import base64
import json
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from service.encoder import Encoder
from tests.e2e.process import ServiceProcess, free_port
from tests.tiny_bundle import build_tiny_bundle
from training.embedders import open_embedder
from training.remote import ServiceFailed

TEXTS = [f"{'the river rises ' * (n % 7)}{n}" for n in range(150)]


@pytest.mark.slow
def test_a_running_service_gives_what_its_bundle_gives(tmp_path):
    bundle = build_tiny_bundle(
        tmp_path / "models" / "tiny" / "1", prompts={"query": "query: ", "passage": "passage: "}
    )
    encoder = Encoder.open(bundle, threads=1)
    with ServiceProcess(
        data=tmp_path / "data", models=tmp_path / "models", bundle="tiny"
    ) as service:
        ours, openais = open_embedder(service.url), open_embedder(f"{service.url}/v1")
        assert ours.name == "tiny/1"
        assert ours.facts["space"] == encoder.space
        for role in ("query", "passage"):
            expected = encoder.infer(encoder.tokenize(TEXTS, role))
            assert ours(TEXTS, role) == pytest.approx(expected, abs=1e-6)
            assert openais(TEXTS, role) == pytest.approx(expected, abs=1e-6)
        assert openais.facts["space"] == encoder.space
        ours.close()
        openais.close()
    encoder.close()


class Scripted:
    """A server that answers what it was told, one after the other, and keeps what it was asked."""

    def __init__(self):
        self.answers = []
        self.asked = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.asked.append(
                    (self.path, json.loads(body) if body else None, dict(self.headers))
                )
                status, headers, content = outer.answers.pop(0)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST  # noqa: N815 - http.server's name

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def will(self, status, content=b"", **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.answers.append((status, {k.replace("_", "-"): v for k, v in headers.items()}, content))

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server():
    scripted = Scripted()
    yield scripted
    scripted.close()


@pytest.fixture
def opened(server):
    """An OpenAI-style embedder on the scripted server."""
    server.will(200, {"data": [{"id": "some-model"}, {"id": "other"}]})
    embedder = open_embedder(f"{server.url}/v1", api_key="secret")
    yield embedder
    embedder.close()


def openai(*vectors, order=None):
    numbers = order or range(len(vectors))
    return {"data": [{"index": n, "embedding": vectors[n]} for n in numbers]}


def test_an_openai_style_server_is_told_model_role_and_key(server, opened):
    server.will(200, openai([3.0, 4.0], [0.0, 2.0], order=[1, 0]))
    # Sent by length, answered in any order, returned in ours and of length 1.
    found = opened(["longer", "a"], "query")
    assert found == pytest.approx(np.float32([[0.0, 1.0], [0.6, 0.8]]))
    path, body, headers = server.asked[1]
    assert path == "/v1/embeddings"
    assert body == {"model": "some-model", "input": ["a", "longer"], "input_type": "query"}
    assert headers["Authorization"] == "Bearer secret"
    assert opened.name == "some-model"


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    "after", ["0", "0.01", format_datetime(datetime.now(UTC) - timedelta(seconds=5))]
)
def test_a_busy_server_is_asked_again_when_it_says(server, opened, status, after):
    server.will(status, Retry_After=after)
    server.will(status, Retry_After=after)
    server.will(200, openai([1.0, 0.0]))
    assert opened(["a"], "passage").tolist() == [[1.0, 0.0]]
    assert len(server.asked) == 4


@pytest.mark.parametrize("headers", [{}, {"Retry_After": "soon"}])
def test_a_server_that_does_not_say_when_is_asked_again_too(server, opened, headers):
    server.will(503, **headers)
    server.will(200, openai([1.0, 0.0]))
    assert opened(["a"], "passage").shape == (1, 2)


def test_a_server_that_stays_busy_is_given_up(server, opened):
    for _ in range(8):
        server.will(429, b"too busy", Retry_After="0")
    with pytest.raises(ServiceFailed, match="answered 429: too busy"):
        opened(["a"], "passage")
    assert server.answers == []


def test_a_refusal_is_not_repeated(server, opened):
    server.will(400, b"bad input_type")
    with pytest.raises(ServiceFailed, match="answered 400: bad input_type"):
        opened(["a"], "passage")


def test_too_few_vectors_are_refused(server, opened):
    server.will(200, openai([1.0, 0.0]))
    with pytest.raises(ServiceFailed, match="2 texts gave 1 vectors"):
        opened(["a", "b"], "passage")


def test_an_answer_that_is_not_json_is_refused(server, opened):
    server.will(200, b"<html>")
    with pytest.raises(ServiceFailed, match="did not answer with JSON: <html>"):
        opened(["a"], "passage")


def test_a_server_without_models_is_refused(server):
    server.will(200, {"data": []})
    with pytest.raises(ServiceFailed, match="names no model"):
        open_embedder(f"{server.url}/v1")


def test_vectors_of_two_models_are_not_mixed(server):
    vector = np.array([1.0, 0.0], dtype="<f4").tobytes()
    row = [base64.b64encode(vector).decode()]
    server.will(200, [[1.0, 0.0]], X_Isogloss_Space="one", X_Isogloss_Model="m/1")
    server.will(200, row, X_Isogloss_Space="one")
    server.will(200, row, X_Isogloss_Space="two")
    embedder = open_embedder(server.url)
    assert embedder(["a"], "query").tolist() == [[1.0, 0.0]]
    with pytest.raises(ServiceFailed, match=r"changed its model .*space one, then two"):
        embedder(["b"], "query")
    embedder.close()


def test_an_address_where_nothing_listens_is_named():
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ServiceFailed, match=url):
        open_embedder(url)
