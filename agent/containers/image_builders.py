"""Where a root file system comes from: Debian packages by mmdebstrap, or one static busybox for tests."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from agent.containers.image_declaration import BUSYBOX, ImageDeclaration
from agent.containers.image_sandbox import Sandbox
from proto.errors import CaasError, Code

#: Called when everything is in place: {package: version}.
Packages = Callable[[], dict[str, str]]
Builder = Callable[[ImageDeclaration, Path, Sandbox], Packages]

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
#: Options of apt on this machine that decide how it reaches its mirrors; IndexTargets and the like are not among them.
_APT_OPTIONS = re.compile(
    r"^(Acquire::(https?|Retries|Check-Valid-Until|Check-Date|ForceIPv[46]|Languages)\S*) (\".*\");$", re.MULTILINE
)
#: Room and time: a container needs no manual pages or translations. Copyright files stay.
_DPKG_OPTIONS = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*/LC_MESSAGES/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "force-unsafe-io",
)


def machine_sources(suite: str, components: tuple[str, ...]) -> list[str]:
    """sources.list(5) lines for *suite*, its updates and its security, as this machine's apt is configured.

    NOT_FOUND where apt knows no source of Debian for that suite.
    """
    shown = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)"
    output = _output(["apt-get", "indextargets", "--format", shown, "Created-By: Packages"])
    signed = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
    found: dict[tuple[str, str], list[str]] = {}
    for line in output.splitlines():
        uri, release, component, origin = line.split("|")
        ours = release in (suite, f"{suite}-updates", f"{suite}-security") and component in components
        if ours and origin in ("Debian", "", "$(ORIGIN)") and component not in found.get((uri, release), []):
            found.setdefault((uri, release), []).append(component)
    have = {component for (_, release), names in found.items() if release == suite for component in names}
    if missing := [component for component in components if component not in have]:
        raise CaasError(
            Code.NOT_FOUND,
            f"apt on this machine has no Debian source for {suite} {' '.join(missing)}",
            hint=f"add one to /etc/apt/sources.list, then apt-get update: deb MIRROR {suite} {' '.join(components)}",
        )
    return [f"deb {signed}{uri} {release} {' '.join(names)}" for (uri, release), names in found.items()]


def machine_apt_options() -> list[str]:
    """This machine's Acquire settings (proxies, retries, validity) as lines of apt.conf(5)."""
    return [f"{key} {value};" for key, _, value in _APT_OPTIONS.findall(_output(["apt-config", "dump"]))]


def _output(argv: list[str]) -> str:
    try:
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError as exc:
        raise CaasError(Code.UNSUPPORTED, f"{argv[0]} is missing: images are built on Debian") from exc
    except subprocess.CalledProcessError as exc:
        raise CaasError(Code.FAILED, f"{' '.join(argv)}: {exc.stderr.strip()}") from exc


def build_mmdebstrap(declaration: ImageDeclaration, rootfs: Path, sandbox: Sandbox) -> Packages:
    """Install the packages. mmdebstrap keeps services from starting and the machine's resolv.conf inside meanwhile."""
    if not shutil.which("mmdebstrap"):
        raise CaasError(Code.UNSUPPORTED, "mmdebstrap is missing", hint="apt-get install mmdebstrap")
    sources = machine_sources(declaration.suite, declaration.components)
    argv = ["mmdebstrap", "--mode=root", "--variant=apt", "--format=directory"]
    argv += [f"--components={','.join(declaration.components)}"]
    argv += [f"--aptopt={option}" for option in machine_apt_options()]
    argv += [f"--dpkgopt={option}" for option in _DPKG_OPTIONS]
    if declaration.debconf:
        lines = rootfs.parent / "debconf"
        lines.write_text("\n".join(declaration.debconf) + "\n")
        argv += [f"--essential-hook=chroot \"$1\" debconf-set-selections < '{lines}'"]
    if declaration.packages:
        argv += [f"--include={','.join(sorted(set(declaration.packages)))}"]
    argv += [declaration.suite, str(rootfs), "-"]
    sandbox.say(f"image {declaration.name}: mmdebstrap {declaration.suite}, {len(declaration.packages)} packages named")
    sandbox.run(argv, stdin="\n".join([*sources, ""]).encode(), what="mmdebstrap", show="I: ")
    (rootfs.parent / "debconf").unlink(missing_ok=True)
    return lambda: installed_packages(rootfs)


def installed_packages(rootfs: Path) -> dict[str, str]:
    """{package: version} of what dpkg of the image lists as installed."""
    shown = "${binary:Package} ${Version} ${db:Status-Status}\\n"
    output = _output(["dpkg-query", f"--admindir={rootfs}/var/lib/dpkg", "--show", f"--showformat={shown}"])
    lines = [line.split() for line in output.splitlines()]
    return {line[0]: line[1] for line in lines if len(line) == 3 and line[2] == "installed"}


_BUSYBOX_FOLDERS = ("dev", "proc", "sys", "run", "tmp", "root", "etc", "var/log", "var/lib", "home", "mnt")
_INITTAB = "::sysinit:/etc/rc\n::ctrlaltdel:/sbin/poweroff\n"


def build_busybox(declaration: ImageDeclaration, rootfs: Path, sandbox: Sandbox) -> Packages:
    """One static busybox with a link for each of its applets; /sbin/init is busybox's. Needs no network."""
    header = BUSYBOX.read_bytes()[:4] if BUSYBOX.exists() else b""
    applets = _output([str(BUSYBOX), "--list-full"]).split() if header == b"\x7fELF" else []
    if not applets:
        raise CaasError(Code.UNSUPPORTED, f"{BUSYBOX} is missing", hint="apt-get install busybox-static")
    for folder in _BUSYBOX_FOLDERS:
        (rootfs / folder).mkdir(parents=True, exist_ok=True)
    (rootfs / "tmp").chmod(0o1777)
    (rootfs / "bin").mkdir()
    shutil.copy(BUSYBOX, rootfs / "bin/busybox")
    for applet in applets:
        link = rootfs / applet
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists() and not link.is_symlink():
            link.symlink_to("/bin/busybox")
    sandbox.run(["chroot", str(rootfs), "/bin/sh", "-c", "true"], what="busybox (is it busybox-static?)")
    (rootfs / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    (rootfs / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (rootfs / "etc/inittab").write_text(_INITTAB)
    (rootfs / "etc/rc").write_text("#!/bin/sh\n:\n")
    (rootfs / "etc/rc").chmod(0o755)
    for name in ("etc/hosts", "etc/machine-id", "etc/hostname", "etc/resolv.conf"):
        (rootfs / name).touch()
    version = _output([str(BUSYBOX)]).split()[1]
    return lambda: {"busybox-static": version}


BUILDERS: dict[str, Builder] = {"mmdebstrap": build_mmdebstrap, "busybox": build_busybox}
