import datasets
import numpy as np
import pytest
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.models_protocols import EncoderProtocol

from training.embedders import open_embedder
from training.mteb_adapter import MtebEncoder, TaskUnknown, run, run_tasks


class InMemory(AbsTaskRetrieval):
    """A retrieval task in two languages whose data need no network."""

    metadata = TaskMetadata(
        name="InMemory",
        description="three passages",
        dataset={"path": "none/none", "revision": "1"},
        type="Retrieval",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs={"de": ["deu-Latn"], "en": ["eng-Latn"]},
        main_score="ndcg_at_10",
        date=("2026-01-01", "2026-01-01"),
        domains=["Written"],
        task_subtypes=[],
        license="cc0-1.0",
        annotations_creators="derived",
        dialect=[],
        sample_creation="created",
        bibtex_citation="",
        reference=None,
    )

    def load_data(self, **_):
        corpus = {"p0": "river", "p1": "house", "p2": "garden"}
        asked = {"de": {"q0": "river", "q1": "house"}, "en": {"q0": "river", "q1": "garden"}}
        self.dataset = {
            language: {
                "test": {
                    "corpus": datasets.Dataset.from_list(
                        [{"id": key, "title": "", "text": text} for key, text in corpus.items()]
                    ),
                    "queries": datasets.Dataset.from_list(
                        [{"id": key, "text": text} for key, text in queries.items()]
                    ),
                    "relevant_docs": {"q0": {"p0": 1}, "q1": {"p1": 1}},
                    "top_ranked": None,
                }
            }
            for language, queries in asked.items()
        }
        self.data_loaded = True


class Spelt:
    """An embedder whose vectors are letter counts; it keeps the roles that it was asked."""

    name = "some/model/1"

    def __init__(self):
        self.facts = {}
        self.asked = []

    def __call__(self, texts, role):
        self.asked.append((role, list(texts)))
        vectors = np.array(
            [[text.count(c) for c in "abcdeghinorsuv"] for text in texts], dtype=np.float32
        )
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def close(self):
        pass


def test_mteb_asks_queries_and_passages_by_their_roles():
    embedder = Spelt()
    scores = run(embedder, [InMemory()])
    # English q1 is nearest to p2, then to p1 or p0; German is all right.
    assert scores["InMemory"]["test de"] == 100.0
    assert 50.0 < scores["InMemory"]["test en"] < 90.0
    roles = {
        role: {text.strip() for r, texts in embedder.asked if r == role for text in texts}
        for role in ("query", "passage")
    }
    assert roles == {"query": {"river", "house", "garden"}, "passage": {"river", "house", "garden"}}


def test_a_bundle_runs_in_mteb(tiny_bundle):
    embedder = open_embedder(str(tiny_bundle.folder))
    assert set(run(embedder, [InMemory()])["InMemory"]) == {"test de", "test en"}
    embedder.close()


def test_the_encoder_fulfils_the_protocol():
    encoder = MtebEncoder(Spelt())
    assert isinstance(encoder, EncoderProtocol)
    assert encoder.mteb_model_meta.name == "local/some_model_1"
    one, other = np.eye(2, dtype=np.float32), np.array([[0, 1], [0.6, 0.8]], dtype=np.float32)
    assert encoder.similarity(one, other).numpy() == pytest.approx(one @ other.T)
    assert encoder.similarity_pairwise(one, other).tolist() == pytest.approx([0.0, 0.8])


def test_an_owner_and_a_model_are_the_name_as_it_is(tiny_bundle):
    embedder = open_embedder(str(tiny_bundle.folder))
    assert MtebEncoder(embedder).mteb_model_meta.name == "tiny/1"
    embedder.close()


def test_a_task_that_mteb_does_not_have_is_named():
    with pytest.raises(TaskUnknown, match="NoSuchTask"):
        run_tasks(Spelt(), ["NoSuchTask"])
