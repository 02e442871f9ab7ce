"""What a machine has that our code could leave behind: taken twice, the difference is what was left, or broken.

Shares no code with what it judges: `ip -json`, `nft`, /proc and /sys, and bpf(2) for what BPF has loaded. It looks at
the machine's own network namespace, and at the names of others. Each section is a set of lines, so that a difference
reads like a diff.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Inherited by all that a test run starts, and looked for in processes that are left.
os.environ.setdefault("CAAS_TEST_RUN", str(os.getpid()))
#: Where our processes keep files that are to go with what they stand for (images stay).
FOLDERS = ("/run/caas", "/var/lib/caas/labs", "/run/lxc/lock", "/sys/fs/bpf")
LAB_ROOTS = ("/var/lib/caas/labs", "/run/caas")
#: Of containers and their monitors (docs/architecture.md).
_OUR_CGROUP = re.compile(r"/(caas-|lxc)")
_HOST_CGROUP = re.compile(r"caas-[0-9a-f]{12}")
#: What every process that we start has in its environment, and so have its children; and what liblxc gives to init.
_OUR_ENVIRONMENT = (b"CAAS_", b"container=lxc")
SYSCTL_ROOTS = ("fs/inotify", "kernel/keys", "kernel/pty", "net", "vm", "user")
#: What changes by itself, or is per CPU and time.
_VOLATILE = re.compile(
    r"(conntrack_count|/drop_caches|/compact_memory|/stat_refresh|/pty/nr|route/flush|nr_pdflush|"
    r"nf_conntrack_events_retry|/neigh/.*_jiffies)"
)
_NOISE = {"stats", "stats64", "linkinfo", "txqlen", "valid_life_time", "preferred_life_time", "gc_timer"}
_BPF = {"x86_64": 321, "aarch64": 280}  # the number of bpf(2), asm/unistd_64.h and asm-generic/unistd.h
_BPF_NEXT = {"program": 11, "map": 12}  # BPF_PROG_GET_NEXT_ID and BPF_MAP_GET_NEXT_ID, linux/bpf.h


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Section -> its lines."""

    sections: dict[str, frozenset[str]]


def take() -> Fingerprint:
    """The machine as it is now. Needs root for nftables, BPF and other people's processes."""
    return Fingerprint(
        {
            "links": frozenset(_ip("link")),
            "addresses": frozenset(_ip("address")),
            "routes": frozenset((*_ip("route", "show", "table", "all"), *_ip("-6", "route", "show", "table", "all"))),
            "rules": frozenset((*_ip("rule"), *_ip("-6", "rule"))),
            "nft": frozenset(_run("nft", "--stateless", "list", "ruleset").splitlines()),
            "namespaces": frozenset(_names("/run/netns")),
            "mounts": frozenset(_mounts()),
            "cgroups": frozenset(_cgroups()),
            "processes": frozenset(_processes()),
            "sysctls": frozenset(_sysctls()),
            "ksm": frozenset(_ksm()),
            "files": frozenset(line for folder in FOLDERS for line in _tree(folder)),
            "bpf": frozenset(_bpf()),
            "loops": frozenset(_loops()),
        }
    )


def difference(before: Fingerprint, after: Fingerprint, *, ignore: Callable[[str, str], bool] | None = None) -> str:
    """What is not as it was, one line each: `links: + new`, `links: - gone`; "" where nothing is.

    *ignore* takes a section and a line, and says True for what the caller knows to be somebody else's doing.
    """
    lines = []
    for section in before.sections:
        old, new = before.sections[section], after.sections[section]
        changed = [("-", line) for line in sorted(old - new)] + [("+", line) for line in sorted(new - old)]
        for sign, line in changed:
            if ignore is None or not ignore(section, line):
                lines.append(f"{section}: {sign} {line}")
    return "\n".join(lines)


def of_others(before: Fingerprint) -> Callable[[str, str], bool]:
    """An *ignore* for `difference`: what labs do that were up already, and cgroups that are no container's.

    A machine is seldom ours alone: somebody may have a demonstration up beside the tests.
    """
    labs = {line for line in before.sections["files"] if os.path.dirname(line) in LAB_ROOTS}
    hosts = {found[0] for line in before.sections["cgroups"] if (found := _HOST_CGROUP.search(line))}

    def ignore(section: str, line: str) -> bool:
        if section == "files":
            return any(line.startswith(f"{lab}/") for lab in labs)
        host = _HOST_CGROUP.search(line)
        if section in ("cgroups", "processes") and host and host[0] in hosts:
            return True
        return section == "cgroups" and not _OUR_CGROUP.search(line)

    return ignore


