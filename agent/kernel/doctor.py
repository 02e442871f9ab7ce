"""The host itself: what is known to undo what caas does there, or to run short under it. Looks only.

Files are read below a root folder, so that a test can put another host there; links, packet filters and
`/proc/sys/net` are those of the network namespace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.kernel.doctor_daemons import find_daemons, find_names
from agent.kernel.errors import kernel_errors
from agent.kernel.examine_filters import read_old_filter
from agent.kernel.forward_chains import Way, find_dropped
from agent.kernel.inside import run_inside
from agent.kernel.links import Links, list_links
from agent.kernel.netlink import Netlink
from agent.kernel.nft import Nft
from proto.model import HostState, Ipip, Vxlan
from proto.model.complaint import Complaint

#: Of a systemd container; what the machine keeps; room for so many containers more than there are (facts: lacks.py).
INOTIFY_EACH, INOTIFY_MACHINE, ROOM = 7, 32, 16
#: BR_MAX_PORTS (net/bridge/br_private.h), and from how many on it is told.
PORTS_MAX, PORTS_MANY = 1024, 960
#: A table is nearly full from this part on.
NEARLY = 0.8
LXC_NET = "lxcbr0"


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the checks look at."""

    root: Path
    links: Links
    desired: HostState

    def read(self, path: str) -> str:
        """A file's text without the spaces around it; "" where there is none."""
        try:
            return (self.root / path).read_text().strip()
        except OSError:
            return ""

    def number(self, path: str) -> int | None:
        text = self.read(path)
        return int(text) if text.isdigit() else None


class Doctor:
    """DoctorDoor for the caller's network namespace, or for *netns*. Raises CaasError."""

    def __init__(self, *, netns: str | None = None, root: Path = Path("/")) -> None:
        self._netns, self._root = netns, root
        self._nft = Nft(netns=netns)

    def examine(self, desired: HostState) -> Sequence[Complaint]:
        """Everything that is wrong, for what *desired*, all clusters together, has here."""
        with kernel_errors("examine the host"), Netlink(netns=self._netns) as connection:
            seen = _Seen(self._root, list_links(connection), desired)
        found = [*self._find_filters()]
        found += run_inside(self._netns, lambda: [each for check in _CHECKS for each in check(seen)])
        names = find_names(seen.root)
        return (*found, *find_daemons(seen.root, names, seen.links), *_find_merging(seen, names))

    def _find_filters(self) -> Iterator[Complaint]:
        """Chains that drop what goes from a bridge of ours to a link that nobody has named, or back."""
        ways = [Way("lxcbr1", "caas-any"), Way("caas-any", "lxcbr1")]
        for chain in find_dropped(self._nft.list_everything(), ways):
            yield Complaint(
                what=f"nft chain {chain} drops what is forwarded and it does not know",
                why="containers reach neither other hosts nor the outside; Docker's FORWARD DROP is such a one",
                mend=f'nft \'insert rule {chain} iifname "lxcbr*" accept; '
                f'insert rule {chain} oifname "lxcbr*" accept\'',
            )
        if old := run_inside(self._netns, read_old_filter):
            yield Complaint(
                what=f"the old iptables filter what is forwarded: {old}",
                why="containers may reach neither other hosts nor the outside, and nft does not show it",
                mend="iptables-legacy -I FORWARD -i lxcbr+ -j ACCEPT; iptables-legacy -I FORWARD -o lxcbr+ -j ACCEPT",
            )


def _find_bridged(seen: _Seen) -> Iterator[Complaint]:
    switches = [name for name in ("iptables", "ip6tables", "arptables") if seen.number(_bridged(name)) == 1]
    if switches:
        keys = [f"net.bridge.bridge-nf-call-{name}" for name in switches]
        yield Complaint(
            what=f"{', '.join(keys)}: 1",
            why="frames between containers of one bridge pass the host's packet filters and its connection table",
            mend=f"sysctl -w {' '.join(f'{key}=0' for key in keys)}",
        )


def _bridged(name: str) -> str:
    return f"proc/sys/net/bridge/bridge-nf-call-{name}"


