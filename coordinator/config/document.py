"""Our own YAML: the tree of a file as a ClusterFile. Looks at each value by itself; check.py looks at the whole."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network

from coordinator.config import tree
from coordinator.config.check_routed import make_blocks
from coordinator.config.cluster import (
    API_WORKERS_MAX,
    DENSITIES,
    OVERLAYS,
    VIRT_DRIVERS,
    ClusterFile,
    ContainerSpec,
    Host,
    NatBox,
    Network,
    NovaOptions,
    Path,
    RoutedNetwork,
    VlanNetwork,
)
from coordinator.config.fields import Fields, better_name, dotted
from coordinator.config.problem import Place, Report, suggest
from coordinator.config.publishing import read_limits, read_publish
from coordinator.nova.roles import ROLE_WORDS, expand_roles
from proto.errors import CaasError, invalid
from proto.model.network import VID_MAX, VID_MIN
from proto.names import check_cluster_name, check_hostname, check_ifname

PREFIX_MIN, PREFIX_MAX = 8, 30
_REGION = re.compile(r"[A-Za-z0-9_-]{1,63}")
_LINK_NAME = "a link's name, as eth1"


class DocumentReader:
    """Reads one tree. What cannot be read is reported and left out, so that the rest can still be checked.

    Containers that name an unknown host are in `containers` all the same: check.py reports the reference.
    """

    def __init__(self, report: Report, *, default_name: str, agents: Mapping[IPv4Address, str] | None = None) -> None:
        self._report = report
        self._agents = agents
        self._default_name = default_name
        self._places: dict[Path, Place] = {}

    def read(self, root: tree.Node) -> ClusterFile:
        """The cluster file in *root*. It is only good where the report stayed empty."""
        top = Fields(
            root,
            "",
            self._report,
            place=root.place,
            required=("hosts", "networks", "containers"),
            optional=("name", "natbox", "nova", "density", "publish"),
        )
        for key in ("name", "hosts", "natbox", "networks", "containers", "nova", "density", "publish"):
            if top.node(key) is not None:
                self._places[(key,)] = top.where(key)
        self._places[()] = root.place
        name = self._default_name
        if top.node("name") is not None:
            name = top.checked("name", "a cluster's name", check_cluster_name) or ""
        hosts = {key: host for key, fields in self._named(top, "hosts", "host") if (host := _host(key, fields))}
        ports, api = read_publish(top, self._places)
        networks = {
            key: net for key, fields in self._named(top, "networks", "network") if (net := _network(key, fields, hosts))
        }
        return ClusterFile(
            name=name,
            hosts=hosts | self._peers(hosts, networks),
            natbox=self._natbox(top),
            networks=networks,
            containers={
                key: spec for key, fields in self._named(top, "containers", "container") if (spec := _spec(key, fields))
            },
            nova=self._nova(top),
            density=top.choice("density", DENSITIES) or DENSITIES[0],
            ports=ports,
            api=api,
            file=self._report.file,
            places=self._places,
        )

    def _peers(self, hosts: Mapping[str, Host], networks: Mapping[str, Network]) -> dict[str, Host]:
        """The hosts that *networks* only have tunnels to: as the agents there are called, else by their addresses."""
        known = {host.address for host in hosts.values()}
        found: dict[str, Host] = {}
        for network in networks.values():
            for peer in network.tunnel_to if isinstance(network, RoutedNetwork) else ():
                name = str(peer) if self._agents is None else self._agents.get(peer, "")
                if peer in known or name in found:
                    continue
                place, path = (
                    self._places[("networks", network.name, "tunnel_to")],
                    f"networks.{network.name}.tunnel_to",
                )
                if not name or name in hosts:
                    why = (
                        f"its agent is called {name}, as another host of this file"
                        if name
                        else "no agent is known there"
                    )
                    listed = ", ".join(f"{one} ({at})" for at, one in (self._agents or {}).items()) or "none"
                    self._report.add(place, path, f"{peer}: {why}", hint=f"known agents: {listed}")
                else:
                    found[name] = Host(name=name, address=peer, is_peer=True)
        return found

    def _named(self, top: Fields, section: str, what: str) -> list[tuple[str, Fields]]:
        found = []
        for key, entry in top.mapping(section, what).items():
            path = dotted(section, key)
            required, optional = _KEYS["routed" if section == "networks" and _is_routed(entry.node) else section]
            try:
                check_hostname(key)
            except CaasError as exc:
                message = exc.message if section != "networks" else exc.message.replace("host name", "network name")
                self._report.add(entry.place, path, message, hint=better_name(key, check_hostname))
            if key == "localhost" and section == "containers":
                self._report.add(
                    entry.place, path, "a container cannot be called localhost", hint="choose another name"
                )
            fields = Fields(entry.node, path, self._report, place=entry.place, required=required, optional=optional)
            self._places[(section, key)] = entry.place
            for inner in (*required, *optional):
                if fields.node(inner) is not None:
                    self._places[(section, key, inner)] = fields.where(inner)
            found.append((key, fields))
        return found

    def _natbox(self, top: Fields) -> NatBox | None:
        node = top.node("natbox")
        if node is None:
            return None
        fields = Fields(
            node, "natbox", self._report, place=top.where("natbox"), required=("address", "trunk", "uplink")
        )
        for key in ("address", "trunk", "uplink"):
            self._places[("natbox", key)] = fields.where(key)
        address = fields.address("address")
        trunk = fields.checked("trunk", _LINK_NAME, check_ifname)
        uplink = fields.checked("uplink", _LINK_NAME, check_ifname)
        if trunk and trunk == uplink:
            fields.wrong("uplink", f"{uplink} is the trunk already", hint="the uplink is a link of its own")
        return NatBox(address=address, trunk=trunk, uplink=uplink) if address and trunk and uplink else None

    def _nova(self, top: Fields) -> NovaOptions:
        node = top.node("nova")
        if node is None:
            return NovaOptions()
        fields = Fields(
            node,
            "nova",
            self._report,
            place=top.where("nova"),
            required=(),
            optional=("virt_driver", "region", "api_workers"),
        )
        usual = NovaOptions()
        workers = fields.integer("api_workers", lowest=1, highest=API_WORKERS_MAX, what="api_workers")
        return NovaOptions(
            virt_driver=fields.choice("virt_driver", VIRT_DRIVERS) or usual.virt_driver,
            region=fields.checked("region", "a region's name", _check_region) or usual.region,
            api_workers=workers or usual.api_workers,
        )


_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "hosts": (("address",), ("trunk",)),
    "networks": (("vlan", "subnet"), ("gateway", "external", "limits")),
    "routed": (("subnet",), ("overlay", "tunnel_to")),
    "containers": (("host", "network", "roles"), ("address", "ssh", "external")),
}


#: In a file that is refused anyway: no network has this VID.
UNREADABLE_VID = 0


def _check_region(name: str) -> str:
    if not _REGION.fullmatch(name):
        raise invalid(f"region {name!r}: 1 to 63 letters, digits, '-' and '_'")
    return name


def _host(name: str, fields: Fields) -> Host | None:
    address = fields.address("address")
    trunk = fields.checked("trunk", _LINK_NAME, check_ifname)
    return Host(name=name, address=address, trunk=trunk or "") if address else None


def _is_routed(node: tree.Node) -> bool:
    return isinstance(node, tree.Mapping) and not {"overlay", "tunnel_to"}.isdisjoint(node.entries)


def _network(name: str, fields: Fields, hosts: Mapping[str, Host]) -> Network | None:
    if fields.node("overlay") is None and fields.node("tunnel_to") is None:
        return _vlan(name, fields)
    subnet = fields.network("subnet")
    overlay = fields.choice("overlay", OVERLAYS) or OVERLAYS[0]
    peers = [peer for word in fields.words("tunnel_to") if (peer := fields.as_address("tunnel_to", word)) is not None]
    if subnet is None or not hosts or not is_usable(subnet, fields, "subnet"):
        return None
    try:
        blocks = make_blocks(subnet, list(hosts))
    except ValueError as exc:
        fields.wrong("subnet", str(exc), hint="begin lower, or make the blocks smaller")
        return None
    return RoutedNetwork(name=name, blocks=blocks, overlay=overlay, tunnel_to=tuple(peers))


def _vlan(name: str, fields: Fields) -> Network | None:
    vid = fields.integer("vlan", lowest=VID_MIN, highest=VID_MAX, what="VID")
    subnet = fields.network("subnet")
    gateway = fields.address("gateway")
    if subnet is not None and not is_usable(subnet, fields, "subnet"):
        subnet = None
    if subnet is None:
        return None
    # A VID that could not be read is reported already; what else is wrong with the network still has to be found.
    return VlanNetwork(
        name=name,
        vid=vid or UNREADABLE_VID,
        subnet=subnet,
        gateway=gateway,
        external=fields.address("external"),
        limits=read_limits(fields),
    )


def is_usable(subnet: IPv4Network, fields: Fields, key: str) -> bool:
    """Whether containers can live in *subnet*, the value of *key*; reported where they cannot."""
    if not PREFIX_MIN <= subnet.prefixlen <= PREFIX_MAX:
        hint = f"a prefix length of {PREFIX_MIN}..{PREFIX_MAX} is needed"
        fields.wrong(key, f"{subnet}: nothing of that size can be a subnet of containers", hint=hint)
        return False
    if why := why_unusable(subnet):
        fields.wrong(key, f"{subnet} {why}", hint="choose a private one, as 192.168.10.0/24")
        return False
    return True


def why_unusable(subnet: IPv4Network) -> str:
    """Why containers cannot live in *subnet*; "" where they can."""
    if not PREFIX_MIN <= subnet.prefixlen <= PREFIX_MAX:
        return "has not the size of a subnet of containers"
    kinds = {
        "multicast": subnet.is_multicast,
        "loopback": subnet.is_loopback,
        "link-local": subnet.is_link_local,
        "reserved": subnet.is_reserved,
        "this-network": subnet.overlaps(IPv4Network("0.0.0.0/8")),
    }
    return next((f"is {kind} (RFC 6890)" for kind, is_kind in kinds.items() if is_kind), "")


def _spec(name: str, fields: Fields) -> ContainerSpec | None:
    host = fields.scalar("host", "a host of this file")
    network = fields.scalar("network", "a network of this file")
    address = fields.address("address")
    words = fields.words("roles")
    unknown = [word for word in words if word.text not in ROLE_WORDS]
    for word in unknown:
        hint = suggest(word.text, ROLE_WORDS)
        fields.report.add(word.place, dotted(fields.path, "roles"), f"unknown role {word.text!r}", hint=hint)
    return ContainerSpec(
        name=name,
        host=host.text if host else "",
        network=network.text if network else "",
        address=address,
        # None rather than some of them: check.py must not report as missing what could not be read.
        roles=() if unknown else expand_roles(word.text for word in words),
        ssh=fields.flag("ssh"),
        external=fields.address("external"),
    )
