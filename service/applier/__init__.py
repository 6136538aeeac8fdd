"""The applier of a generation: catalog rows after the applied revision become vectors in its indexes."""

from service.applier.applier import Applier
from service.applier.progress import Progress
from service.applier.throttle import Throttle

__all__ = ["Applier", "Progress", "Throttle"]
