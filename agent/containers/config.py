"""A container's configuration as liblxc reads it, and its /etc/hosts: pure text.

The file is rendered whole and loaded, because set_config_item() quietly restores what it does not like (facts.md).
Our mark is `lxc.group`, a key that liblxc keeps and does nothing with by itself (lxc.container.conf(5)).
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from agent.containers.record import Record
from agent.containers.rootfs import ROOTFS, UPPER, Storage
from proto.errors import invalid
from proto.marks import Mark, parse_mark
from proto.model import Container

CONFIG = "config"
HOSTS = "hosts"
LOG = "lxc.log"
MOUNT = "mnt"
_COMMON = "/usr/share/lxc/config/common.conf"
_PATH = re.compile(r"/[A-Za-z0-9._/+@-]*")
_GROUP = re.compile(r"^lxc\.group = (caas:.*)$", re.MULTILINE)


def check_path(path: Path) -> Path:
    """INVALID unless *path* can stand in LXC's configuration, in mount options and in mount entries as it is."""
    if not _PATH.fullmatch(str(path)):
        raise invalid(f"path {path}: it must be absolute, of letters, digits and ._+@-/ (LXC and overlay need that)")
    return path


def cgroup_base(lxcpath: Path) -> str:
    """The folder that our cgroups of *lxcpath* have in each hierarchy: two labs on one machine never meet."""
    return f"caas-{hashlib.sha256(str(lxcpath).encode()).hexdigest()[:12]}"


def expected_rootfs(record: Record, place: Path) -> str:
    """What liblxc must say of lxc.rootfs.path once it has read the configuration (it drops the prefix)."""
    if record.storage is Storage.OVERLAY:
        return f"{record.image_rootfs}:{place / UPPER}"
    return str(place / ROOTFS)


def make_config(record: Record, place: Path, *, apparmor: bool) -> str:
    """The configuration of *record*'s container, whose folder is *place* (LXCPATH/NAME)."""
    container = record.container
    base = cgroup_base(place.parent)
    prefix = "overlay" if record.storage is Storage.OVERLAY else "dir"
    # Without lxc.arch: with it liblxc sets the personality of its own, and what density has set is lost.
    lines = [
        "# Written by caas, which overwrites it.",
        f"lxc.include = {_COMMON}",
        f"lxc.group = {container.mark}",
        f"lxc.uts.name = {container.hostname}",
        f"lxc.rootfs.path = {prefix}:{expected_rootfs(record, place)}",
        # Mounts are made in the monitor's own mount namespace, and go with it even when it is killed.
        f"lxc.rootfs.mount = {place / MOUNT}",
        "lxc.monitor.unshare = 1",
        f"lxc.mount.entry = {place / HOSTS} etc/hosts none bind,create=file 0 0",
        f"lxc.signal.halt = {record.halt_signal}",
        "lxc.tty.max = 0",  # no getty for each of four terminals that nobody opens
        f"lxc.log.file = {place / LOG}",
        "lxc.log.level = WARN",
        f"lxc.cgroup.dir.container = {base}/{container.name}",
        f"lxc.cgroup.dir.monitor = {base}/{container.name}.monitor",
        f"lxc.cgroup.dir.monitor.pivot = {base}/{container.name}.pivot",
        *_apparmor_lines(apparmor),
        *_nic_lines(container),
    ]
    return "\n".join(lines) + "\n"


def _apparmor_lines(apparmor: bool) -> list[str]:
    if not apparmor:
        return ["lxc.apparmor.profile = unconfined"]
    # What Debian's /etc/lxc/default.conf sets: systemd mounts for the sandboxes of its units.
    return ["lxc.apparmor.profile = generated", "lxc.apparmor.allow_nesting = 1"]


def _nic_lines(container: Container) -> list[str]:
    nic = container.nic
    lines = [
        "lxc.net.0.type = veth",
        "lxc.net.0.name = eth0",
        f"lxc.net.0.veth.pair = {nic.port}",
        f"lxc.net.0.link = {nic.bridge}",
        "lxc.net.0.flags = up",
        f"lxc.net.0.hwaddr = {nic.mac}",
        f"lxc.net.0.mtu = {nic.mtu}",
        # With its broadcast address: what liblxc makes up itself lacks the network part.
        f"lxc.net.0.ipv4.address = {nic.address.with_prefixlen} {nic.address.network.broadcast_address}",
    ]
    return [*lines, f"lxc.net.0.ipv4.gateway = {nic.gateway}"] if nic.gateway else lines


def read_mark(config: str) -> Mark | None:
    """The mark in a configuration's text, or None where it is not ours."""
    found = _GROUP.search(config)
    return parse_mark(found[1].strip()) if found else None


def make_hosts(container: Container) -> str:
    """The text of /etc/hosts (hosts(5)): its own name first, so that `hostname --fqdn` finds it."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    own = container.nic.address.ip
    if not any(container.hostname in entry.names for entry in container.hosts):
        lines.append(f"{own} {container.hostname}")
    lines += [f"{entry.address} {' '.join(entry.names)}" for entry in container.hosts]
    return "\n".join(lines) + "\n"
