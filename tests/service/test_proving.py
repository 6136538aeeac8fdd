"""The proof of an encoder: what a wrong one is refused for, in words that say which vector and why."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from service.bundle import Bundle, write_bundle
from service.encoder import Encoder
from service.errors import BundleInvalid, EngineFailure
from service.proving import prove, prove_alone
from tests.tiny_bundle import build_tiny_bundle, declared, pooled_model

node = helper.make_node


def table(dimension: int = 16) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((260, dimension), dtype=np.float32)


def encoder_of(folder, embed, **tensors) -> Encoder:
    """An encoder whose bundle keeps the contract on paper, and has this graph up to the pooling."""
    build_tiny_bundle(folder)
    constants = [
        numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()
    ]
    model = pooled_model(embed, constants, 16)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    write_bundle(folder, **declared())
    return Encoder.open(Bundle.open(folder), threads=1)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_sound_encoder_is_proven(tiny_bundle, precision):
    encoder = Encoder.open(tiny_bundle, precision=precision, threads=1)
    prove(encoder, batch_tokens=1024)
    prove_alone(encoder)


def test_the_largest_batch_is_run_as_it_was_asked_for(tiny_bundle):
    encoder = Encoder.open(tiny_bundle, threads=1)
    shapes = []
    session = encoder._session
    encoder._session = lambda ids, mask: shapes.append(ids.shape) or session(ids, mask)
    prove(encoder, batch_tokens=1024)
    assert shapes[0] == (8, 128)
    prove(encoder, batch_tokens=1)
    assert (1, 128) in shapes


def test_a_vector_that_is_not_finite_is_refused(tmp_path):
    embed = [node("Gather", ["table", "input_ids"], ["embedded"])]
    encoder = encoder_of(tmp_path, embed, table=np.full((260, 16), np.nan, np.float32))
    with pytest.raises(BundleInvalid, match=r"^2 x 128 tokens \(fp32\) gave .* not finite"):
        prove(encoder, batch_tokens=256)


def test_a_vector_of_no_length_is_refused(tmp_path):
    embed = [node("Gather", ["table", "input_ids"], ["embedded"])]
    encoder = encoder_of(tmp_path, embed, table=np.zeros((260, 16), np.float32))
    with pytest.raises(BundleInvalid, match="off unit norm by 1"):
        prove(encoder, batch_tokens=256)


def test_vectors_of_another_dimension_than_the_manifest_says_are_refused(tmp_path):
    embed = [node("Gather", ["table", "input_ids"], ["embedded"])]
    encoder = encoder_of(tmp_path, embed, table=table(8))
    with pytest.raises(EngineFailure, match=r"2 texts gave vectors of shape \(2, 8\)"):
        prove(encoder, batch_tokens=256)


def test_an_encoder_whose_texts_see_each_other_is_refused(tmp_path):
    embed = [
        node("Gather", ["table", "input_ids"], ["rows"]),
        node("ReduceMean", ["rows", "batch"], ["shared"], keepdims=1),
        node("Add", ["rows", "shared"], ["embedded"]),
    ]
    encoder = encoder_of(tmp_path, embed, table=table(), batch=np.array([0]))
    with pytest.raises(BundleInvalid, match=r"probes\.npz: text \d+ \(\w+\) .* batch and alone"):
        prove_alone(encoder)


def test_an_encoder_that_cannot_run_a_probe_names_the_probes(tmp_path):
    # Two texts of different length in one batch are too much for a reshape to one row.
    embed = [
        node("Gather", ["table", "input_ids"], ["rows"]),
        node("Squeeze", ["rows", "batch"], ["row"]),
        node("Unsqueeze", ["row", "batch"], ["embedded"]),
    ]
    encoder = encoder_of(tmp_path, embed, table=table(), batch=np.array([0]))
    with pytest.raises(BundleInvalid, match=r"^probes\.npz: .*batch of shape \(8,"):
        prove_alone(encoder)
