"""Topology files: YAML -> Topology, every mistake at once, each with its line and what would be right.

pydantic says what has the wrong shape; `_Checker` what is wrong only in the light of the rest of the file.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from coordinator.config.problem import Place, Report, suggest
from coordinator.config.tree import Mapping, Node, Scalar, Sequence, is_nothing, read_tree
from coordinator.lab.topology import MTU_DEFAULT, NATBOX, SECOND_NATBOX, Machine, Nic, Role, Switch, Topology
from proto.errors import CaasError, invalid
from proto.model.network import check_mtu
from proto.names import check_hostname, check_ifname

DEFAULT = "default.yaml"
_NATBOXES = (NATBOX, SECOND_NATBOX)
SIZE_MAX = 256
"""Machines and switches in one lab: more than a bridge has ports for would need more than one switch."""


def _checked(check: Any) -> AfterValidator:
    def run(value: Any) -> Any:
        try:
            check(value)
        except CaasError as exc:
            raise ValueError(exc.message) from exc
        return value

    return AfterValidator(run)


def _host_address(value: ipaddress.IPv4Interface) -> ipaddress.IPv4Interface:
    net = value.network
    if net.prefixlen < 31 and value.ip in (net.network_address, net.broadcast_address):
        raise ValueError(f"{value.ip} is the network or broadcast address of {net}")
    return value


def _with_prefix(value: Any) -> Any:
    if isinstance(value, str) and "/" not in value:
        raise ValueError(f"{value!r} has no prefix length: write it as {value}/24")
    return value


def _empty_if_nothing(value: Any) -> Any:
    return {} if value is None else value


HostName = Annotated[str, _checked(check_hostname)]
LinkName = Annotated[str, _checked(check_ifname)]
Mtu = Annotated[int, _checked(check_mtu)]
Interface = Annotated[ipaddress.IPv4Interface, AfterValidator(_host_address), BeforeValidator(_with_prefix)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Switch(_Strict):
    mtu: Mtu = MTU_DEFAULT


class _Nic(_Strict):
    switch: HostName | None = None
    to: str | None = None
    address: Interface | None = None
    mtu: Mtu | None = None


class _Machine(_Strict):
    nics: dict[LinkName, Annotated[_Nic, BeforeValidator(_empty_if_nothing)]] = Field(min_length=1)
    gateway: ipaddress.IPv4Address | None = None
    routes: dict[ipaddress.IPv4Network, ipaddress.IPv4Address] = {}


class _NatBox(_Machine):
    trunk: LinkName
    uplink: LinkName


class _File(_Strict):
    coordinator: HostName | None = None
    switches: dict[HostName, Annotated[_Switch, BeforeValidator(_empty_if_nothing)]] = {}
    hosts: dict[HostName, _Machine] = Field(min_length=1)
    natbox: _NatBox | None = None
    natbox2: _NatBox | None = None
    routers: dict[HostName, _Machine] = {}
    stations: dict[HostName, _Machine] = {}


def default_topology() -> Topology:
    """The lab of design.md."""
    return parse_topology(default_text(), DEFAULT)


def default_text() -> bytes:
    """The default lab's topology file."""
    return resources.files("coordinator.lab").joinpath(DEFAULT).read_bytes()


def load_topology(path: Path) -> Topology:
    """The topology in the file *path*; INVALID with every mistake in it."""
    return parse_topology(read_topology(path), str(path))


def read_topology(path: Path) -> bytes:
    """The bytes of *path*; INVALID where they cannot be read."""
    try:
        return path.read_bytes()
    except OSError as exc:
        raise invalid(f"{path}: {exc.strerror}") from exc


def parse_topology(data: bytes, name: str) -> Topology:
    """The topology in *data*, which came from a file called *name*."""
    report = Report(name)
    root = read_tree(data, report)
    report.check()
    assert root is not None
    try:
        file = _File.model_validate(_plain(root))
    except ValidationError as exc:
        _report_shape(exc, root, report)
        report.check()
        raise
    topology = _Checker(file, root, report).topology()
    report.check()
    return topology


def _plain(node: Node) -> Any:
    """The tree as Python values. Scalars stay text: pydantic reads numbers where numbers are wanted."""
    match node:
        case Mapping():
            return {key: _plain(entry.node) for key, entry in node.entries.items()}
        case Sequence():
            return [_plain(item) for item in node.items]
        case Scalar():
            return None if is_nothing(node) else node.text


def _find(root: Node, loc: tuple[Any, ...]) -> tuple[Place, str]:
    """The place of the last thing on the way *loc* that is in the file, and the keys that lead to it."""
    place, node, keys = Place(1, 1), root, []
    for step in loc:
        if isinstance(node, Mapping) and str(step) in node.entries:
            entry = node.entries[str(step)]
            place, node = entry.place, entry.node
        elif step == "[key]":
            continue
        keys.append(str(step))
    return place, ".".join(keys)


