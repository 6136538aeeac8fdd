"""Migration: a retrained encoder takes the place of the live one, with proof, and can be taken back."""

from service.migration.migrations import Migrations
from service.migration.migrator import Migrator, Pace
from service.migration.switch import Switch

__all__ = ["Migrations", "Migrator", "Pace", "Switch"]
