"""From the parts of a deployment file to a cluster: hosts, blocks, names, roles."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from coordinator.config.cluster import CONTROLLER_TOKEN, ClusterFile, ContainerSpec, NovaOptions, Path
from coordinator.config.fields import better_name
from coordinator.config.problem import Place
from coordinator.config.rally.blocks import Blocks
from coordinator.config.rally.hosts import Hosts
from coordinator.config.rally.localconf import Pointer
from coordinator.config.rally.notes import Notes, in_order
from coordinator.config.rally.read import LOCALHOST, Part
from coordinator.config.rally.services import service_of
from coordinator.config.surroundings import Surroundings
from coordinator.nova.roles import COMPUTE, CONTROLLER_ROLES, ROLES
from proto.errors import CaasError
from proto.names import check_hostname

_NOVA_API = "nova-api"


@dataclass(slots=True)
class _Made:
    """Containers while they are made, with the part that each is of."""

    containers: dict[str, ContainerSpec] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)


class Builder:
    """Makes the ClusterFile of one file's parts. Mistakes are in *notes*."""

    def __init__(self, notes: Notes, surroundings: Surroundings, *, name: str) -> None:
        self._notes = notes
        self._name = name
        self._hosts = Hosts(surroundings, notes)
        self._blocks = Blocks(notes)
        self._made = _Made()
        self._holders: dict[str, str] = {}
        self._places: dict[Path, Place] = {}

    def build(self, parts: list[Part]) -> ClusterFile:
        """The cluster of *parts*; only good where no mistake was found."""
        named = self._hosts.take(parts)
        for part, hosts in zip(parts, named, strict=True):
            self._build_part(part, hosts)
        self._fill_roles()
        self._check_pointers(parts)
        return ClusterFile(
            name=self._name,
            hosts=self._hosts.hosts,
            natbox=None,
            networks=self._blocks.networks(),
            containers=self._made.containers,
            nova=self._nova(parts),
            file=self._notes.errors.file,
            places={(): Place(1, 1), **self._places, **self._hosts.places},
            warnings=in_order(self._notes.warnings),
            obstacles=in_order(self._notes.obstacles),
        )

    def _build_part(self, part: Part, hosts: list[str]) -> None:
        peers = self._hosts.take_peers(part.lxc.tunnel_to) if part.lxc else []
        network = self._blocks.take(part, hosts, peers)
        if not network:
            return
        for key, at in (("subnet", "start_lxc_network"), ("tunnel_to", "tunnel_to")):
            place = part.lxc.keys.where(at) if part.lxc else part.place
            self._places.setdefault(("networks", network, key), place)
        self._places.setdefault(("networks", network), part.place)
        dropped: dict[str, str] = {}
        for host in hosts:
            self._build_on(part, host, network, dropped)
        if part.lxc and part.lxc.forward_ssh and {*part.conf.roles} - {COMPUTE, *dropped}:
            message = "SSH alone is forwarded: the cloud's API answers at the controller container's own address"
            self._notes.warn(part.lxc.keys.where("forward_ssh"), part.lxc.keys.at("forward_ssh"), message)
        if dropped:
            services = ", ".join(service_of(role) for role in dropped)
            holder = next(iter(dropped.values()))
            message = f"{services} run once in a cluster, in {holder}: the other containers here are computes only"
            hint = "in Rally each container got a whole DevStack of its own, and only the first was used"
            self._notes.warn(part.place, part.path, message, hint=hint)

    def _build_on(self, part: Part, host: str, network: str, dropped: dict[str, str]) -> None:
        base = ""
        for name in self._names(part, host, network):
            if name in self._made.containers:
                what = "container" if part.lxc else "DevStack"
                message = f"{name}: there is a {what} of that name already"
                hint = "give each part a name or a network of its own" if part.lxc else "one server holds one DevStack"
                self._notes.wrong(part.place, part.path, message, hint=hint)
                return
            roles = self._claim_roles(part, name, dropped)
            # What stack.sh has set up in the first is cloned, whatever it is.
            cloneable = roles == (COMPUTE,) or part.conf.devstack is not None
            clones = part.lxc is not None and part.lxc.is_engine and cloneable
            self._made.containers[name] = ContainerSpec(
                name=name,
                host=host,
                network=network,
                roles=roles,
                clone_of=base if clones else "",
                ssh=True,
                forward_ssh=part.lxc is not None and part.lxc.forward_ssh,
                devstack=part.conf.devstack,
            )
            self._made.parts[name] = part
            self._places[("containers", name)] = part.place
            if clones:
                base = base or name
            if not roles and part.conf.devstack is None:
                services = "has no service that is deployed" if not part.conf.roles else "has nothing left to do"
                self._notes.wrong(part.place, part.path, f"{name} {services}", hint="see ENABLED_SERVICES")
                return

    def _names(self, part: Part, host: str, network: str) -> list[str]:
        """Of the containers on *host*: PREFIX-NUMBER-BLOCK for LxcProvider, NAME-BLOCK-NUMBER for LxcEngine."""
        if part.lxc is None:
            name = f"devstack-{host.replace('.', '-')}"
            message = f"nova is set up in a container on {host}, {name}: a host itself is never changed"
            self._notes.warn(part.place, part.path, message)
            return [self._checked(part, name, "")]
        block = self._blocks.dashed(part, network, host)
        prefix, numbers = part.lxc.prefix, range(part.lxc.per_host)
        key = "container_name" if part.lxc.is_engine else "container_name_prefix"
        names = [f"{prefix}-{block}-{i:03}" if part.lxc.is_engine else f"{prefix}-{i:03}-{block}" for i in numbers]
        return [*names[:-1], self._checked(part, names[-1], key)]

    def _checked(self, part: Part, name: str, key: str) -> str:
        try:
            return check_hostname(name)
        except CaasError as exc:
            hint = better_name(name, check_hostname)
            if part.lxc is not None and key:
                part.lxc.keys.wrong(key, exc.message, hint=hint or "choose a shorter one")
            else:
                self._notes.wrong(part.place, part.path, exc.message, hint=hint)
            return name

    def _claim_roles(self, part: Part, name: str, dropped: dict[str, str]) -> tuple[str, ...]:
        """The part's roles that are still to be had: each but compute has one holder, the first.

        With devstack_repo each container gets a whole DevStack of its own, as in Rally: none of it is for others.
        """
        if part.conf.devstack is not None:
            return part.conf.roles
        roles = []
        for role in part.conf.roles:
            holder = self._holders.setdefault(role, name) if role != COMPUTE else name
            if holder == name:
                roles.append(role)
            else:
                dropped.setdefault(role, holder)
        return tuple(roles)

    def _fill_roles(self) -> None:
        """What nova cannot do without goes where nova-api is. What stack.sh sets up is not looked at."""
        packaged = [one for one in self._made.containers.values() if one.devstack is None]
        missing = [role for role in CONTROLLER_ROLES if role not in self._holders]
        api = self._holders.get(_NOVA_API)
        if packaged and api is not None:
            self._tell_mixed(api)
        if not missing or not packaged or not all(one.roles for one in packaged):
            return
        if api is None:
            self._tell_no_controller(missing)
            return
        part = self._made.parts[api]
        roles = {*self._made.containers[api].roles, *missing}
        spec = replace(self._made.containers[api], roles=tuple(role for role in ROLES if role in roles))
        self._made.containers[api] = spec
        self._holders |= dict.fromkeys(missing, api)
        message = f"{', '.join(missing)} added to {api}: nova needs what ENABLED_SERVICES leaves out"
        self._notes.warn(part.place, part.path, message)

    def _tell_no_controller(self, missing: list[str]) -> None:
        part = next(one for one in self._made.parts.values() if one.conf.devstack is None)
        if any(one.conf.devstack for one in self._made.parts.values()):
            message = "its services come from packages, and cannot join a controller that stack.sh sets up"
            hint = "give every DevstackEngine of the file devstack_repo, or none"
            self._notes.hinder(part.place, part.path, message, hint=hint)
            return
        pointers = ", ".join(f"{one.key} is {one.host}" for one in part.conf.pointers)
        message = f"nobody holds {', '.join(missing)}{f' ({pointers})' if pointers else ''}"
        hint = "computes belong to the controller of their own cluster: make both with a MultihostEngine"
        self._notes.hinder(part.place, part.path, message, hint=hint)

    def _tell_mixed(self, api: str) -> None:
        for part in {id(one): one for one in self._made.parts.values() if one.conf.devstack}.values():
            message = f"stack.sh has its own passwords: what it sets up cannot join {api}, whose nova has others"
            hint = "give every DevstackEngine of the file devstack_repo, or none"
            self._notes.warn(part.place, part.path, message, hint=hint)

    def _check_pointers(self, parts: list[Part]) -> None:
        """MYSQL_HOST and the like must lead to this cluster's controller: services find each other by their roles."""
        holder = self._holders.get(_NOVA_API)
        if holder is None:
            return
        known = self._controller_names(holder)
        for part in parts:
            for pointer in part.conf.pointers:
                own = not part.is_node and pointer.host.lower() in LOCALHOST
                if not own and pointer.host.lower() not in known:
                    self._tell_pointer(pointer, known)

    def _tell_pointer(self, pointer: Pointer, known: set[str]) -> None:
        near = "{" in pointer.host
        hint = f"write {CONTROLLER_TOKEN}" if near else f"it is any of {', '.join(sorted(known))}"
        message = f"{pointer.host or 'nothing'} is not this cluster's controller"
        self._notes.hinder(pointer.place, pointer.path, message, hint=hint)

    def _controller_names(self, holder: str) -> set[str]:
        """What the container *holder* may be called: its name, the address it will have, its host."""
        spec = self._made.containers[holder]
        block = self._blocks.block(spec.network, spec.host)
        beside = [
            one.name for one in self._made.containers.values() if one.host == spec.host and one.network == spec.network
        ]
        address = block.network_address + 2 + beside.index(holder)
        host = self._hosts.hosts[spec.host]
        names = {CONTROLLER_TOKEN, holder, str(address), host.name}
        return names | ({str(host.address)} if host.address else set())

    def _nova(self, parts: list[Part]) -> NovaOptions:
        usual = NovaOptions()
        regions = [part.conf.region for part in parts if part.conf.region]
        workers = [part.conf.api_workers for part in parts if part.conf.api_workers]
        if len(set(regions)) > 1:
            part = next(part for part in parts if part.conf.region == regions[-1])
            self._notes.wrong(part.place, part.path, f"REGION_NAME: {' and '.join(regions)}", hint="keep one of them")
        return replace(
            usual,
            region=regions[0] if regions else usual.region,
            api_workers=workers[0] if workers else usual.api_workers,
        )
