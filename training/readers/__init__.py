"""Readers of training text: one file a format, each streams groups."""

from training.readers.groups import write_groups
from training.readers.ledger import DataInvalid, Ledger
from training.readers.sets import read_set

__all__ = ["DataInvalid", "Ledger", "read_set", "write_groups"]