def _report_shape(exc: ValidationError, root: Node, report: Report) -> None:
    for error in exc.errors(include_url=False):
        loc, hint = error["loc"], ""
        place, path = _find(root, loc)
        match error["type"]:
            case "extra_forbidden":
                message, hint = "unknown key", suggest(str(loc[-1]), _known_keys(loc[:-1]))
            case "missing":
                message = "missing"
            case "value_error":
                message = str(error["ctx"]["error"])
            case _:
                said = error["msg"]
                message = f"{error['input']!r}: {said[0].lower()}{said[1:]}"
        report.add(place, path, message, hint=hint)


def _known_keys(loc: tuple[Any, ...]) -> list[str]:
    match loc:
        case ():
            model: type[BaseModel] = _File
        case ("natbox",) | ("natbox2",):
            model = _NatBox
        case ("switches", _):
            model = _Switch
        case (*_, "nics", _):
            model = _Nic
        case _:
            model = _Machine
    return list(model.model_fields)


class _Checker:
    """Turns a well-shaped file into a Topology and reports what does not fit together."""

    def __init__(self, file: _File, root: Node, report: Report) -> None:
        self._file, self._root, self._report = file, root, report
        self._sections: dict[str, tuple[Role, tuple[str, ...], _Machine]] = {}
        for section, role in (("hosts", Role.HOST), ("routers", Role.ROUTER), ("stations", Role.STATION)):
            for name, machine in getattr(file, section).items():
                self._add(name, role, (section, name), machine)
        for name, natbox in ((NATBOX, file.natbox), (SECOND_NATBOX, file.natbox2)):
            if natbox is not None:
                self._add(name, Role.NATBOX, (name,), natbox)
        self._wires = self._find_wires()

    def topology(self) -> Topology:
        file = self._file
        coordinator = file.coordinator or next(iter(file.hosts))
        if coordinator not in file.hosts:
            self._problem(("coordinator",), f"{coordinator!r} is none of the hosts", suggest(coordinator, file.hosts))
        if len(self._sections) + len(file.switches) > SIZE_MAX:
            self._problem((), f"more than {SIZE_MAX} machines and switches")
        switches = {name: Switch(name=name, mtu=switch.mtu) for name, switch in file.switches.items()}
        machines = {name: self._machine(name) for name in self._sections}
        self._check_duplicates()
        self._check_pair(machines)
        return Topology(coordinator=coordinator, switches=switches, machines=machines)

    def _problem(self, loc: tuple[str, ...], message: str, hint: str = "") -> None:
        place, path = _find(self._root, loc)
        self._report.add(place, path, message, hint=hint)

    def _add(self, name: str, role: Role, loc: tuple[str, ...], machine: _Machine) -> None:
        if name in self._sections or name in self._file.switches or (name in _NATBOXES and role is not Role.NATBOX):
            self._problem(loc, f"the name {name!r} is taken by another machine or switch")
        self._sections.setdefault(name, (role, loc, machine))

    def _find_wires(self) -> dict[tuple[str, str], tuple[str, str]]:
        """Both directions of every `to:`."""
        wires: dict[tuple[str, str], tuple[str, str]] = {}
        for name, (_, loc, machine) in self._sections.items():
            for nic_name, nic in machine.nics.items():
                if nic.to is None:
                    continue
                here, where = (name, nic_name), (*loc, "nics", nic_name, "to")
                other, _, port = nic.to.partition(".")
                there = (other, port)
                if other not in self._sections or port not in self._sections[other][2].nics:
                    known = [f"{n}.{p}" for n, (_, _, m) in self._sections.items() for p in m.nics]
                    self._problem(where, f"there is no NIC {nic.to!r}", suggest(nic.to, known))
                elif there == here or there in wires or here in wires:
                    self._problem(where, f"{nic.to} has a wire already, or is this NIC itself", "say `to` on one end")
                else:
                    wires[here], wires[there] = there, here
        return wires

    def _machine(self, name: str) -> Machine:
        role, loc, machine = self._sections[name]
        nics = tuple(
            nic for nic_name, seen in machine.nics.items() if (nic := self._nic(name, loc, nic_name, seen)) is not None
        )
        routes = dict(machine.routes)
        if machine.gateway is not None:
            routes[ipaddress.IPv4Network("0.0.0.0/0")] = machine.gateway
        self._check_machine(role, loc, nics, routes)
        if not isinstance(machine, _NatBox):
            return Machine(name=name, role=role, nics=nics, routes=tuple(routes.items()))
        self._check_natbox(name, machine, nics)
        return Machine(
            name=name,
            role=role,
            nics=nics,
            routes=tuple(routes.items()),
            trunk=machine.trunk,
            uplink=machine.uplink,
            onlink=machine.uplink if self._file.natbox2 is not None else "",
        )

    def _nic(self, machine: str, loc: tuple[str, ...], name: str, nic: _Nic) -> Nic | None:
        where = (*loc, "nics", name)
        wire = self._wires.get((machine, name), ("", ""))
        mtu = MTU_DEFAULT
        if nic.switch is not None:
            if nic.switch not in self._file.switches:
                self._problem((*where, "switch"), f"no switch {nic.switch!r}", suggest(nic.switch, self._file.switches))
                return None
            mtu = self._file.switches[nic.switch].mtu
            if nic.mtu is not None and nic.mtu > mtu:
                self._problem(
                    (*where, "mtu"), f"{nic.mtu} bytes do not pass switch {nic.switch}, whose MTU is {mtu}", "lower it"
                )
        if (nic.switch is not None) + any(wire) + (nic.to is not None and not any(wire)) != 1:
            self._problem(where, "a NIC needs either `switch: NAME` or a wire (`to: MACHINE.NIC` on one end)")
            return None
        if nic.to is not None and not any(wire):
            return None
        try:
            return Nic(name=name, mtu=nic.mtu or mtu, switch=nic.switch or "", wire=wire, address=nic.address)
        except CaasError as exc:
            self._problem(where, exc.message)
            return None

    def _check_machine(
        self,
        role: Role,
        loc: tuple[str, ...],
        nics: tuple[Nic, ...],
        routes: dict[ipaddress.IPv4Network, ipaddress.IPv4Address],
    ) -> None:
        addresses = [nic.address for nic in nics if nic.address is not None]
        if role in (Role.HOST, Role.NATBOX) and not addresses and len(nics) == len(self._sections[loc[-1]][2].nics):
            self._problem(loc, "no NIC has an address: its daemon could not be reached")
        for index, address in enumerate(addresses):
            if any(address.network.overlaps(other.network) for other in addresses[:index]):
                self._problem((*loc, "nics"), f"{address}: another NIC of this machine is in an overlapping subnet")
        for dst, via in routes.items():
            if not any(via in address.network for address in (*addresses, *self._shared(role))):
                key = ("gateway",) if dst.prefixlen == 0 else ("routes", str(dst))
                self._problem((*loc, *key), f"{via} is in no subnet of this machine's NICs")

    def _shared(self, role: Role) -> list[ipaddress.IPv4Interface]:
        """What either of two NATBoxes may have on its uplink."""
        natbox = self._file.natbox
        if role is not Role.NATBOX or natbox is None or self._file.natbox2 is None:
            return []
        nic = natbox.nics.get(natbox.uplink)
        return [nic.address] if nic is not None and nic.address is not None else []

    def _check_natbox(self, which: str, natbox: _NatBox, nics: tuple[Nic, ...]) -> None:
        by_name = {nic.name: nic for nic in nics}
        for key, name in (("trunk", natbox.trunk), ("uplink", natbox.uplink)):
            if name not in natbox.nics:
                self._problem((which, key), f"NATBox has no NIC {name!r}", suggest(name, natbox.nics))
        if natbox.trunk == natbox.uplink:
            self._problem((which, "uplink"), f"{natbox.uplink} is the trunk, which NATBox has for itself")
        trunk, uplink = by_name.get(natbox.trunk), by_name.get(natbox.uplink)
        if trunk is not None and trunk.address is not None:
            self._problem((which, "nics", trunk.name, "address"), "NATBox's trunk carries tagged frames only")
        if uplink is not None and uplink.address is None and which == NATBOX:
            self._problem((which, "nics", uplink.name), "NATBox's uplink needs an address to translate to")
        if uplink is not None and uplink.address is not None and which == SECOND_NATBOX:
            where = (which, "nics", uplink.name, "address")
            self._problem(where, "the uplink's address is the first NATBox's", "leave it out: it goes with the packets")

    def _check_pair(self, machines: dict[str, Machine]) -> None:
        """Two NATBoxes have the same neighbours on both sides."""
        one, other = machines.get(NATBOX), machines.get(SECOND_NATBOX)
        if other is None:
            return
        if one is None:
            self._problem((SECOND_NATBOX,), "there is no first one", "call it natbox")
            return
        for what in ("trunk", "uplink"):
            switches = [
                next((nic.switch for nic in machine.nics if nic.name == getattr(machine, what)), "")
                for machine in (one, other)
            ]
            if switches[0] != switches[1] or not all(switches):
                self._problem((SECOND_NATBOX, what), f"the {what} must be on the first one's switch, and that on one")

    def _check_duplicates(self) -> None:
        """One address twice on a switch. (On a wire the second would be found by its machine's own check.)"""
        found = [
            ((*loc, "nics", name, "address"), nic.switch, nic.address.ip)
            for _, loc, machine in self._sections.values()
            for name, nic in machine.nics.items()
            if nic.address is not None and nic.switch is not None
        ]
        count = Counter((switch, ip) for _, switch, ip in found)
        for loc, switch, ip in found:
            if count[switch, ip] > 1:
                self._problem(loc, f"{ip} is there twice on switch {switch}")
