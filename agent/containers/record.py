"""What is remembered of a container in its folder, `caas.json`: the whole Container, and what it was made from.

Written whole and by rename, so that a reader sees the old record or the new one.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

from agent.containers.rootfs import Storage
from proto.errors import CaasError, Code
from proto.model import Container, HostEntry, Nic

RECORD = "caas.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A container as it was made. `image_rootfs` is the build that it will have for ever."""

    container: Container
    digest: str
    image_rootfs: Path
    storage: Storage
    halt_signal: str
    systemd: bool


def container_to_json(container: Container) -> dict[str, Any]:
    """Plain fields only."""
    nic = container.nic
    return {
        "cluster": container.cluster,
        "hostname": container.hostname,
        "image": container.image,
        "roles": list(container.roles),
        "clone_of": container.clone_of,
        "running": container.running,
        "merge": container.merge,
        "ssh": container.ssh,
        "hosts": [{"address": str(entry.address), "names": list(entry.names)} for entry in container.hosts],
        "nic": {
            "bridge": nic.bridge,
            "port": nic.port,
            "mac": nic.mac,
            "mtu": nic.mtu,
            "address": str(nic.address),
            "gateway": str(nic.gateway) if nic.gateway else None,
        },
    }


def container_from_json(data: dict[str, Any]) -> Container:
    """The inverse of container_to_json; INVALID, KeyError, TypeError or ValueError where *data* is not one."""
    nic = data["nic"]
    gateway = nic["gateway"]
    return Container(
        cluster=data["cluster"],
        hostname=data["hostname"],
        image=data["image"],
        roles=tuple(data["roles"]),
        clone_of=data["clone_of"],
        running=data["running"],
        merge=data.get("merge", False),  # records of before
        ssh=data.get("ssh", False),  # records of before
        hosts=tuple(
            HostEntry(address=IPv4Address(entry["address"]), names=tuple(entry["names"])) for entry in data["hosts"]
        ),
        nic=Nic(
            bridge=nic["bridge"],
            port=nic["port"],
            mac=nic["mac"],
            mtu=nic["mtu"],
            address=IPv4Interface(nic["address"]),
            gateway=IPv4Address(gateway) if gateway is not None else None,
        ),
    )


def record_to_json(record: Record) -> dict[str, Any]:
    """Plain fields only."""
    return {
        "format": _FORMAT,
        "container": container_to_json(record.container),
        "digest": record.digest,
        "image_rootfs": str(record.image_rootfs),
        "storage": record.storage.value,
        "halt_signal": record.halt_signal,
        "systemd": record.systemd,
    }


def record_from_json(data: dict[str, Any]) -> Record:
    """The inverse of record_to_json."""
    if data["format"] != _FORMAT:
        raise ValueError(f"format {data['format']}, not {_FORMAT}")
    return Record(
        container=container_from_json(data["container"]),
        digest=data["digest"],
        image_rootfs=Path(data["image_rootfs"]),
        storage=Storage(data["storage"]),
        halt_signal=data["halt_signal"],
        systemd=data["systemd"],
    )


def read_record(place: Path) -> Record:
    """The record in the container's folder *place*. FAILED where it cannot be read; FileNotFoundError passes."""
    text = (place / RECORD).read_text(encoding="utf-8")
    try:
        return record_from_json(json.loads(text))
    except (KeyError, TypeError, ValueError, CaasError) as exc:
        raise CaasError(
            Code.FAILED,
            f"container {place.name}: {place / RECORD} cannot be read: {exc!r}",
            hint="delete the container, or restore the file",
        ) from exc


def write_record(place: Path, record: Record) -> None:
    """Replace the record in *place*, durably (fsync, rename, fsync)."""
    write_durably(place / RECORD, json.dumps(record_to_json(record), indent=1) + "\n")


def write_durably(path: Path, text: str) -> None:
    """Replace *path* with *text*: after a crash it has either the old text or the new."""
    new = path.with_name(f".{path.name}.new")
    with new.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
