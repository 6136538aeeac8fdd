"""A service on a port of its own that goes over to a bundle in as many looks as it is told."""

import json
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

REPORT = {
    "passed": False,
    "checks": [
        {"name": "counts", "ok": True, "detail": "", "overridable": False, "measures": {}},
        {
            "name": "golden",
            "ok": False,
            "detail": "2 pairs of languages lose more than 0.02",
            "overridable": True,
            "measures": {
                "bundle": {
                    "means": {"queries in de": {"lines": 40, "green": 0.5, "blue": 0.91}},
                    "pairs": {
                        "de>en": {
                            "queries": 40,
                            "green": {"ndcg@10": 0.5, "accuracy@1": 0.25},
                            "blue": {"ndcg@10": 0.91, "accuracy@1": 0.8125},
                        },
                        "hi>en": {"queries": 12, "green": {"ndcg@10": 0.25}, "blue": None},
                    },
                }
            },
        },
        {
            "name": "vectors",
            "ok": False,
            "detail": "another encoder made [some] of them",
            "overridable": False,
            "measures": {
                "bar": 0.99,
                "worst": [1, 0.5],
                "median": None,
                "languages": {"th": {"sampled": 50, "wrong": 3}},
            },
        },
    ],
    "overridden": [],
    "reason": "",
    "at": "2026-01-01T00:00:00Z",
    "seconds": 1.5,
}


class MigratingService:
    """`states`: what each look at a new migration finds, the last one from then on.

    `refusals` are answered before anything else, one a request: a status, and what the body says.
    """

    def __init__(
        self, *states: str, refusals: Sequence[tuple[int, object]] = (), **fields: Any
    ) -> None:
        self.states, self.refusals, self.fields = list(states), list(refusals), fields
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.migrations: list[dict[str, Any]] = []
        self._by_key: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self._answer(None)

            def do_POST(self):
                size = int(self.headers["Content-Length"])
                self._answer(json.loads(self.rfile.read(size)))

            def _answer(self, body):
                headers = {name.lower(): value for name, value in self.headers.items()}
                service.asked.append((self.command, self.path, headers, body))
                status, content = service.answer(self.command, self.path, headers, body)
                raw = content.encode() if isinstance(content, str) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def posted(self) -> list[tuple[str, str, Any]]:
        """Path, key and body of every activation that was asked for."""
        return [
            (path, headers["idempotency-key"], body)
            for method, path, headers, body in self.asked
            if method == "POST"
        ]

    def answer(self, method, path, headers, body):
        if self.refusals:
            return self.refusals.pop(0)
        match method, path.strip("/").split("/"):
            case "GET", ["migrations"]:
                return 200, {"migrations": self.migrations[::-1]}
            case "GET", ["migrations", number]:
                migration = self.migrations[int(number) - 1]
                if len(migration["to_come"]) > 1:
                    migration["to_come"].pop(0)
                return 200, self._seen(migration)
            case "POST", ["models", name, version, "activate"]:
                key = headers["idempotency-key"]
                if key not in self._by_key:
                    self._begin(key, name, version, body)
                return 202, self._seen(self._by_key[key])
        return 404, {"detail": "nothing is there"}

    def _begin(self, key, name, version, body):
        migration = {
            "generation": len(self.migrations) + 1,
            "bundle": name,
            "version": version,
            "precision": body.get("precision", "fp32"),
            "to_come": list(self.states),
            "paused": False,
            "live": False,
            "epoch": 3,
            "error": "",
            "options": {"hold": body["hold"], "override": [], "reason": ""},
            "applied": 5,
            "total": 10,
            "report": None,
            "soak_until": None,
            **self.fields,
        }
        self.migrations.append(migration)
        self._by_key[key] = migration

    def _seen(self, migration):
        migration["state"] = migration["to_come"][0]
        return migration
