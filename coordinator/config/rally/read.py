"""A deployment file's engines and providers, in every spelling there was, as a list of parts in the order of work.

Keys that were spelt otherwise (October 2013 to April 2014) are read as what they became; what nothing can be made of
any more is refused with what to write instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network

from coordinator.config import tree
from coordinator.config.cluster import CONTROLLER_TOKEN
from coordinator.config.problem import Place
from coordinator.config.rally.keys import Keys, kind_of
from coordinator.config.rally.localconf import LocalConf, LocalConfReader
from coordinator.config.rally.notes import Notes
from proto.errors import CaasError
from proto.names import check_host

#: A bridge has 1,024 ports at most (BR_MAX_PORTS in net/bridge/br_private.h), and one is not a container's.
CONTAINERS_MAX = 1023
#: The coordinator's own host.
LOCALHOST = ("localhost", "127.0.0.1", "::1")
_NO_CLOUD = "it describes a cloud that exists: there is nothing to deploy"
_NO_SERVERS = "caas makes no servers: name hosts that exist, with ExistingServers"
REFUSED_ENGINES = {
    "ExistingCloud": _NO_CLOUD,
    "FuelEngine": "caas deploys nova itself: use DevstackEngine",
}
REFUSED_PROVIDERS = dict.fromkeys(("OpenStackProvider", "VirshProvider", "CobblerProvider"), _NO_SERVERS)
_NO_SSH = "hosts are reached by their agents, not by SSH, here and everywhere in the file"
IDLE_CREDENTIALS = ("user", "port", "key", "password")
_OLD_NETWORK = "start_lxc_network"
_OLD_KEYS = ("ipv4_start_address", "ipv4_prefixlen", "start_ip_address", "container_config")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A host as the file names it; CONTROLLER_TOKEN for the controller's own."""

    name: str
    place: Place
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """An end of tunnels: an address, or None for where the controller is."""

    address: IPv4Address | None
    place: Place
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lxc:
    """Containers on each of the part's servers. `is_engine`: LxcEngine's, whose names end in the number, and which
    installs the first and clones the others from it."""

    prefix: str
    per_host: int
    start: IPv4Network | None
    tunnel_to: tuple[Peer, ...]
    forward_ssh: bool
    is_engine: bool
    keys: Keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One DevstackEngine and where it works: in containers, or (`lxc` None) on the servers themselves."""

    servers: tuple[Server, ...]
    lxc: Lxc | None
    conf: LocalConf
    is_node: bool
    place: Place
    path: str


class RallyReader:
    """Reads one tree; mistakes are in *notes*, and what has them is left out."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        #: The distributions that images are needed for: distribution and release ("" for any), and who asks.
        self.images: list[tuple[str, str, Keys]] = []
        #: Keys of credentials that were told of: once for a file is enough.
        self._told: set[str] = set()

    def read(self, root: tree.Node) -> list[Part]:
        """The parts, the controller's first."""
        path = ""
        if isinstance(root, tree.Mapping) and "deploy" in root.entries:
            for key, entry in root.entries.items():
                if key != "deploy":
                    self._notes.warn(entry.place, key, "it has no effect: only what is under deploy is deployed")
            root, path = root.entries["deploy"].node, "deploy"
        allowed = ("MultihostEngine", "DevstackEngine", "LxcEngine")
        match kind_of(root, path, self._notes, allowed=allowed, refused=REFUSED_ENGINES):
            case "MultihostEngine":
                assert isinstance(root, tree.Mapping)
                return self._multihost(root, path)
            case "":
                return []
            case kind:
                return self._engine(kind, root, path, is_node=False)

    def _multihost(self, node: tree.Mapping, path: str) -> list[Part]:
        keys = Keys(node, path, self._notes, known=("type", "name", "controller", "master", "nodes"))
        name = "master" if keys.node("controller") is None and keys.node("master") is not None else "controller"
        if name == "controller" and keys.node("master") is not None:
            keys.wrong("master", "it is what controller was called once: there are both", hint="keep one of them")
        parts: list[Part] = []
        controller = keys.child(name, needed='add "controller": {"type": "DevstackEngine", …}')
        if controller is not None:
            at = keys.at(name)
            refused = REFUSED_ENGINES | dict.fromkeys(
                ("LxcEngine", "MultihostEngine"),
                "as a controller it has no address that nodes could be given: use DevstackEngine",
            )
            kind = kind_of(controller, at, self._notes, allowed=("DevstackEngine",), refused=refused)
            parts += self._engine(kind, controller, at, is_node=False)
        refused = REFUSED_ENGINES | {"MultihostEngine": "a node is one engine: list its nodes here"}
        nodes = keys.items("nodes", needed='add "nodes": [{"type": "LxcEngine", …}]')
        for index, item in enumerate(nodes):
            at = f"{keys.at('nodes')}[{index}]"
            kind = kind_of(item, at, self._notes, allowed=("DevstackEngine", "LxcEngine"), refused=refused)
            parts += self._engine(kind, item, at, is_node=True)
        return parts

    def _engine(self, kind: str, node: tree.Node, path: str, *, is_node: bool) -> list[Part]:
        if not kind or not isinstance(node, tree.Mapping):
            return []
        part = self._lxc_engine(node, path, is_node) if kind == "LxcEngine" else self._devstack(node, path, is_node)
        return [part] if part else []

    def _devstack(self, node: tree.Mapping, path: str, is_node: bool) -> Part | None:
        keys = self._devstack_keys(node, path, "provider")
        conf = LocalConfReader(keys, is_node=is_node).read()
        provider = keys.child("provider", needed='add "provider": {"type": "ExistingServers", …}')
        if provider is None:
            return None
        at = keys.at("provider")
        allowed = ("ExistingServers", "LxcProvider")
        kind = kind_of(provider, at, self._notes, allowed=allowed, refused=REFUSED_PROVIDERS)
        if kind == "ExistingServers":
            servers = self._servers(provider, at)
            return Part(servers=servers, lxc=None, conf=conf, is_node=is_node, place=node.place, path=path)
        if kind == "LxcProvider":
            return self._lxc_provider(provider, at, conf, is_node)
        return None

    def _devstack_keys(self, node: tree.Mapping, path: str, *more: str) -> Keys:
        known = ("type", "name", "local_conf", "localrc", "devstack_repo", "devstack_branch", *more)
        idle = {} if more else {"provider": "LxcEngine gives its engine the container it works in"}
        return Keys(node, path, self._notes, known=known, idle=idle)

    def _lxc_provider(self, node: tree.Mapping, path: str, conf: LocalConf, is_node: bool) -> Part | None:
        known = (
            *("type", "name", "container_name_prefix", "containers_per_host", "nodes_per_server", "host_provider"),
            *("distribution", "release", "start_lxc_network", "tunnel_to", "forward_ssh", *_OLD_KEYS),
        )
        idle = {"lxc_bridge": "the first bridge of a host is lxcbr0"}
        keys = Keys(node, path, self._notes, known=known, idle=idle)
        distribution = keys.text("distribution") if keys.node("distribution") is not None else "ubuntu"
        lxc = self._lxc(keys, "container_name_prefix", distribution, is_engine=False)
        servers = self._hosts_of(keys, "host_provider")
        if lxc is None or not servers:
            return None
        return Part(servers=servers, lxc=lxc, conf=conf, is_node=is_node, place=node.place, path=path)

    def _lxc_engine(self, node: tree.Mapping, path: str, is_node: bool) -> Part | None:
        known = (
            *("type", "name", "container_name", "containers_per_host", "nodes_per_server", "provider", "engine"),
            *("distribution", "release", "start_lxc_network", "tunnel_to", *_OLD_KEYS),
        )
        idle = {
            "start_script": "services are configured and started by caas",
            "forward_ssh": "LxcEngine never forwarded SSH: LxcProvider does",
        }
        keys = Keys(node, path, self._notes, known=known, idle=idle)
        distribution = keys.text("distribution", needed='add "distribution": "ubuntu", which every LxcEngine needs')
        lxc = self._lxc(keys, "container_name", distribution, is_engine=True)
        servers = self._hosts_of(keys, "provider")
        engine = keys.child("engine", needed='add "engine": {"name": "DevstackEngine", …}')
        if engine is None:
            return None
        at = keys.at("engine")
        refused = REFUSED_ENGINES | dict.fromkeys(
            ("LxcEngine", "MultihostEngine"), "only DevstackEngine works in containers"
        )
        if not kind_of(engine, at, self._notes, allowed=("DevstackEngine",), refused=refused):
            return None
        conf = LocalConfReader(self._devstack_keys(engine, at), is_node=is_node).read()
        if lxc is None or not servers:
            return None
        return Part(servers=servers, lxc=lxc, conf=conf, is_node=is_node, place=node.place, path=path)

    def _lxc(self, keys: Keys, name_key: str, distribution: str | None, *, is_engine: bool) -> Lxc | None:
        for key in _OLD_KEYS:
            if keys.node(key) is not None:
                message = "containers are not in the hosts' own network any more: each host has a block of its own"
                keys.wrong(key, message, hint=f"write {_OLD_NETWORK}, as 10.100.1.0/24, instead")
        prefix = keys.text(name_key, needed=f'add "{name_key}": "…", which the containers\' names begin with')
        per_host = self._per_host(keys)
        release = keys.text("release") or ""
        if distribution:
            self.images.append((distribution, release, keys))
        start = self._start(keys)
        tunnel_to = tuple(self._peers(keys))
        if tunnel_to and keys.node(_OLD_NETWORK) is None:
            message = f"tunnels need a network that leads through them: {_OLD_NETWORK} is missing"
            keys.wrong("tunnel_to", message, hint=f'add "{_OLD_NETWORK}": "10.100.1.0/24"')
        if prefix is None or per_host is None:
            return None
        return Lxc(
            prefix=prefix,
            per_host=per_host,
            start=start,
            tunnel_to=tunnel_to,
            forward_ssh=keys.flag("forward_ssh") if not is_engine else False,
            is_engine=is_engine,
            keys=keys,
        )

    def _per_host(self, keys: Keys) -> int | None:
        """`containers_per_host`, or `nodes_per_server`, which Rally's samples had and its code never read."""
        spellings = [key for key in ("containers_per_host", "nodes_per_server") if keys.node(key) is not None]
        if not spellings:
            keys.missing("containers_per_host", 'add "containers_per_host": 1')
            return None
        found = [keys.integer(key, 1, CONTAINERS_MAX) for key in spellings]
        if len(found) == 2 and None not in found and found[0] != found[1]:
            message = f"{found[1]}, but containers_per_host, which is the same, is {found[0]}"
            keys.wrong("nodes_per_server", message, hint="keep one of them")
        return found[0]

    def _start(self, keys: Keys) -> IPv4Network | None:
        text = keys.text(_OLD_NETWORK)
        if text is None:
            return None
        try:
            if "/" not in text:
                raise ValueError("the prefix length is missing")
            return IPv4Network(text)
        except ValueError as exc:
            keys.wrong(_OLD_NETWORK, f"{text!r} is no network: {exc}", hint=_network_hint(text))
            return None

    def _peers(self, keys: Keys) -> list[Peer]:
        found = []
        for item in keys.items("tunnel_to"):
            path = keys.at("tunnel_to")
            if not isinstance(item, tree.Scalar) or item.plain:
                self._notes.wrong(item.place, path, f"found {tree.describe(item)}", hint="an IPv4 address is needed")
                continue
            try:
                address = None if item.text == CONTROLLER_TOKEN else IPv4Address(item.text)
            except AddressValueError as exc:
                hint = f"an address, or {CONTROLLER_TOKEN}" if "{" in item.text else "four numbers 0..255"
                self._notes.wrong(item.place, path, f"{item.text!r} is no IPv4 address: {exc}", hint=hint)
                continue
            found.append(Peer(address=address, place=item.place, path=path))
        return found

    def _hosts_of(self, keys: Keys, key: str) -> tuple[Server, ...]:
        """The hosts of an ExistingServers under *key*."""
        provider = keys.child(key, needed=f'add "{key}": {{"type": "ExistingServers", …}}')
        if provider is None:
            return ()
        at = keys.at(key)
        refused = REFUSED_PROVIDERS | {"LxcProvider": "containers are not made in containers: name physical hosts"}
        if not kind_of(provider, at, self._notes, allowed=("ExistingServers",), refused=refused):
            return ()
        return self._servers(provider, at)

    def _servers(self, node: tree.Mapping, path: str) -> tuple[Server, ...]:
        keys = Keys(node, path, self._notes, known=("type", "name", "credentials"))
        items = keys.items("credentials", needed='add "credentials": [{"host": "192.168.2.25", "user": "root"}]')
        if not items and isinstance(keys.node("credentials"), tree.Sequence):
            keys.wrong("credentials", "the list is empty", hint="name at least one host")
        found: dict[str, Server] = {}
        for index, item in enumerate(items):
            server = self._server(item, f"{keys.at('credentials')}[{index}]")
            if server is None or not self._is_host(server):
                continue
            if found.setdefault(server.name.lower(), server) is not server:
                hint = "each host stands once among credentials"
                self._notes.wrong(server.place, server.path, f"{server.name} is there already", hint=hint)
        return tuple(found.values())

    def _is_host(self, server: Server) -> bool:
        if server.name == CONTROLLER_TOKEN or server.name.lower() in LOCALHOST:
            return True
        try:
            check_host(server.name.lower())
        except CaasError as exc:
            self._notes.wrong(server.place, server.path, exc.message, hint="as 192.168.2.25, or host1.example.net")
            return False
        return True

    def _server(self, item: tree.Node, path: str) -> Server | None:
        """`{"user": "root", "host": "h"}`, or "root@h" as until December 2013."""
        if isinstance(item, tree.Scalar) and not item.plain:
            user, at, host = item.text.rpartition("@")
            if not host:
                self._notes.wrong(item.place, path, f"{item.text!r} names no host", hint="as root@192.168.2.25")
                return None
            if at and "user" not in self._told:
                self._told.add("user")
                self._notes.warn(item.place, path, f"user {user} has no effect: {_NO_SSH}")
            return Server(name=host, place=item.place, path=path)
        if not isinstance(item, tree.Mapping):
            hint = 'as {"host": "192.168.2.25", "user": "root"}'
            self._notes.wrong(item.place, path, f"found {tree.describe(item)}", hint=hint)
            return None
        idle = {key: _NO_SSH for key in IDLE_CREDENTIALS if key not in self._told}
        self._told |= item.entries.keys() & idle.keys()
        keys = Keys(item, path, self._notes, known=("host", *IDLE_CREDENTIALS), idle=idle)
        name = keys.text("host", needed='add "host": "192.168.2.25"')
        return Server(name=name, place=keys.where("host"), path=keys.at("host")) if name else None


def _network_hint(text: str) -> str:
    try:
        return f"write {IPv4Network(text if '/' in text else text + '/24', strict=False)}"
    except ValueError:
        return "as in 10.100.1.0/24"