def _find_reverse_path(seen: _Seen) -> Iterator[Complaint]:
    tunnels = [link.name for link in seen.desired.links if isinstance(link, Ipip | Vxlan)]
    if tunnels and seen.number("proc/sys/net/ipv4/conf/all/rp_filter") == 1:
        yield Complaint(
            what="net.ipv4.conf.all.rp_filter is 1, for every link whatever its own says",
            why=f"what comes by {', '.join(tunnels)} and would be answered by another way is dropped",
            mend="sysctl -w net.ipv4.conf.all.rp_filter=2",
        )


def _find_inotify(seen: _Seen) -> Iterator[Complaint]:
    have = seen.number("proc/sys/fs/inotify/max_user_instances")
    count = len(seen.desired.containers)
    needed = INOTIFY_MACHINE + INOTIFY_EACH * (count + ROOM)
    if have is not None and have < needed:
        yield Complaint(
            what=f"fs.inotify.max_user_instances is {have}",
            why=f"{count} containers with systemd and {ROOM} more take about {needed}; without, systemd fails in them",
            mend=f"sysctl -w fs.inotify.max_user_instances={max(1024, needed)}",
        )


def _find_neighbours(seen: _Seen) -> Iterator[Complaint]:
    most = seen.number("proc/sys/net/ipv4/neigh/default/gc_thresh3")
    # Each container may know all the others by name: its file of hosts lists them. The limit is the machine's.
    needed = sum(len(one.hosts) for one in seen.desired.containers) + max(0, len(_lines(seen, "proc/net/arp")) - 1)
    if most is not None and needed > most * NEARLY:
        enough = 1 << (needed * 2).bit_length()
        yield Complaint(
            what=f"net.ipv4.neigh.default.gc_thresh3 is {most}",
            why=f"containers and host have up to {needed} neighbours; beyond the limit packets are dropped",
            mend=" ".join(
                f"net.ipv4.neigh.default.gc_thresh{number}={enough >> (3 - number)}" for number in (1, 2, 3)
            ).join(("sysctl -w ", "")),
        )


def _lines(seen: _Seen, path: str) -> list[str]:
    return seen.read(path).splitlines()


def _find_ports(seen: _Seen) -> Iterator[Complaint]:
    for bridge in (each for each in seen.links if each.kind == "bridge" and each.mark):
        count = sum(each.master == bridge.index for each in seen.links)
        if count >= PORTS_MANY:
            yield Complaint(
                what=f"bridge {bridge.name} has {count} ports",
                why=f"a bridge of Linux takes {PORTS_MAX}",
                mend="put further containers into another network, or on another host",
            )


def _find_connections(seen: _Seen) -> Iterator[Complaint]:
    count = seen.number("proc/sys/net/netfilter/nf_conntrack_count")
    most = seen.number("proc/sys/net/netfilter/nf_conntrack_max")
    if count is not None and most and count > most * NEARLY:
        yield Complaint(
            what=f"{count} of {most} connections are tracked",
            why="when the table is full, packets of new connections are dropped",
            mend=f"sysctl -w net.netfilter.nf_conntrack_max={most * 2}",
        )


def _find_lxc_net(seen: _Seen) -> Iterator[Complaint]:
    link = seen.links.by_name.get(LXC_NET)
    if link is not None and not link.mark:
        yield Complaint(
            what=f"{LXC_NET} is there and not ours: Debian's lxc-net makes one at boot",
            why="the first routed network of a cluster is a bridge of that name, and cannot be made",
            mend=f"systemctl disable --now lxc-net; or, where nothing needs it: ip link del {LXC_NET}",
        )


def _find_merging(seen: _Seen, names: frozenset[str]) -> Iterator[Complaint]:
    if not any(one.merge for one in seen.desired.containers):
        return
    if (run := seen.number("sys/kernel/mm/ksm/run")) != 1:
        yield Complaint(
            what=f"KSM does not run (/sys/kernel/mm/ksm/run is {'not there' if run is None else run})",
            why="a cluster here wants density high: without it each compute takes twice the memory",
            mend="echo 1 > /sys/kernel/mm/ksm/run",
        )
    if "ksmtuned" in names:
        yield Complaint(
            what="ksmtuned runs",
            why="it sets how fast pages are merged, and undoes what the agent sets for density high",
            mend="systemctl disable --now ksmtuned",
        )


_CHECKS: tuple[Callable[[_Seen], Iterator[Complaint]], ...] = (
    _find_bridged,
    _find_reverse_path,
    _find_inotify,
    _find_neighbours,
    _find_ports,
    _find_connections,
    _find_lxc_net,
)
