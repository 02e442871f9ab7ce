"""A container that plays a physical host: Debian with a systemd of its own, caas put there by `make install`.

Its network is a namespace of the test's: `mgmt`, the other end of its eth0, and `trunk`, that of its eth1, lie in it on
bridges; `wire` is a raw port of the trunk's. Nothing of ours starts it: lxc-start does.
"""

from __future__ import annotations

import configparser
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from agent.containers.image_declaration import BUSYBOX
from tests.support.netns import poll_until, run

ROOT = Path(__file__).resolve().parents[2]
ADDRESS, COORDINATOR, PORT = "192.168.2.25", "192.168.2.1", 7443
UNITS = ("caas-containers", "caas-halt", "caas-agent", "caas-natbox", "caas-coordinator")
BOOT_SECONDS = 60.0
#: Kept, as images are.
WHEELS = Path("/var/lib/caas/wheels")
LOCKS = Path("/run/lxc/lock")

_CONFIG = """lxc.include = /usr/share/lxc/config/common.conf
lxc.include = /usr/share/lxc/config/nesting.conf
lxc.apparmor.profile = unconfined
lxc.mount.auto = cgroup:rw:force proc:rw sys:rw
lxc.rootfs.path = dir:{rootfs}
lxc.uts.name = host1
"""
_NIC = """lxc.net.{number}.type = veth
lxc.net.{number}.name = eth{number}
lxc.net.{number}.veth.pair = {pair}
lxc.net.{number}.script.up = {script}
lxc.net.{number}.flags = up
"""
_PLUG = '#!/bin/sh\nip link set "$5" master "br$5" up\n'  # lxc.container.conf(5): the fifth is the host's end
#: NATBox has links of its own here, which a unit of the test's makes.
_NATBOX = f"LISTEN={ADDRESS}:{PORT + 1}\nTRUNK=trunk0\nUPLINK=uplink0\n"
_CABLES = """[Unit]
Before=caas-natbox.service
[Service]
Type=oneshot
ExecStart=/bin/ip link add trunk0 type veth peer trunk1
ExecStart=/bin/ip link add uplink0 type veth peer uplink1
ExecStart=/bin/ip addr add 203.0.113.1/24 dev uplink0
ExecStart=/bin/sh -c 'for link in trunk0 trunk1 uplink0 uplink1; do ip link set $link up; done'
[Install]
WantedBy=multi-user.target
"""
_AGENT = f"NAME=host1\nLISTEN={ADDRESS}:{PORT}\nOPTIONS=\n"


def find_wheels() -> Path:
    """A folder with all that `make install` takes from PyPI, downloaded once for each content of setup.cfg."""
    text = (ROOT / "setup.cfg").read_text()
    folder = WHEELS / hashlib.sha256(text.encode()).hexdigest()[:16]
    if not folder.is_dir():
        config = configparser.ConfigParser()
        config.read_string(text)
        WHEELS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=WHEELS, prefix=".new-") as new:
            wanted = ["setuptools>=66", "wheel", *config["options"]["install_requires"].split()]
            subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--dest", new, *wanted], check=True)
            shutil.move(shutil.copytree(new, f"{new}-whole"), folder)
    return folder


