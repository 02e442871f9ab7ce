"""Containers and records for tests."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

from agent.containers.record import Record
from agent.containers.rootfs import Storage
from proto.model import Container, HostEntry, Nic


def make_container(hostname: str = "c1", **changes: Any) -> Container:
    """A container of cluster `demo`; *changes* are fields."""
    nic = Nic(
        bridge="lxcbr100",
        port=f"demo.{hostname}"[:15],
        mac="02:00:00:00:00:01",
        mtu=1450,
        address=IPv4Interface("192.168.10.50/24"),
        gateway=IPv4Address("192.168.10.1"),
    )
    fields: dict[str, Any] = {
        "cluster": "demo",
        "hostname": hostname,
        "image": "test-busybox",
        "nic": nic,
        "hosts": (HostEntry(address=IPv4Address("192.168.10.51"), names=("c2", "c2.demo")),),
        "roles": ("compute",),
    }
    return Container(**{**fields, **changes})


def make_record(container: Container | None = None, **changes: Any) -> Record:
    """A record of *container*; *changes* are fields."""
    fields: dict[str, Any] = {
        "container": container or make_container(),
        "digest": "0" * 32,
        "image_rootfs": Path("/var/lib/caas/images/test-busybox") / ("0" * 32) / "rootfs",
        "storage": Storage.OVERLAY,
        "halt_signal": "SIGPWR",
        "systemd": False,
    }
    return Record(**{**fields, **changes})
