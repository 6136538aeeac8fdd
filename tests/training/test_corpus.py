import numpy as np

from training.corpus import NOTHING, GroupTable


def test_a_table_is_as_long_as_it_has_groups():
    texts = np.array([[0, 1], [2, NOTHING]], np.int32)
    none = np.zeros((2, 0), np.int32)
    table = GroupTable("s", ["1", "2"], {"sentence": texts}, none, {})
    assert len(table) == 2
