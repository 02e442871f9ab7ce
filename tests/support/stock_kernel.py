"""Debian's own kernel, fetched and prepared for virtme-ng: a boot image in a cache and its modules in /lib/modules.

`python tests/support/stock_kernel.py` prints the path of the boot image. Which kernel that is, is what the meta
package of this architecture depends on (apt-cache), or the newest one that was prepared before, where apt has none.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CACHE = Path("/var/lib/caas/kernels")
MODULES = Path("/lib/modules")
#: Whoever is not here when the guest boots cannot be tested in it.
NEEDED = ("8021q", "ipip", "bridge", "veth", "overlay")


def prepare(cache: Path = CACHE) -> Path:
    """The boot image of the stock kernel, with its modules and their index in place. Root only; once 70 MB of download.

    Raises RuntimeError with what apt or dpkg said.
    """
    version = stock_version() or _cached_version(cache)
    if not version:
        raise RuntimeError(f"apt-cache knows no stock kernel and none is in {cache}: apt-get update")
    image = cache / version / "vmlinuz"
    if not image.exists():
        _fetch(version, cache)
    if not (MODULES / version / "modules.dep.bin").exists():
        _place_modules(cache / version / "modules", version)
    missing = [name for name in NEEDED if not list((MODULES / version).rglob(f"{name}.ko*"))]
    if missing:
        raise RuntimeError(f"kernel {version} has no module {', '.join(missing)}")
    return image


def stock_version() -> str:
    """The version (as uname -r says it) that the architecture's kernel package depends on, or ""."""
    architecture = _run(["dpkg", "--print-architecture"]).strip()
    meta = f"linux-image-{architecture}"
    text = _run(["apt-cache", "depends", meta], check=False)
    for line in text.splitlines():
        kind, _, name = line.strip().partition(": ")
        if kind == "Depends" and name.startswith("linux-image-") and name != meta:
            return name.removeprefix("linux-image-")
    return ""


def _cached_version(cache: Path) -> str:
    prepared = sorted(cache.glob("*/vmlinuz"), key=lambda path: path.stat().st_mtime)
    return prepared[-1].parent.name if prepared else ""


def _fetch(version: str, cache: Path) -> None:
    """Download and unpack beside the cache's place, then rename: a cut-off run leaves nothing that looks whole."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as name:
        work = Path(name)
        _run(["apt-get", "-q", "download", f"linux-image-{version}"], cwd=work)
        (package,) = work.glob("*.deb")
        _run(["dpkg-deb", "-x", str(package), str(work / "tree")])
        done = work / "done"
        done.mkdir()
        (work / "tree" / "boot" / f"vmlinuz-{version}").rename(done / "vmlinuz")
        (work / "tree" / "lib" / "modules" / version).rename(done / "modules")
        shutil.rmtree(cache / version, ignore_errors=True)
        done.rename(cache / version)


def _place_modules(source: Path, version: str) -> None:
    target = MODULES / version
    if not (target / "kernel").is_dir():
        MODULES.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, symlinks=True)
    _run(["depmod", version])


def _run(command: list[str], *, cwd: Path | None = None, check: bool = True) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: status {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


if __name__ == "__main__":
    try:
        print(prepare())
    except RuntimeError as exc:
        sys.exit(f"error: {exc}")
