"""The tunnels of a host, of either realisation, and what both need: the rules, and who may send what.

After each change that could matter `refresh` derives from the host's own routes and addresses what is taken, and gives
it to nft and to the BPF maps. It writes only what differs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv4Address

from agent.kernel import layer3, links, placement
from agent.kernel.errors import take_back
from agent.kernel.forward_filter import has_forward_filter
from agent.kernel.ipip_bpf import BpfTunnels
from agent.kernel.ipip_kernel import BROKEN, KernelTunnels, read_stack_drops
from agent.kernel.links import Links, SeenLink
from agent.kernel.netlink import Netlink
from agent.kernel.nft import Nft
from agent.kernel.tunnel_rules import Chains, TunnelRules, close_unknown, make_chains
from agent.kernel.tunnel_sources import REASONS, Taken, Translated, find_taken
from proto.errors import CaasError, Code
from proto.model import Container, Ipip, Nic

#: How long what others filter is believed while ports are added (seconds): asking takes a process.
FILTERED_SECONDS = 1.0


class Tunnels:
    """All through one connection. Not safe for several threads. Raises KernelError and CaasError.

    *choose* says which realisation a new tunnel has: "kernel", "bpf", or raises where it can be neither; *translated*
    what the host translates now.
    """

    def __init__(
        self, connection: Netlink, nft: Nft, choose: Callable[[], str], translated: Callable[[], Translated]
    ) -> None:
        self._connection = connection
        self._nft = nft
        self._choose = choose
        self._find_translated = translated
        #: As last asked for; door.py says when that changes. None: nobody has asked since.
        self._translated: Translated | None = None
        self._kernels = KernelTunnels(connection)
        self._bpfs = BpfTunnels(connection)
        self._rules = TunnelRules(nft)
        self._nics: dict[str, Nic] = {}
        #: Whether there are tunnels, as last seen; None: nobody has looked yet.
        self._any: bool | None = None
        #: What _is_filtered has found, and when (time.monotonic).
        self._filtered: tuple[bool, float] | None = None

    def close(self) -> None:
        self._bpfs.close()

    def is_one(self, seen: Links, link: SeenLink) -> bool:
        """Whether *link* is a tunnel of ours."""
        return self._kernels.is_one(link) or (link.mark is not None and self._bpfs.is_one(seen, link))

    def observe(self, seen: Links) -> list[Ipip]:
        """Every tunnel of ours. Where what is taken is not what should be, none is whole: see BROKEN."""
        found = [*self._kernels.observe(seen), *self._bpfs.observe(seen)]
        self._any = bool(found)
        if not found:
            return []
        taken = self._taken(seen, found)
        whole = self._rules.is_as(self._chains(seen, taken, found)) and self._bpfs.is_as(seen, taken)
        return found if whole else [replace(tunnel, local=BROKEN) for tunnel in found]

    def create(self, wanted: Ipip) -> None:
        seen = links.list_links(self._connection)
        placement.check_name_free(seen, wanted)
        self._check_ends_free(seen, wanted)
        self._check_underlay(seen, wanted)
        with ExitStack() as undo:
            if self._choose() == "kernel":
                self._kernels.create(wanted)
            else:
                self._bpfs.create(seen, wanted)
            undo.callback(take_back, self.delete, wanted.name)
            self.refresh()
            undo.pop_all()

    def change(self, link: SeenLink, seen: Links, after: Ipip) -> None:
        self._check_ends_free(seen, after)
        self._check_underlay(seen, after)
        if self._kernels.is_one(link):
            self._kernels.change(link, after)
        else:
            self._bpfs.change(seen, link, after)
        self.refresh()

    def delete(self, name: str) -> None:
        """Already gone is success, and what is left of it goes too."""
        seen = links.list_links(self._connection)
        link = seen.by_name.get(name)
        if link is not None and self._kernels.is_one(link):
            self._kernels.delete(link)
        elif link is not None and self._bpfs.is_one(seen, link):
            self._bpfs.delete(seen, link)
        self._settle(links.list_links(self._connection))

    def sweep(self) -> None:
        """Remove what is there of tunnels that are not, and all of it where there is none."""
        self._settle(links.list_links(self._connection))

    def refresh(self) -> None:
        """Take what the host's routes say is to be taken. Nothing is written where nothing differs."""
        seen = links.list_links(self._connection)
        if any(self.is_one(seen, link) for link in seen):
            self._settle(seen)

    def _settle(self, seen: Links) -> None:
        found = [*self._kernels.observe(seen), *self._bpfs.observe(seen)]
        self._any = bool(found)
        taken = self._taken(seen, found)
        self._rules.make(self._chains(seen, taken, found))
        self._bpfs.refresh(seen, taken)
        self._set_ports(seen, found)

    def set_port(self, container: Container, port: SeenLink, bridge: SeenLink) -> None:
        """From now on packets for *container* may go straight to its *port* of *bridge*."""
        self._nics[container.name] = container.nic
        if self._any is None:
            seen = links.list_links(self._connection)
            self._any = any(self.is_one(seen, link) for link in seen)
            self._set_ports(seen, self._bpfs.observe(seen))
        elif self._any and not self._is_filtered():
            self._bpfs.straight.set_port(container.nic, port, bridge, self._ask_translated())

    def keep(self, address: IPv4Address) -> None:
        """A port is to be forwarded to *address*: the answers are the host's own stack's, which knows of whom."""
        if self._translated is not None:
            self._translated = replace(self._translated, targets=self._translated.targets | {address})
        self._bpfs.straight.keep(address)

    def adopt_ports(self, containers: Iterable[Container]) -> None:
        """Packets for *containers* may go straight to their ports, where these are marked."""
        self._nics |= {container.name: container.nic for container in containers}
        self.settle_ports()

    def settle_ports(self) -> None:
        """Look again at who filters: packets go straight where nobody does."""
        seen = links.list_links(self._connection)
        self._set_ports(seen, self._bpfs.observe(seen))

    def local_of(self, name: str) -> IPv4Address | None:
        """Our address of the tunnel *name*; None where that is none of ours."""
        seen = links.list_links(self._connection)
        found = [each for each in (*self._kernels.observe(seen), *self._bpfs.observe(seen)) if each.name == name]
        return found[0].local if found and found[0].local != BROKEN else None

    def drops(self) -> dict[str, int]:
        """Packets that were not taken, by reason (tunnel_sources.REASONS)."""
        seen = links.list_links(self._connection)
        parts = [self._rules.drops(), self._bpfs.drops(seen)]
        if any(self._kernels.is_one(link) for link in seen):
            parts.append(read_stack_drops(self._connection.netns))
        return {reason: sum(part.get(reason, 0) for part in parts) for reason in REASONS}

    def _set_ports(self, seen: Links, found: list[Ipip]) -> None:
        """Bridge and nft are only passed by where nobody filters there."""
        if found:
            self._filtered = self._translated = None
            nics = self._nics.values() if self._nics and not self._is_filtered() else ()
            self._bpfs.straight.set_ports(seen, nics, self._ask_translated() if nics else Translated())

    def _ask_translated(self) -> Translated:
        """What is translated now; asked for once after each change, and only where it matters: it takes a process."""
        if self._translated is None:
            self._translated = self._find_translated()
        return self._translated

    def _is_filtered(self) -> bool:
        """Whether others filter what is forwarded. For ports that come one after the other: as seen a moment ago."""
        now = time.monotonic()
        if self._filtered is None or now - self._filtered[1] > FILTERED_SECONDS:
            self._filtered = has_forward_filter(self._nft), now
        return self._filtered[0]

    def _taken(self, seen: Links, found: list[Ipip]) -> Taken:
        names = {tunnel.name for tunnel in found}
        own = [
            each.thing
            for each in layer3.list_addresses(self._connection, seen)
            if (link := seen.by_name[each.thing.link]).mark and link.name not in names
        ]
        return find_taken(
            [each for each in found if each.local != BROKEN], layer3.list_routes(self._connection, seen), own
        )

    def _chains(self, seen: Links, taken: Taken, found: list[Ipip]) -> Chains:
        kernels = {link.name: link for link in seen if self._kernels.is_one(link)}
        chains = make_chains(
            taken,
            tunnels=[tunnel.name for tunnel in found],
            kernels=[ends for ends, name in taken.names.items() if name in kernels],
            locals_={tunnel.local for tunnel in found if tunnel.local != BROKEN},
        )
        takes_any = any(link.ends and link.ends.remote is None for link in kernels.values())
        return close_unknown(chains) if takes_any and chains else chains

    def _check_ends_free(self, seen: Links, wanted: Ipip) -> None:
        """CONFLICT where another tunnel, anybody's and of either realisation, has the same ends."""
        ours = [*self._kernels.observe(seen), *self._bpfs.observe(seen)]
        holders = {each.name for each in ours if (each.local, each.remote) == (wanted.local, wanted.remote)}
        holders |= {
            link.name
            for link in seen
            if link.ends and link.ends.remote and ((link.ends.local, link.ends.remote) == (wanted.local, wanted.remote))
        }
        if others := holders - {wanted.name}:
            raise CaasError(
                Code.CONFLICT,
                f"tunnel {wanted.name}: {wanted.local} and {wanted.remote or 'any'} are joined by {', '.join(others)}",
            )

    def _check_underlay(self, seen: Links, wanted: Ipip) -> None:
        """NOT_FOUND where there is no way from end to end; INVALID where it is too narrow."""
        what = f"tunnel {wanted.name}"
        if wanted.local not in {each.thing.address.ip for each in layer3.list_addresses(self._connection, seen)}:
            raise CaasError(Code.NOT_FOUND, f"{what}: {wanted.local} is no address of this host", hint="ip address")
        if wanted.remote is None:
            return
        link = self._bpfs.underlay_of(seen, wanted)
        if link is None:
            raise CaasError(
                Code.NOT_FOUND, f"{what}: there is no route to {wanted.remote}", hint=f"ip route get {wanted.remote}"
            )
        placement.check_overhead(wanted, link)
