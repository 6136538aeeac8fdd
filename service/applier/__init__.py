"""The applier of a generation: catalog rows after the applied revision become vectors in its indexes."""

from service.applier.applier import Applier
from service.applier.progress import Progress

__all__ = ["Applier", "Progress"]
