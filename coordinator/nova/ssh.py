"""sshd, in the containers that let their host's keys in. Whose keys these are is the agent's work.

The unit waits for its file in /etc/caas/ready, as nova's do, and makes host keys where there are none: a clone, which
has none of its source's, makes its own when it boots.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from ipaddress import IPv4Address

from coordinator.nova.goals import File, Goal, Look, Unit
from coordinator.nova.secrets import Secrets
from coordinator.nova.step import ServiceStep

PORT = 22
#: How many are started at once: dozens of containers want it at the same moment.
AT_ONCE = 8
#: sshd_config(5): the first value counts, and Debian reads this folder before all else.
CONFIG = File(
    path="/etc/ssh/sshd_config.d/caas.conf",
    content="# Written by caas.\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n"
    "KbdInteractiveAuthentication no\n",
    mode="0644",
)


def make_ssh_steps(
    looks: Mapping[str, Look], addresses: Mapping[str, IPv4Address], secrets: Secrets
) -> tuple[ServiceStep, ...]:
    """A step for each container of *addresses* (by host name), all of which want sshd."""
    gate = asyncio.Semaphore(AT_ONCE)
    return tuple(
        ServiceStep(
            id=f"ssh/server:{name}",
            title=f"ssh: sshd on {name}",
            needs=frozenset(),
            goal=Goal(look=looks[name], units=(Unit(name="ssh", files=(CONFIG,)),), ports=(f"{address}:{PORT}",)),
            secrets=secrets,
            gate=gate,
        )
        for name, address in addresses.items()
    )
