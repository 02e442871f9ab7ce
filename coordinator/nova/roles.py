"""The roles a container can hold: one for each of nova's services, and the short name for all but compute."""

from __future__ import annotations

import enum
from collections.abc import Iterable


class Role(enum.StrEnum):
    """What a container can be asked to do. Each but `compute` has exactly one holder in a cluster."""

    DATABASE = "database"
    MESSAGING = "messaging"
    KEYSTONE = "keystone"
    GLANCE = "glance"
    PLACEMENT = "placement"
    NOVA_API = "nova-api"
    NOVA_CONDUCTOR = "nova-conductor"
    NOVA_SCHEDULER = "nova-scheduler"
    COMPUTE = "compute"


COMPUTE = str(Role.COMPUTE)
#: Short for every role but compute, in a cluster file.
CONTROLLER = "controller"
CONTROLLER_ROLES = tuple(str(role) for role in Role if role is not Role.COMPUTE)
#: Every role, in the order in which they are shown.
ROLES = (*CONTROLLER_ROLES, COMPUTE)
#: What a cluster file may say.
ROLE_WORDS = (CONTROLLER, *ROLES)


def expand_roles(words: Iterable[str]) -> tuple[str, ...]:
    """The roles that *words* (of ROLE_WORDS) stand for, each once, in the order of ROLES. KeyError for others."""
    held: set[str] = set()
    for word in words:
        if word not in ROLE_WORDS:
            raise KeyError(word)
        held.update(CONTROLLER_ROLES if word == CONTROLLER else (word,))
    return tuple(role for role in ROLES if role in held)


def holds_controller_role(roles: Iterable[str]) -> bool:
    """Whether *roles* has any that is not compute."""
    return any(role != COMPUTE for role in roles)
