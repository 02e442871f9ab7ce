"""What `caas compile --json` prints: the contract of design.md."""

from __future__ import annotations

from typing import Any

from coordinator.compiling.compile import Compiled
from proto.model import Container, HostState, Link, Vlan


def to_document(compiled: Compiled) -> dict[str, Any]:
    """*compiled* as plain dicts, lists, numbers and text. Keys and items are in a stable order."""
    gateways = compiled.natbox.gateways if compiled.natbox else ()
    return {
        "cluster": compiled.cluster,
        "hosts": {name: _host(host.state) for name, host in compiled.hosts.items()},
        "natbox": [
            {
                "network": gateway.network,
                "vid": gateway.vid,
                "subnet": str(gateway.gateway.network),
                "gateway": str(gateway.gateway.ip),
            }
            for gateway in gateways
        ],
        "warnings": list(compiled.warnings),
    }


def _host(state: HostState) -> dict[str, Any]:
    return {
        "links": [_link(link) for link in state.links],
        "addresses": [{"link": address.link, "address": str(address.address)} for address in state.addresses],
        "routes": [
            {
                "dst": str(route.dst),
                "dev": route.dev,
                "via": str(route.via) if route.via else None,
                "src": str(route.src) if route.src else None,
                "table": route.table,
            }
            for route in state.routes
        ],
        "rules": [
            {
                "from": str(rule.src) if rule.src else None,
                "to": str(rule.dst) if rule.dst else None,
                "table": rule.table,
            }
            for rule in state.rules
        ],
        "containers": [_container(container) for container in state.containers],
    }


def _link(link: Link) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": link.kind, "name": link.name, "mtu": link.mtu}
    if isinstance(link, Vlan):
        found |= {"parent": link.parent, "vid": link.vid, "master": link.master}
    return found


def _container(container: Container) -> dict[str, Any]:
    return {
        "name": container.hostname,
        "address": str(container.nic.address),
        "mac": container.nic.mac,
        "link": container.nic.bridge,
        "image": container.image,
        "roles": list(container.roles),
        "clone_of": container.clone_of or None,
    }
