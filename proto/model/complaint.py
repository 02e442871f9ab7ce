"""What is wrong with a host itself, whatever cluster it carries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """What was found on a host, why it matters to clusters, and the command that mends it."""

    what: str
    why: str
    mend: str
