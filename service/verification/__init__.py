"""The gate: what is proven of a generation before it may go live.

Integrity (`counts`, `digest`, `vectors`) says that its indexes hold what the catalog does, embedded by
its own encoder; nobody can override it. Quality (`truncation`, `golden`, `latency`) compares it with
the generation that it is to replace; an operator who has a reason may accept less.
"""

from service.verification.gate import Gate
from service.verification.report import INTEGRITY, QUALITY, check_override, from_json, to_json
from service.verification.side import Side

__all__ = ["INTEGRITY", "QUALITY", "Gate", "Side", "check_override", "from_json", "to_json"]
