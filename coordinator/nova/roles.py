"""The roles a container can hold: one for each of nova's services, and the short name for all but compute."""

from __future__ import annotations

from collections.abc import Iterable

COMPUTE = "compute"
#: Short for every role but compute, in a cluster file.
CONTROLLER = "controller"
CONTROLLER_ROLES = (
    "database",
    "messaging",
    "keystone",
    "glance",
    "placement",
    "nova-api",
    "nova-conductor",
    "nova-scheduler",
)
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
