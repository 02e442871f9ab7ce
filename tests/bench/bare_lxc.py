"""`python -m tests.bench.bare_lxc LXCPATH IMAGE_ROOTFS`: the same 64 containers in a bare loop of liblxc's calls.

No RPC, no plan, no undo, no look afterwards, no worker processes, nothing fsynced; one after the other. Each has what
the agent gives it: a root file system over the image, a host name, /etc/hosts, a port in the bridge, an address, a
route. The bridge is there already. Says "ready", and for the one line it is sent, in JSON, the seconds it took; when
its input ends it stops the containers.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from agent.containers import liblxc
from agent.containers.config import CONFIG, HOSTS, LOG, MOUNT, make_config, make_hosts
from agent.containers.record import Record
from agent.containers.rootfs import make_rootfs, probe_storage
from agent.containers.sysfs import enter_own_sysfs, is_sysfs_ours
from proto.model import Container
from tests.bench.many import COUNT, make_containers

CLUSTER = "bare"


def make_records(lxcpath: Path, image_rootfs: Path) -> list[Record]:
    """Outside of the time: what is to be made, as text is."""
    storage = probe_storage(lxcpath, image_rootfs)
    return [
        Record(
            container=container,
            digest="bare",
            image_rootfs=image_rootfs,
            storage=storage,
            halt_signal="SIGPWR",
            systemd=False,
        )
        for container in make_containers(CLUSTER)
    ]


def start(lxcpath: Path, record: Record, config: str, hosts: str) -> Any:
    """Make and start one; AssertionError where it does not run. REFUSED where it would run without its own root."""
    container: Container = record.container
    place = lxcpath / container.name
    place.mkdir(mode=0o700)
    (place / MOUNT).mkdir()
    make_rootfs(place, record.storage, record.image_rootfs, hostname=container.hostname)
    (place / HOSTS).write_text(hosts)
    (place / LOG).touch()
    (place / CONFIG).write_text(config)
    lxc = liblxc.load(container.name, lxcpath)
    liblxc.check_startable(lxc.get_config_item("lxc.rootfs.path"), record, place)
    assert lxc.start(useinit=False, daemonize=True, close_fds=True), liblxc.last_reasons(place / LOG)
    assert lxc.init_pid > 0, f"{container.name} ended at once"
    return lxc


def main() -> None:
    lxcpath, image_rootfs = Path(sys.argv[1]), Path(sys.argv[2])
    if not is_sysfs_ours():
        enter_own_sysfs()
    records = make_records(lxcpath, image_rootfs)
    texts = [
        (make_config(record, lxcpath / record.container.name, apparmor=False), make_hosts(record.container))
        for record in records
    ]
    liblxc.binding()
    print("ready", flush=True)
    started: list[Any] = []
    try:
        if sys.stdin.readline():
            began = time.perf_counter()
            for record, (config, hosts) in zip(records, texts, strict=True):
                started.append(start(lxcpath, record, config, hosts))
            seconds = time.perf_counter() - began
            running = sum(lxc.init_pid > 0 for lxc in started)
            print(json.dumps({"seconds": seconds, "running": running, "wanted": COUNT}), flush=True)
            sys.stdin.readline()
    finally:
        for lxc in started:
            lxc.stop()


if __name__ == "__main__":
    main()
