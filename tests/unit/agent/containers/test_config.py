"""What liblxc is told, as text."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from agent.containers.config import cgroup_base, check_path, make_config, make_hosts, read_mark
from agent.containers.rootfs import Storage
from proto.errors import CaasError
from proto.marks import Mark
from proto.model import HostEntry
from tests.unit.agent.containers.things import make_container, make_record

PLACE = Path("/state/containers/demo.c1")


def lines_of(**changes: Any) -> list[str]:
    return make_config(make_record(**changes), PLACE, apparmor=False).splitlines()


def test_the_network() -> None:
    lines = lines_of()
    for line in (
        "lxc.net.0.type = veth",
        "lxc.net.0.veth.pair = demo.c1",
        "lxc.net.0.link = lxcbr100",
        "lxc.net.0.hwaddr = 02:00:00:00:00:01",
        "lxc.net.0.mtu = 1450",
        "lxc.net.0.ipv4.address = 192.168.10.50/24 192.168.10.255",
        "lxc.net.0.ipv4.gateway = 192.168.10.1",
    ):
        assert line in lines
    container = make_container()
    lonely = replace(container, nic=replace(container.nic, gateway=None))
    assert "gateway" not in make_config(make_record(lonely), PLACE, apparmor=False)


def test_the_root_file_system() -> None:
    image = f"/var/lib/caas/images/test-busybox/{'0' * 32}/rootfs"
    assert f"lxc.rootfs.path = overlay:{image}:{PLACE}/delta/upper" in lines_of()
    for storage in (Storage.BTRFS, Storage.COPY):
        assert f"lxc.rootfs.path = dir:{PLACE}/rootfs" in lines_of(storage=storage)


def test_the_mark_is_read_back_and_nothing_else_is_one() -> None:
    text = make_config(make_record(), PLACE, apparmor=False)
    assert read_mark(text) == Mark("demo", "c1")
    for foreign in ("", "lxc.group = onboot\n", "# lxc.group = caas:demo:c1\n", "lxc.group = caasx:demo:c1\n"):
        assert read_mark(foreign) is None


def test_apparmor_only_where_it_is() -> None:
    assert "lxc.apparmor.profile = unconfined" in lines_of()
    with_it = make_config(make_record(), PLACE, apparmor=True)
    assert "lxc.apparmor.profile = generated" in with_it
    assert "unconfined" not in with_it


def test_cgroups_of_two_labs_never_meet() -> None:
    one, other = Path("/state/a/containers"), Path("/state/b/containers")
    assert cgroup_base(one) != cgroup_base(other)
    text = make_config(make_record(), PLACE, apparmor=False)
    base = cgroup_base(PLACE.parent)
    for part in ("container = {}/demo.c1", "monitor = {}/demo.c1.monitor", "monitor.pivot = {}/demo.c1.pivot"):
        assert f"lxc.cgroup.dir.{part.format(base)}\n" in text


@pytest.mark.parametrize("path", ["/a b", "/a:b", "/a,b", "/a\nb", "relative", "/a#b", "/ä"])
def test_paths_that_lxc_or_overlay_would_misread(path: str) -> None:
    with pytest.raises(CaasError, match="must be absolute"):
        check_path(Path(path))


def test_hosts_has_itself_once_and_the_others() -> None:
    container = make_container()
    assert make_hosts(container).splitlines()[2:] == ["192.168.10.50 c1", "192.168.10.51 c2 c2.demo"]
    itself = HostEntry(address=IPv4Address("192.168.10.50"), names=("c1", "c1.demo"))
    assert make_hosts(replace(container, hosts=(itself,))).count("192.168.10.50") == 1
