"""Hard negatives out of a data set's own passages, found with the model that is to be trained on."""

from training.mining.groups import mined_groups
from training.mining.negatives import mine
from training.mining.pool import MiningImpossible
from training.mining.reading import read_mined
from training.mining.report import Mined
from training.mining.settings import IndexKind, Mining

__all__ = ["IndexKind", "Mined", "Mining", "MiningImpossible", "mine", "mined_groups", "read_mined"]
