"""What `caas compile --json` prints: the contract of design.md."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from coordinator.compiling.compile import Compiled
from proto.model import Container, HostState, Ipip, Link, Vlan


def to_document(compiled: Compiled) -> dict[str, Any]:
    """*compiled* as plain dicts, lists, numbers and text. Keys and items are in a stable order."""
    gateways = compiled.natbox.gateways if compiled.natbox else ()
    return {
        "cluster": compiled.cluster,
        "hosts": {name: _host(host.state, compiled.unresolved) for name, host in compiled.hosts.items()},
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


def _host(state: HostState, unresolved: Mapping[IPv4Address, str]) -> dict[str, Any]:
    found = {
        "links": [_link(link, unresolved) for link in state.links],
        "addresses": [{"link": address.link, "address": str(address.address)} for address in state.addresses],
        "routes": [
            {
                "dst": _network(route.dst, unresolved),
                "dev": route.dev,
                "via": str(route.via) if route.via else None,
                "src": _address(route.src, unresolved) if route.src else None,
                "table": route.table,
            }
            | ({"encap": _address(route.encap, unresolved)} if route.encap else {})
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
    if state.masquerades:
        found["masquerades"] = [
            {"source": str(rule.source), "exempt": [str(subnet) for subnet in rule.exempt]}
            for rule in state.masquerades
        ]
    if state.forwards:
        found["forwards"] = [
            {
                "address": _address(forward.address, unresolved),
                "port": forward.port,
                "to": f"{forward.to}:{forward.to_port}",
                "container": forward.mark.object,
            }
            for forward in state.forwards
        ]
    return found


def _address(address: IPv4Address, unresolved: Mapping[IPv4Address, str]) -> str:
    return unresolved.get(address, str(address))


def _network(network: IPv4Network, unresolved: Mapping[IPv4Address, str]) -> str:
    return unresolved.get(network.network_address, str(network))


def _link(link: Link, unresolved: Mapping[IPv4Address, str]) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": link.kind, "name": link.name, "mtu": link.mtu}
    if isinstance(link, Vlan):
        found |= {"parent": link.parent, "vid": link.vid, "master": link.master}
    if isinstance(link, Ipip):
        remote = _address(link.remote, unresolved) if link.remote else None
        found |= {"local": _address(link.local, unresolved), "remote": remote}
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