class PhysicalHost:
    """The host in *folder* (rootfs/ is its disk), in the namespace *netns*."""

    def __init__(self, folder: Path, netns: str) -> None:
        self.folder, self.netns = folder, netns
        self.rootfs = folder / "rootfs"
        self._name = "physical"

    def install(self, image: Path, certificates: Path) -> None:
        """A new disk: Debian, caas by `make install`, its certificates, its units enabled."""
        subprocess.run(["cp", "-a", image, self.rootfs], check=True)
        shutil.copy2(BUSYBOX, self.rootfs / "usr/bin/busybox")  # its digest names the image that tests use
        done = subprocess.run(
            ["make", "-C", ROOT, "install", f"DESTDIR={self.rootfs}"],
            env={**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(find_wheels())},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        etc = self.rootfs / "etc/caas"
        for bearer, part in (("host1", "agent"), ("natbox", "natbox"), ("coordinator", "coordinator")):
            shutil.copytree(certificates / bearer, etc / part)
        (etc / "agent.env").write_text(_AGENT)
        (etc / "natbox.env").write_text(_NATBOX)
        (self.rootfs / "etc/systemd/system/cables.service").write_text(_CABLES)
        subprocess.run(["systemctl", f"--root={self.rootfs}", "--quiet", "enable", "cables", *UNITS], check=True)
        # Debian's lxc raises inotify's limit in /etc/sysctl.d, and that is the machine's own.
        subprocess.run(["systemctl", f"--root={self.rootfs}", "--quiet", "mask", "systemd-sysctl"], check=True)

    def wire_up(self) -> None:
        """Its network, and how it is plugged in at each boot."""
        for name in ("mgmt", "trunk"):
            run(f"ip -n {self.netns} link add br{name} type bridge && ip -n {self.netns} link set br{name} up")
        run(
            f"ip -n {self.netns} addr add {COORDINATOR}/24 dev brmgmt && "
            f"ip -n {self.netns} link add wire type veth peer name port && ip -n {self.netns} link set wire up && "
            f"ip -n {self.netns} link set port master brtrunk up"
        )
        plug = self.folder / "plug"
        plug.write_text(_PLUG)
        plug.chmod(0o755)
        nics = [_NIC.format(number=number, pair=pair, script=plug) for number, pair in enumerate(("mgmt", "trunk"))]
        address = f"lxc.net.0.ipv4.address = {ADDRESS}/24\n"
        config = _CONFIG.format(rootfs=self.rootfs) + "".join(nics) + address
        (self.folder / "config").write_text(config)

    @contextlib.contextmanager
    def booted(self) -> Iterator[None]:
        """On; at the end its power is cut."""
        assert (self.rootfs / "sbin/init").is_symlink(), "no rootfs: lxc-start would take the machine's own"
        self._lxc("start", "-f", str(self.folder / "config"), "-d", "-o", str(self.folder / "log"), "-l", "INFO")
        try:
            self.wait_agent()
            yield
        finally:
            self._lxc("stop", "-k")
            # liblxc leaves the folders of its locks.
            for folder in (LOCKS / self.folder.relative_to("/"), *(LOCKS / self.folder.relative_to("/")).parents):
                with contextlib.suppress(OSError):
                    shutil.rmtree(folder) if folder.name == self.folder.name else folder.rmdir()

    def wait_agent(self, *, not_boot: str = "") -> None:
        """Until the agent's unit is active, in another boot than *not_boot*."""

        def is_up() -> bool:
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                return self.boot() != not_boot and self.say("systemctl is-active caas-agent || :").strip() == "active"
            return False

        poll_until(is_up, deadline=BOOT_SECONDS, describe=self.journal)

    def boot(self) -> str:
        """Which boot this is: when its init began, in ticks of the machine's."""
        return self.say("cut -d' ' -f22 /proc/1/stat").strip()

    def say(self, script: str) -> str:
        """What a shell on the host says; AssertionError where it fails."""
        return self._lxc("attach", "--clear-env", "--", "/bin/sh", "-ec", script)

    def journal(self) -> str:
        """The last lines of our units."""
        try:
            return self.say("journalctl --no-pager -n 40 -u 'caas-*'")
        except (AssertionError, subprocess.TimeoutExpired) as exc:
            return str(exc)

    def _lxc(self, verb: str, *arguments: str) -> str:
        argv = ["nsenter", f"--net=/run/netns/{self.netns}", f"lxc-{verb}", "-P", str(self.folder), "-n", self._name]
        done = subprocess.run([*argv, *arguments], capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == 0, f"lxc-{verb} {arguments}: {done.stderr}{done.stdout}"
        return done.stdout
