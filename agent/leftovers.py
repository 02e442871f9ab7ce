"""What of a cluster is still on this host after its removal, and what of ours when the last cluster is gone.

Looks only, and shares nothing with what removes: iproute2, tc, nft (agent.kernel.leftovers), /proc, /sys and folders.
Of what carries no mark, a host's state before its first cluster says whether it is new: STATE/before.json.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.kernel.leftovers import NetworkLeftovers
from proto.disk import remove, write_whole
from proto.errors import CaasError

log = logging.getLogger(__name__)
CGROUPS = Path("/sys/fs/cgroup")
LOCKS = Path("/run/lxc/lock")
MOUNTINFO = Path("/proc/self/mountinfo")
#: A container's links go some milliseconds after its last process, its mounts with its monitor: seconds.
PATIENCE = 5.0
_LOOK_EVERY = 0.1
#: Of calls that were cut off: `.new-CLUSTER.NAME` and the like (docs/architecture.md).
_CUT_OFF = re.compile(r"^\.[a-z]+-")


class Leftovers:
    """Of the agent whose folder is *state*, in its network namespace, or in that of *netns*."""

    def __init__(self, state: Path, *, netns: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._state = state.absolute()
        self._lxcpath = self._state / "containers"
        self._before = self._state / "before.json"
        self._network = NetworkLeftovers(netns=netns)
        self._clock = clock

    def remember(self) -> None:
        """Before the first cluster: write down what no mark will tell of later. A failure is logged."""
        try:
            write_whole(self._before, json.dumps(self._network.list_settings(), indent=1))
        except (CaasError, OSError) as exc:
            log.warning("what this host is before its first cluster is not written down: %s", exc)

    def find(self, cluster: str, *, is_last: bool) -> tuple[str, ...]:
        """What is left of *cluster*; where it was the last one, of anything of ours. Looked at again for PATIENCE.

        Where it cannot be looked, that is what is told. With nothing left after the last one, before.json goes.
        """
        end = self._clock() + PATIENCE
        while left := self._look(cluster, is_last=is_last):
            if self._clock() >= end:
                return tuple(left)
            time.sleep(_LOOK_EVERY)
        if is_last and self._before.exists():
            remove(self._before)
        return ()

    def _look(self, cluster: str, *, is_last: bool) -> list[str]:
        try:
            found = self._network.find("" if is_last else cluster)
            if is_last:
                found += self._find_settings()
        except CaasError as exc:
            return [f"it cannot be looked at: {exc.message}"]
        return [*found, *self._find_files(cluster), *self._find_mounts(cluster), *self._find_cgroups(cluster, is_last)]

    def _find_settings(self) -> Iterator[str]:
        if not self._before.exists():
            return
        before = json.loads(self._before.read_text())
        for link, settings in self._network.list_settings().items():
            for each in settings:
                if link in before and each not in before[link]:
                    yield f"link {link} {each}, which it was not before the first cluster"

    def _find_files(self, cluster: str) -> Iterator[str]:
        if (saved := self._state / "desired" / f"{cluster}.json").exists():
            yield f"file {saved}"
        for folder in (self._lxcpath, LOCKS / self._lxcpath.relative_to("/")):
            for name in sorted(_list(folder)):
                # liblxc's lock of a container is `.NAME`.
                bare = _CUT_OFF.sub("", name) if folder == self._lxcpath else name.removeprefix(".")
                if bare.startswith(f"{cluster}."):
                    yield f"folder {folder / name}" if (folder / name).is_dir() else f"file {folder / name}"

    def _find_mounts(self, cluster: str) -> Iterator[str]:
        for line in MOUNTINFO.read_text().splitlines():
            target = line.split(" ")[4]
            if f"{target}/".startswith(f"{self._lxcpath}/{cluster}."):
                yield f"mount {target}"

    def _find_cgroups(self, cluster: str, is_last: bool) -> Iterator[str]:
        ours = f"caas-{hashlib.sha256(str(self._lxcpath).encode()).hexdigest()[:12]}"
        for folder, inner, _ in os.walk(CGROUPS):
            if ours in inner:
                inner.clear()
                names = sorted(name for name in _list(Path(folder, ours)) if name.startswith(f"{cluster}."))
                yield from (f"cgroup {folder}/{ours}/{name}" for name in names)
                if is_last and not names:
                    yield f"cgroup {folder}/{ours}"


def _list(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
