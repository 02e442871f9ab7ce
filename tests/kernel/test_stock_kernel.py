"""The contract tests of tests/netns on Debian's own kernel, under emulation, where nothing may be skipped for lack of
a device; and one container on cgroup v2. What the guest says is in build/kernel-guest.log as it says it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.stock_kernel import prepare

ROOT = Path(__file__).parents[2]
LOG = ROOT / "build" / "kernel-guest.log"
#: What each realisation carries in full; of what becomes of it all that is about the kernel's, and the core of ours,
#: the rest of which runs natively: emulation is slow.
_LIFE = "frames or kernel or side_by_side or two_processes or removal or restarted or another_vid or tcp"
_TUNNEL = "kernel and (frames or wanted or removal or whole or any_far_end or understand)"
RUNS = {
    "vlan": ["tests/netns/test_vlan_frames.py", "tests/netns/test_vlan_life.py", "-k", _LIFE],
    "ipip": ["tests/netns/test_ipip_frames.py", "tests/netns/test_ipip_life.py", "-k", _TUNNEL],
    # One container from beginning to end, in files that can be run alone.
    "container": ["tests/lxc/test_cgroup_v2_smoke.py"],
}
#: Under emulation on two busy cores; alone on the machine it takes a fraction of it.
DEADLINE_SECONDS = 1500
_CACHED_EXPORT = (
    "-fsdev local,id=cached,path=/,security_model=none,readonly=on,multidevs=remap "
    "-device virtio-9p-pci,fsdev=cached,mount_tag=cached"
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(DEADLINE_SECONDS + 300)]


@pytest.fixture(scope="module")
def said() -> str:
    """All that the guest said, once."""
    try:
        image = prepare()
    except (RuntimeError, OSError) as exc:
        pytest.fail(f"no stock kernel: {exc}", pytrace=False)
    folder = Path(sys.executable).parent
    path = f"{folder}:{os.environ['PATH']}"
    for tool, mend in (("vng", "make venv"), ("qemu-system-x86_64", "apt-get install qemu-system-x86")):
        if shutil.which(tool, path=path) is None:
            pytest.fail(f"{tool} is not there: {mend}", pytrace=False)
    guest = ["sh", str(ROOT / "tests/kernel/guest.sh"), str(ROOT), sys.executable]
    guest += [word for name, arguments in RUNS.items() for word in (name, shlex.join(arguments))]
    command = ["vng", "--verbose", "--run", str(image), "--disable-kvm", "--cpus", "2", "--memory", "2G"]
    command += ["--append", "quiet", "--append", "loglevel=1", f"--qemu-opts={_CACHED_EXPORT}", "--"]
    LOG.parent.mkdir(exist_ok=True)
    # vng joins the words of its command with blanks.
    return _run_guest([*command, shlex.join(guest)], os.environ | {"PATH": path})


def _run_guest(command: list[str], environment: dict[str, str]) -> str:
    """Run it in a session of its own, its output through a pipe into the log, and end all of it at the deadline."""
    with LOG.open("wb") as log:
        running = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        assert running.stdout
        deadline = time.monotonic() + DEADLINE_SECONDS
        try:
            os.set_blocking(running.stdout.fileno(), False)
            while running.poll() is None and time.monotonic() < deadline:
                log.write(running.stdout.read() or b"")
                log.flush()
                time.sleep(0.2)
            log.write(running.stdout.read() or b"")
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
                running.wait()
    return LOG.read_text(errors="replace")


@pytest.mark.parametrize("name", RUNS)
def test_passes_on_the_stock_kernel(said: str, name: str) -> None:
    status = re.search(rf"^=== {name}: status (\d+)", said, re.MULTILINE)
    before = said[: status.start() if status else len(said)].rpartition("\n=== ")[2]
    told = "\n".join(line for line in before.splitlines() if not line.startswith("[ "))[-6000:]
    assert status, f"the guest's tests did not end; see {LOG}:\n{told}"
    assert status[1] == "0", f"the guest's tests failed; see {LOG}:\n{told}"
    (summary,) = re.findall(r"^(\d+ passed.*)$", before, re.MULTILINE)
    assert "skipped" not in summary, f"skipped on the stock kernel: {told}"
    assert re.search(r"=== guest: \d\S+", said), "which kernel was it?"
