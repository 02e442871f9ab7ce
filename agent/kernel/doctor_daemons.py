"""Other daemons that configure networks, and whether they were told to leave ours alone. Reads files only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from agent.kernel.links import Links, SeenLink
from proto.model.complaint import Complaint

#: What the kernel keeps of a process's name: 15 characters (TASK_COMM_LEN).
NETWORKD = "systemd-networkd"[:15]
#: networkd.conf(5): both are on unless said otherwise (since systemd 246 and 249).
FOREIGN = ("ManageForeignRoutes", "ManageForeignRoutingPolicyRules")
_OFF = frozenset({"no", "false", "off", "0", "n", "f"})
_NETWORKD_PLACES = ("usr/lib/systemd", "usr/local/lib/systemd", "run/systemd", "etc/systemd")
_NM_PLACES = ("usr/lib/NetworkManager", "run/NetworkManager", "etc/NetworkManager")
#: Our links' names, as both daemons match them.
PATTERN = "lxcbr*"


def find_names(root: Path) -> frozenset[str]:
    """The names of the processes that run on the host, without those in containers."""
    own = _place(root / "proc/self")
    found = set()
    for folder in (root / "proc").glob("[0-9]*"):
        try:
            if _place(folder) == own:
                found.add((folder / "comm").read_text().strip())
        except OSError:  # it has ended
            continue
    return frozenset(found)


def _place(process: Path) -> str:
    """Its PID namespace; "" where that cannot be told."""
    try:
        return os.readlink(process / "ns/pid")
    except FileNotFoundError:
        return ""


def find_daemons(root: Path, names: frozenset[str], links: Links) -> Iterator[Complaint]:
    """What those of *names* are known for that are not told otherwise."""
    if NETWORKD in names:
        yield from _find_networkd(root, links)
    if "NetworkManager" in names:
        yield from _find_network_manager(root, links)
    if "firewalld" in names:
        yield Complaint(
            what="firewalld runs",
            why="it rejects what is forwarded between links that it has in no zone, and does so again at each reload",
            mend="firewall-cmd --permanent --zone=trusted --add-interface=lxcbr+ && firewall-cmd --reload",
        )


def _find_networkd(root: Path, links: Links) -> Iterator[Complaint]:
    told = _read_settings(root)
    on = [key for key in FOREIGN if told.get(key, "yes").lower() not in _OFF]
    if on:
        lines = "".join(f"{key}=no\\n" for key in FOREIGN)
        place = "/etc/systemd/networkd.conf.d"
        yield Complaint(
            what=f"systemd-networkd runs with {', '.join(on)} on",
            why="when it starts or one of its links changes it deletes routes and rules that it has not made, ours too",
            mend=f"mkdir -p {place} && printf '[Network]\\n{lines}' > {place}/caas.conf"
            " && systemctl restart systemd-networkd",
        )
    taken = [link.name for link in _ours(links) if _networkd_state(root, link) in ("configuring", "configured")]
    if taken:
        yield Complaint(
            what=f"systemd-networkd manages {', '.join(taken)}",
            why="it sets addresses, MTU and state of our links as its own files say",
            mend=f"printf '[Match]\\nName={' '.join(taken)}\\n[Link]\\nUnmanaged=yes\\n'"
            " > /etc/systemd/network/00-caas.network && networkctl reload",
        )


def _read_settings(root: Path) -> dict[str, str]:
    """Of networkd.conf and its drop-ins, the last one wins: main files first, then drop-ins by name."""
    main = [root / place / "networkd.conf" for place in _NETWORKD_PLACES]
    dropins = {path.name: path for place in _NETWORKD_PLACES for path in (root / place).glob("networkd.conf.d/*.conf")}
    found = {}
    for path in (*main, *(dropins[name] for name in sorted(dropins))):
        for line in path.read_text().splitlines() if path.exists() else ():
            key, is_set, value = line.partition("=")
            if is_set and not line.lstrip().startswith(("#", ";")):
                found[key.strip()] = value.strip()
    return found


def _networkd_state(root: Path, link: SeenLink) -> str:
    """Its AdministrativeState in /run/systemd/netif/links/IFINDEX: unmanaged, configuring, configured, …"""
    path = root / "run/systemd/netif/links" / str(link.index)
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition("=")[2] for line in lines if line.startswith("ADMIN_STATE=")), "")


def _find_network_manager(root: Path, links: Links) -> Iterator[Complaint]:
    taken = [link.name for link in _ours(links) if _is_managed(root, link)]
    places = [root / place for place in _NM_PLACES]
    texts = [path.read_text() for place in places for path in (*place.glob("conf.d/*.conf"), *place.glob("*.conf"))]
    left = any("unmanaged-devices" in line and PATTERN in line for text in texts for line in text.splitlines())
    if taken or not left:
        place = "/etc/NetworkManager/conf.d/caas.conf"
        what = f"manages {', '.join(taken)}" if taken else "runs, and nothing keeps it from our links"
        ours = ";".join(f"interface-name:{name}" for name in (PATTERN, *taken))
        yield Complaint(
            what=f"NetworkManager {what}",
            why="it sets addresses, routes and state of links that it takes",
            mend=f"printf '[keyfile]\\nunmanaged-devices={ours}\\n' > {place} && nmcli general reload",
        )


def _is_managed(root: Path, link: SeenLink) -> bool:
    """/run/NetworkManager/devices/IFINDEX says `managed=true`; without the file it has not looked at the link."""
    path = root / "run/NetworkManager/devices" / str(link.index)
    return path.exists() and "managed=true" in path.read_text().splitlines()


def _ours(links: Links) -> Iterator[SeenLink]:
    return (link for link in links if link.mark)
