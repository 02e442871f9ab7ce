"""What a worker does to containers. One lxcpath, one thread; each call can be repeated after it was cut off.

A container appears by one rename of its finished folder and goes by one rename away, so that it is there whole or
not at all. What has no mark of ours is never changed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.containers import density, liblxc
from agent.containers.cgroups import Cgroups
from agent.containers.clones import SEED, check_seed, sync_filesystem, take_seed
from agent.containers.config import (
    CONFIG,
    HOSTS,
    LOG,
    MOUNT,
    cgroup_base,
    check_path,
    make_config,
    make_hosts,
    read_mark,
)
from agent.containers.freezing import Freezer
from agent.containers.inspecting import inspect
from agent.containers.keys import has_keys, open_root, write_keys
from agent.containers.record import Record, container_to_json, read_record, write_durably, write_record
from agent.containers.rootfs import clone_rootfs, make_rootfs, writable_root
from agent.containers.trees import remove_tree, unmount_below
from proto.errors import CaasError, Code, invalid
from proto.model import Container

_NEW, _GONE = ".new-", ".gone-"
#: A monitor needs a moment to leave its cgroup after it has said that the container stopped (seconds).
_MONITOR_PATIENCE, _MONITOR_DEADLINE = 2.0, 10.0


def has_apparmor() -> bool:
    """Whether profiles can be loaded: AppArmor is on in the kernel, and its parser is installed.

    A stock kernel has it on also where nobody installed the parser; liblxc then refuses to start with a profile.
    """
    with contextlib.suppress(OSError):
        enabled = Path("/sys/module/apparmor/parameters/enabled").read_text().strip() == "Y"
        return enabled and shutil.which("apparmor_parser", path="/usr/sbin:/sbin") is not None
    return False


class Operations:
    """The containers below *lxcpath*. `writes` counts changing liblxc calls, files and folders written or removed."""

    def __init__(self, lxcpath: Path) -> None:
        self.lxcpath = check_path(lxcpath)
        self.writes = 0
        self._cgroups = Cgroups(cgroup_base(lxcpath))
        self._freezer = Freezer(lxcpath, cgroup_base(lxcpath))
        self._loaded: dict[str, tuple[tuple[int, int], Any, Record]] = {}

    # ---- looking

    def observe(self, keys: str | None) -> list[dict[str, Any]]:
        """[{container, pid, memory_bytes}] of every container of ours; writes nothing. *keys* are the host's."""
        seen = []
        for name in self._names():
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                lxc, record = self._load_cached(name)
                pid = max(int(lxc.init_pid), 0)
                merge = record.container.merge and (not pid or density.is_merging(pid))
                ssh = record.container.ssh and (self._has_keys(name, pid, record, keys) or None)
                container = {**container_to_json(record.container), "running": pid > 0, "merge": merge, "ssh": ssh}
                memory = self._cgroups.memory_bytes(name) if pid else 0
                seen.append({"container": container, "pid": pid, "memory_bytes": memory})
        return seen

    def inspect(self, questions: list[dict[str, Any]]) -> dict[str, Any]:
        """What each container of *questions* ({name, files, units, ports}) shows; {"error"} where it cannot be seen."""
        return {question["name"]: self._inspect(**question) for question in questions}

    def _inspect(self, name: str, **wanted: list[str]) -> dict[str, Any]:
        try:
            lxc, _ = self._load_cached(name)
            if (pid := int(lxc.init_pid)) > 0:
                return inspect(pid, **wanted)
            error = CaasError(Code.NOT_FOUND, f"container {name} does not run", hint="start it: caas up FILE")
        except FileNotFoundError:
            error = CaasError(Code.NOT_FOUND, f"container {name} does not exist in {self.lxcpath}")
        except CaasError as exc:
            error = exc.about(f"container {name}")
        return {"error": {"code": error.code.value, "message": error.message, "hint": error.hint}}

    def _has_keys(self, name: str, pid: int, record: Record, keys: str | None) -> bool:
        with contextlib.suppress(OSError, CaasError), open_root(self._root(name, pid, record)) as root:
            return has_keys(root, keys)
        return False  # it ended just now

    def _root(self, name: str, pid: int, record: Record) -> Path:
        """Its root folder. An overlay that is mounted is changed through the mount, never below it (overlayfs.rst)."""
        return Path(f"/proc/{pid}/root") if pid else writable_root(self.lxcpath / name, record.storage)

    def _names(self) -> Iterator[str]:
        try:
            names = sorted(os.listdir(self.lxcpath))
        except FileNotFoundError:
            return
        for name in names:
            if not name.startswith(".") and (name in self._loaded or self._is_ours(name)):
                yield name

    def _is_ours(self, name: str) -> bool:
        try:
            return read_mark((self.lxcpath / name / CONFIG).read_text(encoding="utf-8")) is not None
        except (OSError, UnicodeDecodeError):
            return False

    def _load_cached(self, name: str) -> tuple[Any, Record]:
        """liblxc's object and our record; both are read again when the record was replaced (FileNotFoundError)."""
        place = self.lxcpath / name
        status = os.stat(place / "caas.json")
        stamp = (status.st_mtime_ns, status.st_ino)
        cached = self._loaded.get(name)
        if cached is None or cached[0] != stamp:
            cached = (stamp, liblxc.load(name, self.lxcpath), read_record(place))
            self._loaded[name] = cached
        return cached[1], cached[2]

    def _owned(self, name: str) -> bool:
        """True where *name* exists and is ours, False where it does not exist, NOT_OWNED otherwise."""
        place = self.lxcpath / name
        if not place.exists():
            self._loaded.pop(name, None)
            return False
        if not self._is_ours(name):
            raise CaasError(
                Code.NOT_OWNED,
                f"container {name}: {place} is not ours (no lxc.group with our mark)",
                hint=f"lxc-destroy -P {self.lxcpath} -n {name}, or choose another name",
            )
        return True

    # ---- making

    def create(self, record: Record, keys: str | None, *, seed: str, again: bool) -> None:
        """Make the container of *record*; nothing is left where that fails. CONFLICT where it exists.

        *keys* are those its host lets in. *seed*: what take_seed() made of its source, for a clone. *again*: a worker
        died while it did this, perhaps after it was done.
        """
        name = record.container.name
        if self._owned(name):
            if again and read_record(self.lxcpath / name) == record:
                return
            raise CaasError(Code.CONFLICT, f"container {name} exists already")
        source = self.lxcpath / seed if seed else None
        if source is not None:
            check_seed(source, record)
        new = self.lxcpath / f"{_NEW}{name}"
        self.lxcpath.mkdir(mode=0o711, parents=True, exist_ok=True)
        remove_tree(new)  # left by a worker that was killed
        try:
            self._fill(new, record, source, keys)
            new.rename(self.lxcpath / name)
        except OSError as exc:
            remove_tree(new)
            code = Code.NO_ROOM if exc.errno == 28 else Code.FAILED
            raise CaasError(code, f"container {name}: {exc}") from exc
        except BaseException:
            remove_tree(new)
            raise
        self.writes += 1

    def _fill(self, new: Path, record: Record, source: Path | None, keys: str | None) -> None:
        container = record.container
        new.mkdir(mode=0o700)
        (new / MOUNT).mkdir()
        if source is None:
            make_rootfs(new, record.storage, record.image_rootfs, hostname=container.hostname)
        else:
            clone_rootfs(new, record.storage, source, record.image_rootfs, hostname=container.hostname)
        with open_root(writable_root(new, record.storage)) as root:  # a clone may have its source's
            self.writes += write_keys(root, keys if container.ssh else None, name=container.name)
        (new / HOSTS).write_text(make_hosts(container))
        (new / HOSTS).chmod(0o644)
        (new / LOG).touch()
        self._check_loadable(new, record)
        text = make_config(record, self.lxcpath / container.name, apparmor=has_apparmor())
        (new / CONFIG).write_text(text)
        if source is not None:
            sync_filesystem(new)
        write_record(new, record)
        self.writes += 5

    def _check_loadable(self, new: Path, record: Record) -> None:
        """liblxc must read the configuration back as it was meant, before anything of that name exists.

        With the paths of *new*: loading opens the log, and makes the log's folder where it is not there.
        """
        (new / CONFIG).write_text(make_config(record, new, apparmor=has_apparmor()))
        read_back = liblxc.load(new.name, self.lxcpath).get_config_item("lxc.rootfs.path")
        liblxc.remove_lock(new.name, self.lxcpath)
        liblxc.check_startable(read_back, record, new)

    def take_seed(self, name: str, seed: str) -> float:
        """Make *seed*, a folder in the lxcpath, from container *name*; returns for how many seconds that was frozen."""
        place, path = self._existing(name), self.lxcpath / seed
        lxc, record = self._load_cached(name)
        remove_tree(path)  # left by a worker that was killed
        self.writes += 1
        try:
            return take_seed(place, path, record, self._freezer if int(lxc.init_pid) > 0 else None)
        except BaseException:
            remove_tree(path)
            raise

    def drop_seed(self, name: str, seed: str) -> None:
        """Remove *seed*, and thaw container *name* if a worker was killed while it took that."""
        self.writes += self._freezer.thaw_left(name)
        remove_tree(self.lxcpath / seed)
        self.writes += 1

    # ---- changing

    def change(self, after: Container, keys: str | None) -> None:
        """Take over hosts, roles and ssh of *after*, live, and merge for its next start; its port where it does not
        run. INVALID where anything else differs; NOT_FOUND.

        *keys* are the host's. Where `ssh` is None nobody knows what was there, and it stays.
        """
        place = self._existing(after.name)
        lxc, record = self._load_cached(after.name)
        _check_changeable(record.container, after, running=int(lxc.init_pid) > 0)
        if record.container.hosts != after.hosts:
            self._write_hosts(place, after)
        if (record.container.merge, record.container.nic) != (after.merge, after.nic):
            self._write_config(place, replace(record, container=after))
        if after.ssh is None:
            after = replace(after, ssh=record.container.ssh)
        elif after.ssh or record.container.ssh:
            self._write_keys(record, keys if after.ssh else None)
        write_record(place, replace(record, container=after))
        self.writes += 1

    def _write_config(self, place: Path, record: Record) -> None:
        """One that was made by an earlier version may set what `merge` needs otherwise."""
        write_durably(place / CONFIG, make_config(record, place, apparmor=has_apparmor()))
        self.writes += 1

    def _write_keys(self, record: Record, keys: str | None) -> None:
        name = record.container.name
        lxc, _ = self._load_cached(name)
        pid = max(int(lxc.init_pid), 0)
        try:
            with open_root(self._root(name, pid, record)) as root:
                self.writes += write_keys(root, keys, name=name)
        except OSError as exc:
            raise CaasError(Code.FAILED, f"container {name}: its keys: {exc.strerror}: it ended just now") from exc

    def _existing(self, name: str) -> Path:
        if not self._owned(name):
            raise CaasError(Code.NOT_FOUND, f"container {name} does not exist in {self.lxcpath}")
        return self.lxcpath / name

    def _write_hosts(self, place: Path, container: Container) -> None:
        """In place: the file is bind-mounted, so a new one would not be seen. One write, then the new length.

        Not where it is as wanted: 64 starts would wait for the disk 64 times.
        """
        data = make_hosts(container).encode()
        fd = os.open(place / HOSTS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if os.fstat(fd).st_size == len(data) and os.pread(fd, len(data), 0) == data:
                return
            os.pwrite(fd, data, 0)
            os.ftruncate(fd, len(data))
            os.fsync(fd)
        finally:
            os.close(fd)
        self.writes += 1

    # ---- running

    def start(self, name: str) -> int:
        """Start it unless it runs; returns the PID of its init."""
        place = self._existing(name)
        lxc, record = self._load_cached(name)
        if int(lxc.init_pid) > 0:
            return int(lxc.init_pid)
        lxc = liblxc.load(name, self.lxcpath)  # nothing that liblxc remembers from before may decide
        liblxc.check_startable(lxc.get_config_item("lxc.rootfs.path"), record, place)
        self._sweep(name)  # a cgroup left by a killed monitor makes the start fail with "File exists"
        self._write_hosts(place, record.container)
        self.writes += 1
        return liblxc.start(lxc, place, merge=record.container.merge)

    def stop(self, name: str, patience: float) -> None:
        """Shut it down within *patience* seconds, else kill it; remove what liblxc leaves. Stopped is success."""
        place = self._existing(name)
        lxc, _ = self._load_cached(name)
        self.writes += liblxc.stop(lxc, place, patience=patience)
        self._sweep(name)

    def delete(self, name: str) -> None:
        """Kill it if it runs, remove everything of it. Already gone is success: then what a worker that was killed on
        the way has left is removed."""
        gone = self.lxcpath / f"{_GONE}{name}"
        if self._owned(name):
            self._delete_whole(name, gone)
        elif gone.exists():
            self.writes += 1
        remove_tree(gone)
        liblxc.remove_lock(name, self.lxcpath)
        self._cgroups.remove_base()

    def _delete_whole(self, name: str, gone: Path) -> None:
        place = self.lxcpath / name
        # A configuration that does not load must not keep it from being deleted: then its cgroups are killed.
        with contextlib.suppress(CaasError):
            self.writes += liblxc.stop(liblxc.load(name, self.lxcpath), place, patience=0)
        self._sweep(name)
        remove_tree(gone)
        place.rename(gone)
        self._loaded.pop(name, None)
        self.writes += 2

    def _sweep(self, name: str) -> None:
        """Remove the cgroups, processes and mounts that a container which does not run has left."""
        self.writes += self._cgroups.remove(name, patience=_MONITOR_PATIENCE, deadline=_MONITOR_DEADLINE)
        self.writes += unmount_below(self.lxcpath / name)

    def tidy(self) -> None:
        """Remove what calls that were cut off have left, and thaw what they froze. Call it while nothing else runs."""
        for name in self._freezer.left():
            self.writes += self._freezer.thaw_left(name)
        for prefix in (_NEW, _GONE, SEED, ".probe-"):
            for path in self.lxcpath.glob(f"{prefix}*"):
                remove_tree(path)
                if prefix == _GONE:
                    liblxc.remove_lock(path.name.removeprefix(_GONE), self.lxcpath)
                self.writes += 1
        liblxc.remove_lock_folders(self.lxcpath)
        self._cgroups.remove_base()


def _check_changeable(before: Container, after: Container, *, running: bool) -> None:
    kept = ("cluster", "hostname", "image", "clone_of", *(("nic",) if running else ()))
    changed = [name for name in kept if getattr(before, name) != getattr(after, name)]
    if changed:
        raise invalid(
            f"container {before.name}: {', '.join(changed)} cannot be changed while it exists",
            hint=f"delete container {before.name} and make it again",
        )
