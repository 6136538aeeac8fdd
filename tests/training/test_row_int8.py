"""Weights as int8 with a scale a row: what is lost, what is kept, what the file says."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors import safe_open

from training.row_int8 import quantised, read_small_weights, write_small_weights

MATRICES = arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 7)),
    elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
)


@given(MATRICES)
def test_no_component_moves_by_more_than_half_a_step_of_its_row(values):
    small = quantised({"m": torch.from_numpy(values)}, ["m"])
    steps = small["m.scale"].numpy()[:, None].astype(np.float64)
    assert small["m"].dtype == torch.int8
    assert np.abs(small["m"].numpy()).max() <= 127
    assert (np.abs(small["m"].numpy() * steps - values) <= steps * 0.5001).all()


def test_a_row_of_zeros_stays_one_and_a_long_row_does_not_coarsen_its_neighbours():
    rows = torch.tensor([[0.0, 0.0], [1000.0, -3.0], [0.5, -0.25]])
    small = quantised({"m": rows}, ["m"])
    assert small["m"].tolist() == [[0, 0], [127, 0], [127, -64]]
    assert small["m.scale"][0] == 1


def test_the_same_weights_are_the_same_bytes_each_time(tmp_path):
    small = quantised({"m": torch.eye(3), "norm": torch.ones(3)}, ["m"])
    files = set()
    for _ in range(50):
        write_small_weights(tmp_path, small)
        files.add((tmp_path / "model.int8.safetensors").read_bytes())
    assert len(files) == 1


def test_what_is_written_is_read_back_and_what_is_no_matrix_stays_exact(tmp_path):
    torch.manual_seed(0)
    state = {"table.weight": torch.randn(9, 4), "norm.bias": torch.randn(4)}
    small = quantised(state, ["table.weight"])
    write_small_weights(tmp_path, small)
    read = read_small_weights(tmp_path)
    assert read.keys() == state.keys()
    assert torch.equal(read["norm.bias"], state["norm.bias"])
    assert torch.equal(
        read["table.weight"], small["table.weight"] * small["table.weight.scale"][:, None]
    )
    with safe_open(tmp_path / "model.int8.safetensors", "pt") as file:
        assert file.metadata()["int8"] == "row of a matrix = int8 * its scale"
