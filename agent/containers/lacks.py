"""What this machine cannot give the containers that are wanted, each with the command that mends it. Looks only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.containers.cgroups import Hierarchy, find_hierarchies
from agent.containers.image import ImageBuild, ImageStore
from agent.containers.rootfs import Storage
from agent.core.doors import Lack, ObservedContainer
from proto.errors import CaasError
from proto.model import Container

#: Measured (facts.md): about 20 systemd containers use 128 inotify instances; the machine keeps some for itself.
INOTIFY_EACH, INOTIFY_MACHINE = 7, 32
#: What a running container takes, in bytes: systemd alone, and what a role adds to it (facts.md: 148 MB for a compute).
MEMORY_SYSTEMD = 40 * 2**20
MEMORY_COMPUTE = 110 * 2**20
MEMORY_CONTROLLER = 2000 * 2**20
#: What a container writes over its image, and what must stay free beside that, in bytes.
DISK_SYSTEMD, DISK_MARGIN = 150 * 2**20, 512 * 2**20
CONTROLLERS = ("memory", "pids", "cpu", "devices")


def find_lacks(
    lxcpath: Path,
    images: ImageStore,
    desired: Sequence[Container],
    observe: Callable[[], Sequence[ObservedContainer]],
    storage_for: Callable[[Path], Storage],
) -> tuple[Lack, ...]:
    """Everything that *desired*, and what runs already, would need and is not there."""
    missing = _missing_programs()
    if not desired:
        return missing
    try:
        seen = {one.container.name: one for one in observe()}
    except CaasError as exc:
        return (*missing, Lack(what=exc.message, mend=exc.hint or "see the agent's log"))
    new = [one for one in desired if one.name not in seen]
    idle = [one for one in desired if one.running and (one.name not in seen or not seen[one.name].pid)]
    builds, lacking = _find_images(images, [one for one in new if not one.clone_of])
    # A clone has its source's build, which may have no declaration any more; the current one says how large it is.
    builds = _find_images(images, [one for one in new if one.clone_of])[0] | builds
    systemd = {name for name, build in builds.items() if build.systemd}
    return (
        *missing,
        *lacking,
        *_disk(lxcpath, new, builds, storage_for),
        *_memory([one for one in idle if one.image in systemd or one.name in seen]),
        *_inotify({one.name for one in desired if one.image in systemd} | set(seen)),
        *_cgroups(find_hierarchies()),
    )


def _missing_programs() -> tuple[Lack, ...]:
    files = ("/usr/share/lxc/config/common.conf", "/usr/bin/lxc-start")
    if all(Path(file).exists() for file in files):
        return ()
    return (Lack(what="LXC is not installed", mend="apt-get install lxc python3-lxc"),)


def _find_images(images: ImageStore, new: Sequence[Container]) -> tuple[dict[str, ImageBuild], list[Lack]]:
    builds, lacking = {}, []
    for name in sorted({one.image for one in new}):
        try:
            builds[name] = images.find(name)
        except CaasError as exc:
            lacking.append(Lack(what=exc.message, mend=exc.hint))
    return builds, lacking


def _disk(
    lxcpath: Path,
    new: Sequence[Container],
    builds: dict[str, ImageBuild],
    storage_for: Callable[[Path], Storage],
) -> list[Lack]:
    needed = DISK_MARGIN
    for build in (builds[one.image] for one in new if one.image in builds):
        needed += DISK_SYSTEMD if build.systemd else 0
        needed += build.size_bytes if storage_for(build.rootfs) is Storage.COPY else 0
    free = _free_disk(lxcpath)
    if not new or free >= needed:
        return []
    mend = f"free {_megabytes(needed - free)} there, or give the agent another --state"
    return [Lack(what=f"disk: {_megabytes(needed)} needed in {lxcpath}, {_megabytes(free)} free", mend=mend)]


def _free_disk(path: Path) -> int:
    return shutil.disk_usage(path).free


def memory_needed(container: Container) -> int:
    """Bytes that *container* is expected to take when it runs, from its roles."""
    needed = MEMORY_SYSTEMD
    for role in container.roles:
        needed += MEMORY_COMPUTE if role == "compute" else MEMORY_CONTROLLER if role == "controller" else 0
    return needed


def _memory(starting: Sequence[Container]) -> list[Lack]:
    needed = sum(memory_needed(one) for one in starting)
    available = _available_memory()
    if needed <= available:
        return []
    what = (
        f"memory: about {_megabytes(needed)} needed for {len(starting)} containers, {_megabytes(available)} available"
    )
    return [Lack(what=what, mend="run fewer containers on this host, or give it more memory")]


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _inotify(systemd: set[str]) -> list[Lack]:
    needed = len(systemd) * INOTIFY_EACH + INOTIFY_MACHINE
    key = "fs.inotify.max_user_instances"
    have = _inotify_instances()
    if not systemd or have >= needed:
        return []
    what = f"{key} is {have}; {len(systemd)} containers with systemd need about {needed}"
    return [Lack(what=what, mend=f"sysctl -w {key}={max(1024, needed)}")]


def _inotify_instances() -> int:
    return int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())


def _cgroups(hierarchies: Sequence[Hierarchy]) -> list[Lack]:
    have = {name for one in hierarchies for name in one.controllers}
    if not hierarchies:
        return [Lack(what="no cgroups are mounted", mend="mount -t cgroup2 cgroup2 /sys/fs/cgroup")]
    pure_v2 = all(one.version == 2 for one in hierarchies)
    wanted = [name for name in CONTROLLERS if not (pure_v2 and name == "devices")]  # v2 does devices with BPF
    missing = [name for name in wanted if name not in have]
    if not missing:
        return []
    names = ", ".join(missing)
    return [Lack(what=f"cgroup controllers missing: {names}", mend=f"boot with cgroup_enable={','.join(missing)}")]


def _megabytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
