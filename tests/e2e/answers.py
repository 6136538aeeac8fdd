"""What an answer must be: complete, as acknowledged, and from one encoder, that which it names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from service.bundle import Bundle
from service.encoder import Encoder
from tests.e2e.kills import Ledger, settled

TOLERANCE = 0.02
"""Between a score and that of vectors that are computed again: an index may keep fewer digits."""


class Examiner:
    """Computes scores again with the encoder that an answer names."""

    def __init__(self, models: Path) -> None:
        self._encoders: dict[str, Encoder] = {}
        for manifest in sorted(models.glob("*/*/bundle.json")):
            bundle = Bundle.open(manifest.parent)
            name = f"{bundle.manifest.name}/{bundle.manifest.version}"
            self._encoders[name] = Encoder.open(bundle, precision="fp32", threads=1)
        self._known: dict[tuple[str, str, str], np.ndarray] = {}

    def faults(self, query: str, answer: Mapping[str, Any]) -> list[str]:
        """Where an answer is not what the encoders that it names would have given."""
        found = []
        for whose in ("", "query_"):
            name, space = answer[f"{whose}bundle"], answer[f"{whose}space"]
            if space != self._encoders[name].space:
                found.append(f"{name} answers with {whose}space {space}")
        hits = answer["hits"]
        self._learn(answer["query_bundle"], "query", [query])
        self._learn(answer["bundle"], "passage", [hit["text"] for hit in hits])
        asked = self._known[answer["query_bundle"], "query", query]
        for hit in hits:
            score = float(asked @ self._known[answer["bundle"], "passage", hit["text"]])
            if abs(score - hit["score"]) > TOLERANCE:
                found.append(
                    f"{hit['document']}: score {hit['score']:.3f}, with {answer['bundle']} {score:.3f}"
                )
        return found

    def _learn(self, bundle: str, role: str, texts: Sequence[str]) -> None:
        new = [text for text in dict.fromkeys(texts) if (bundle, role, text) not in self._known]
        if new:
            encoder = self._encoders[bundle]
            vectors = encoder.infer(encoder.tokenize(new, role))
            self._known |= {
                (bundle, role, text): vector for text, vector in zip(new, vectors, strict=True)
            }

    def examine(self, url: str, ledgers: Sequence[Ledger]) -> list[str]:
        """What is wrong with all that a service finds, while nobody writes; settles open questions."""
        query = "river bread"
        with httpx.Client(base_url=url, timeout=60, verify=False) as client:
            settled(client)
            asked = client.post("/search", json={"query": query, "limit": 1000})
        if asked.status_code != 200:
            return [f"search says {asked.status_code}: {asked.text}"]
        answer = asked.json()
        found = self.faults(query, answer)
        texts: dict[str, str] = {}
        for hit in answer["hits"]:
            if hit["document"] in texts:
                found.append(f"{hit['document']}: found twice")
            texts[hit["document"]] = hit["text"]
        for ledger in ledgers:
            for identifier in {*ledger.known, *ledger.open}:
                text = texts.pop(identifier, None)
                if not ledger.allows(identifier, text):
                    found.append(
                        f"{identifier}: {text!r}, but told {ledger.known.get(identifier)!r}"
                    )
                ledger.known[identifier] = text
            ledger.open = {}
        found += [f"{identifier}: found, but never written" for identifier in texts]
        return found
