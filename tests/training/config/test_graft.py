import pytest
from pydantic import ValidationError

from training.config.graft import Graft


def test_the_sets_of_the_static_space_must_be_named():
    with pytest.raises(ValidationError, match="data"):
        Graft.model_validate({})
    with pytest.raises(ValidationError, match="at least 1 item"):
        Graft.model_validate({"data": []})


@pytest.mark.parametrize(
    "wrong", [{"pieces": 0}, {"rows": 1}, {"sharpness": 0.0}, {"row_exponent": 2}, {"piece": 3}]
)
def test_values_out_of_their_bounds_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Graft.model_validate({"data": ["pairs"], **wrong})
