import numpy as np
import pytest

from training.benchmarks.embedding import Memory, VectorsInvalid


class Counting:
    """An `Embed` that remembers what it was asked."""

    def __init__(self, scale=1.0):
        self.asked = []
        self.scale = scale

    def __call__(self, texts, role):
        self.asked.append((list(texts), role))
        rng = np.random.default_rng([len(text) for text in texts])
        vectors = rng.standard_normal((len(texts), 4))
        return np.float32(self.scale * vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def test_each_distinct_text_of_a_role_is_embedded_once():
    embed = Counting()
    memory = Memory(embed)
    found = memory(["a", "b", "a"], "query")
    assert (found[0] == found[2]).all()
    assert memory(["b", "c"], "query").shape == (2, 4)
    memory(["a"], "passage")
    assert embed.asked == [(["a", "b"], "query"), (["c"], "query"), (["a"], "passage")]


def test_passages_are_forgotten_and_queries_kept():
    embed = Counting()
    memory = Memory(embed)
    memory(["a"], "query")
    memory(["a"], "passage")
    memory.forget()
    memory(["a"], "query")
    memory(["a"], "passage")
    assert [role for _, role in embed.asked] == ["query", "passage", "passage"]


def test_vectors_that_are_not_of_length_one_are_refused_with_their_text():
    with pytest.raises(VectorsInvalid, match=r"'some text' has length 2, not 1"):
        Memory(Counting(scale=2.0))(["some text"], "query")


def test_vectors_that_are_not_finite_are_refused():
    with pytest.raises(VectorsInvalid, match="nan"):
        Memory(Counting(scale=float("nan")))(["a"], "query")


def test_a_wrong_number_of_vectors_is_refused():
    with pytest.raises(VectorsInvalid, match="2 texts gave vectors of shape"):
        Memory(lambda _texts, _role: np.ones((1, 1)))(["a", "b"], "query")


def test_no_text_is_an_error():
    with pytest.raises(VectorsInvalid, match="no text"):
        Memory(Counting())([], "query")
