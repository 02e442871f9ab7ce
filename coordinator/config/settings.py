"""The configuration file of the command line and of the coordinator: what deployment files leave to the site.

    agents:                      # every host with an agent, by the name in its certificate
      host1: 192.168.2.25
    localhost: host1             # which of them a Rally file means by `localhost`
    distributions:               # what to make containers of, where a Rally file says so
      ubuntu: debian:bookworm
    natbox:                      # two NATBoxes: coordinator.config.natbox_pair
      addresses: [192.168.2.24, 192.168.2.23]
      shared: [203.0.113.1/24]

Every key may be left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from coordinator.config.cluster import Host
from coordinator.config.fields import Fields, dotted
from coordinator.config.natbox_pair import KEY as NATBOX
from coordinator.config.natbox_pair import NatBoxPair, read_pair
from coordinator.config.problem import Report, suggest
from coordinator.config.surroundings import Surroundings, parse_distributions
from coordinator.config.tree import Entry, read_tree
from proto.errors import CaasError, invalid
from proto.names import check_host

#: Read where it is there and the call names no other.
DEFAULT_PATH = Path("/etc/caas/config.yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A site: its agents by name, which of them is `localhost` ("" where none is), images for distributions.

    `natbox` is None where clusters' files say all that there is to say of NATBox: there is one.
    """

    agents: Mapping[str, IPv4Address] = field(default_factory=dict)
    localhost: str = ""
    distributions: Mapping[str, str] = field(default_factory=dict)
    natbox: NatBoxPair | None = None

    def surroundings(self, distributions: Mapping[str, str]) -> Surroundings:
        """Those of a file that is to be deployed here. What the call says goes before what the site says."""
        own = self.localhost
        return Surroundings(
            distributions={**self.distributions, **distributions},
            localhost=Host(name=own, address=self.agents[own]) if own else None,
            addresses=dict(self.agents),
            agents={address: name for name, address in self.agents.items()},
        )


def find_settings(path: Path | None) -> Settings:
    """Those of *path*; without it those of DEFAULT_PATH, or none where that is not there."""
    if path is None and not DEFAULT_PATH.exists():
        return Settings()
    return load_settings(path or DEFAULT_PATH)


def load_settings(path: Path) -> Settings:
    """The settings in the file *path*. ConfigError (INVALID) lists every mistake in it."""
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise invalid(f"{path}: {exc.strerror}") from exc
    if not any(line.partition(b"#")[0].strip() for line in content.splitlines()):
        return Settings()
    report = Report(str(path))
    root = read_tree(content, report)
    report.check()
    if root is None:
        return Settings()
    known = ("agents", "localhost", "distributions", NATBOX)
    fields = Fields(root, "", report, place=root.place, required=(), optional=known)
    agents = _agents(fields, report)
    own = fields.scalar("localhost", "the name of one of the agents")
    if own is not None and own.text not in agents:
        fields.wrong("localhost", f"{own.text!r} is none of the agents", hint=suggest(own.text, agents))
    distributions = _distributions(fields, report)
    pair = read_pair(fields, report)
    report.check()
    return Settings(agents=agents, localhost=own.text if own else "", distributions=distributions, natbox=pair)


def _listed(fields: Fields, key: str, what: str, report: Report) -> tuple[dict[str, Entry], Fields | None]:
    """The entries of the mapping at *key*, each *what*, and what reads their values; None where there are none."""
    entries, node = fields.mapping(key, what), fields.node(key)
    if not entries or node is None:
        return entries, None
    return entries, Fields(node, key, report, place=fields.where(key), required=(), optional=tuple(entries))


def _agents(fields: Fields, report: Report) -> dict[str, IPv4Address]:
    entries, listed = _listed(fields, "agents", "agent", report)
    if listed is None:
        return {}
    found: dict[str, IPv4Address] = {}
    for name, entry in entries.items():
        try:
            check_host(name)
        except CaasError as exc:
            report.add(entry.place, dotted("agents", name), exc.message)
        address = listed.address(name)
        if address is None:
            continue
        if other := next((one for one, known in found.items() if known == address), ""):
            listed.wrong(name, f"{address} is {other}'s already", hint="each agent has an address of its own")
        found[name] = address
    return found


def _distributions(fields: Fields, report: Report) -> dict[str, str]:
    entries, listed = _listed(fields, "distributions", "distribution", report)
    if listed is None:
        return {}
    found: dict[str, str] = {}
    for name in entries:
        image = listed.scalar(name, "what to take instead, as debian:bookworm")
        if image is None:
            continue
        try:
            found |= parse_distributions([f"{name}={image.text}"])
        except CaasError as exc:
            listed.wrong(name, exc.message, hint=exc.hint)
    return found
