"""Sysctls of one link through /proc/sys/net, which shows the network namespace of the thread that looks."""

from __future__ import annotations

from pathlib import Path

from agent.kernel.errors import kernel_errors
from agent.kernel.inside import run_inside
from agent.kernel.tally import Tally

ROOT = Path("/proc/sys/net")
#: No stack of the host's inside a tenant's segment: no IPv6 at all, ARP answers only for an address of the link itself,
#: and only sources that are routed back through it (on a link without addresses: none). ip-sysctl.rst.
QUIET = (
    ("ipv6", "disable_ipv6", "1"),
    ("ipv4", "arp_ignore", "1"),
    ("ipv4", "rp_filter", "1"),
)

#: A tunnel is a way between hosts: packets are forwarded from it, and as a far end may be known by the underlay too, a
#: source only has to be routed back by some link. The tunnel's own value loosens what `all` says, for it alone.
TUNNEL = (
    ("ipv6", "disable_ipv6", "1"),
    ("ipv4", "rp_filter", "2"),
    ("ipv4", "forwarding", "1"),
)


def make_way(link: str, *, netns: str | None, tally: Tally) -> None:
    """Set TUNNEL on *link*."""
    _set_all(TUNNEL, (link,), netns, tally)


def make_gateway(link: str, *, netns: str | None, tally: Tally) -> None:
    """Forward what comes in by *link*, whatever the host does with other links' packets."""
    _set_all((("ipv4", "forwarding", "1"),), (link,), netns, tally)


def is_gateway(link: str, *, netns: str | None) -> bool:
    """Whether what comes in by *link* is forwarded."""
    return run_inside(netns, lambda: _path(link, "ipv4", "forwarding").read_text().strip() == "1")


def is_strict(link: str, *, netns: str | None) -> bool:
    """Whether a source is only taken on *link* where the way back to it leaves by *link* (the larger value counts)."""

    def read() -> bool:
        return max(int(_path(which, "ipv4", "rp_filter").read_text()) for which in ("all", link)) == 1

    return run_inside(netns, read)


def make_quiet(links: tuple[str, ...], *, netns: str | None, tally: Tally) -> None:
    """Set QUIET on *links*, before they are up. A kernel without IPv6 has nothing to set there."""
    _set_all(QUIET, links, netns, tally)


def find_loud(links: tuple[str, ...], *, netns: str | None) -> frozenset[str]:
    """Those of *links* that have not all of QUIET: who was to set it was killed before, or others changed it."""

    def is_as(link: str, family: str, key: str, value: str) -> bool:
        try:
            return _path(link, family, key).read_text().strip() == value
        except FileNotFoundError:  # a kernel without IPv6, or the link has just gone
            return True

    def body() -> frozenset[str]:
        return frozenset(link for link in links if not all(is_as(link, *each) for each in QUIET))

    return run_inside(netns, body) if links else frozenset()


def _set_all(values: tuple[tuple[str, str, str], ...], links: tuple[str, ...], netns: str | None, tally: Tally) -> None:
    def body() -> None:
        for link in links:
            for family, key, value in values:
                if (ROOT / family).is_dir():
                    _set(_path(link, family, key), value, tally)

    run_inside(netns, body)


def _path(link: str, family: str, key: str) -> Path:
    return ROOT / family / "conf" / link / key


def _set(path: Path, value: str, tally: Tally) -> None:
    with kernel_errors(f"set {path} to {value}", hint="/proc/sys must be writable for the agent"):
        if path.read_text().strip() != value:
            tally.add()
            path.write_text(value)