def wait_same(before: Fingerprint, *, deadline: float, ignore: Callable[[str, str], bool] | None = None) -> str:
    """`difference` to the machine as it is, "" as soon as there is none; asked again for *deadline* seconds.

    The kernel takes its time: a namespace's links go some milliseconds after its last process.
    """
    end = time.monotonic() + deadline
    while left := difference(before, take(), ignore=ignore):
        if time.monotonic() > end:
            return left
        time.sleep(0.2)
    return ""


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
    return done.stdout


def _ip(*words: str) -> Iterable[str]:
    objects: list[dict[str, Any]] = json.loads(_run("ip", "-details", "-json", *words) or "[]")
    for found in objects:
        yield json.dumps(_without_noise(found), sort_keys=True)


def _without_noise(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_noise(inner) for key, inner in value.items() if key not in _NOISE}
    if isinstance(value, list):
        return [_without_noise(inner) for inner in value]
    return value


def _ksm() -> Iterable[str]:
    """What of the kernel's merging of pages somebody has set; the rest are counters."""
    for name in ("run", "pages_to_scan", "sleep_millisecs"):
        path = Path("/sys/kernel/mm/ksm", name)
        if path.exists():
            yield f"{name} {path.read_text().strip()}"


def _names(folder: str) -> Iterable[str]:
    return os.listdir(folder) if os.path.isdir(folder) else ()


def _mounts() -> Iterable[str]:
    """Target, root, type and source; the ids of mounts differ from one time to the next."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        # `ip netns` itself binds this folder to itself the first time it is used (ip-netns(8)), for everybody.
        if fields[4] != "/run/netns":
            yield f"{fields[4]} root={fields[3]} type={rest[0]} source={rest[1]}"


def _cgroups() -> Iterable[str]:
    return (folder for folder, _, _ in os.walk("/sys/fs/cgroup"))


def _processes() -> Iterable[str]:
    """Every process of ours but this one: pid, start time, command. Ours are known by their environment and cgroup."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            stat = Path("/proc", entry, "stat").read_text(errors="replace").rpartition(")")[2].split()
            command = Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = _environment(entry)
            cgroup = Path("/proc", entry, "cgroup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if not any(word in environment for word in _OUR_ENVIRONMENT) and not _OUR_CGROUP.search(cgroup):
            continue
        if command and stat[0] not in "ZX":  # kernel threads and zombies have no command line
            host = _HOST_CGROUP.search(cgroup)
            yield f"{entry} started={stat[19]} {host[0] if host else ''} {command.strip()[:200]}"


def _environment(pid: str) -> bytes:
    try:
        return Path("/proc", pid, "environ").read_bytes()
    except PermissionError:  # closed even to root by a security module, or by another user namespace: not ours
        return b""


def _sysctls() -> Iterable[str]:
    for root in SYSCTL_ROOTS:
        for folder, _, names in os.walk(Path("/proc/sys", root)):
            for name in names:
                path = os.path.join(folder, name)
                if _VOLATILE.search(path):
                    continue
                try:
                    yield f"{path.removeprefix('/proc/sys/')}={Path(path).read_text().strip()}"
                except OSError:
                    continue  # some may only be written
    ksm = Path("/sys/kernel/mm/ksm")
    for name in ("run", "pages_to_scan", "sleep_millisecs"):
        if (ksm / name).exists():
            yield f"ksm/{name}={(ksm / name).read_text().strip()}"


def _tree(folder: str) -> Iterable[str]:
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            yield os.path.join(parent, name)


def _bpf() -> Iterable[str]:
    """The ids of every program and map that is loaded (BPF_*_GET_NEXT_ID)."""
    libc = ctypes.CDLL(None, use_errno=True)
    for kind, command in _BPF_NEXT.items():
        attributes = (ctypes.c_uint32 * 32)()
        while libc.syscall(_BPF[platform.machine()], command, attributes, ctypes.sizeof(attributes)) == 0:
            yield f"{kind} {attributes[1]}"
            attributes[0] = attributes[1]


def _loops() -> Iterable[str]:
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        yield f"{backing.parts[3]} {backing.read_text().strip()}"
