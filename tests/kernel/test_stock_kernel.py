"""The contract tests of tests/netns on Debian's own kernel, under emulation, where nothing may be skipped for lack of
a device; and one container on cgroup v2. What the guest says is in build/kernel-guest.log as it says it.
"""

from __future__ import annotations

import re

import pytest

from tests.support.guest import DEADLINE_SECONDS, LOG

pytestmark = [pytest.mark.slow, pytest.mark.timeout(DEADLINE_SECONDS + 300)]


def test_passes_on_the_stock_kernel(said: str, guest_run: str) -> None:
    status = re.search(rf"^=== {guest_run}: status (\d+)", said, re.MULTILINE)
    before = said[: status.start() if status else len(said)].rpartition("\n=== ")[2]
    told = "\n".join(line for line in before.splitlines() if not line.startswith("[ "))[-6000:]
    assert status, f"the guest's tests did not end; see {LOG}:\n{told}"
    assert status[1] == "0", f"the guest's tests failed; see {LOG}:\n{told}"
    (summary,) = re.findall(r"^(\d+ passed.*)$", before, re.MULTILINE)
    assert "skipped" not in summary, f"skipped on the stock kernel: {told}"
    assert re.search(r"=== guest: \d\S+", said), "which kernel was it?"
