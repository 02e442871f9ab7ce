"""Settings of the whole machine that a lab needs more of. The first lab raises them, the last one puts them back.

What was there before is written down before anything is changed, so that an interruption loses nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

from coordinator.lab.places import LABS
from proto.errors import CaasError, Code

#: Each systemd in a container takes half a dozen inotify instances of root's; 128 are used up by about 20 containers.
#: Neighbours of all namespaces count together (arp(7)): 1,024 are used up when 33 containers know each other.
WANTED = {
    "fs.inotify.max_user_instances": 8192,
    "net.ipv4.neigh.default.gc_thresh1": 4096,
    "net.ipv4.neigh.default.gc_thresh2": 8192,
    "net.ipv4.neigh.default.gc_thresh3": 16384,
}
LEDGER = LABS / "sysctls.json"
PROC = Path("/proc/sys")


def raise_limits(*, wanted: dict[str, int] = WANTED, ledger: Path = LEDGER, proc: Path = PROC) -> dict[str, int]:
    """Raise what is below *wanted*; returns what was changed. The caller holds the lock of all labs."""
    # The limits of neighbours are the first namespace's alone to read and to set.
    found = {key: _read(proc, key) for key in wanted if _path(proc, key).exists()}
    low = {key: wanted[key] for key, value in found.items() if value < wanted[key]}
    if not low:
        return {}
    remembered = _load(ledger)
    for key, value in low.items():
        # After a reboot the ledger is older than the value: what is there now is what has to be restored.
        remembered[key] = {"before": found[key], "set": value}
    ledger.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    _store(ledger, remembered)
    for key, value in low.items():
        _write(proc, key, value)
    return low


def restore_limits(*, ledger: Path = LEDGER, proc: Path = PROC) -> dict[str, int]:
    """Put back what `raise_limits` changed and nobody else has changed since; returns what was restored."""
    restored = {}
    for key, entry in _load(ledger).items():
        if _read(proc, key) == entry["set"]:
            _write(proc, key, entry["before"])
            restored[key] = entry["before"]
    ledger.unlink(missing_ok=True)
    return restored


def _path(proc: Path, key: str) -> Path:
    return proc.joinpath(*key.split("."))


def _read(proc: Path, key: str) -> int:
    return int(_path(proc, key).read_text())


def _write(proc: Path, key: str, value: int) -> None:
    try:
        _path(proc, key).write_text(f"{value}\n")
    except OSError as exc:
        raise CaasError(Code.FAILED, f"sysctl {key}={value}: {exc.strerror}", hint="run as root") from exc


def _load(ledger: Path) -> dict[str, dict[str, int]]:
    try:
        loaded: dict[str, dict[str, int]] = json.loads(ledger.read_text())
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as exc:
        raise CaasError(Code.FAILED, f"{ledger}: not JSON: {exc}", hint=f"rm {ledger}") from exc
    return loaded


def _store(ledger: Path, remembered: dict[str, dict[str, int]]) -> None:
    temporary = ledger.with_suffix(".new")
    temporary.write_text(json.dumps(remembered) + "\n")
    temporary.replace(ledger)
