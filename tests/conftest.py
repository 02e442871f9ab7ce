"""What all tiers share: which tests need root, which need a kind of device of the kernel's own, what was left out."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import fingerprint
from tests.support.ending import pytest_configure

__all__ = ["pytest_configure"]

# How long an example takes says what else the machine does, above all beside others (tests/support/beside.py).
settings.register_profile("caas", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("caas")

TIERS_FOR_ROOT = ("netns", "kernel", "lxc", "e2e")
HERE = Path(__file__).parent
#: A device of each kind on a throw-away parent, made by iproute2.
_PROBES = {
    "vlan": "ip link add parent type bridge && ip link add link parent name probe type vlan id 1",
    "ipip": "ip link add probe type ipip local 192.0.2.1 remote 192.0.2.2",
}
_left_out: dict[str, str] = {}


def tier_of(item: pytest.Item) -> str:
    """unit, netns, …: the folder of tests/ that the test is in."""
    return item.path.relative_to(HERE).parts[0] if item.path.is_relative_to(HERE) else ""


@functools.cache
def kernel_words(kind: str) -> str:
    """Why this kernel makes no device of *kind*, in its own words; "" where it does. Tried in a namespace."""
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", _PROBES[kind]], capture_output=True, text=True, timeout=30, check=False
    )
    return "" if done.returncode == 0 else done.stderr.strip() or f"status {done.returncode}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if (tier := tier_of(item)) in TIERS_FOR_ROOT:
            _left_out[tier] = "needs root"
            item.add_marker(pytest.mark.skip(reason=f"tests/{tier} needs root"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    required = os.environ.get("REQUIRE_KINDS", "").split(",")
    for marker in item.iter_markers("kinds"):
        for kind in marker.args:
            if not (words := kernel_words(kind)):
                continue
            if kind in required:
                pytest.fail(f"REQUIRE_KINDS names {kind}, and this kernel says: {words}", pytrace=False)
            _left_out[f"the kernel's own {kind}"] = words
            pytest.skip(f"no {kind} of the kernel's own: {words}")


#: What a run must leave as it found it; processes and cgroups are also other people's (tests/e2e looks at those).
_KEPT = ("mounts", "namespaces", "links", "addresses", "routes", "rules", "nft", "sysctls", "ksm", "files", "loops")
_before = pytest.StashKey[fingerprint.Fingerprint]()


def pytest_sessionstart(session: pytest.Session) -> None:
    is_guest = "REQUIRE_KINDS" in os.environ  # it is thrown away after its run (tests/kernel)
    if os.geteuid() == 0 and not is_guest:
        session.config.stash[_before] = fingerprint.take()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run that changed the machine has failed, whatever its tests say."""
    before = session.config.stash.get(_before, None)
    if before is None or not any(tier_of(item) in TIERS_FOR_ROOT for item in session.items):
        return
    of_others = fingerprint.of_others(before)
    left = fingerprint.wait_same(
        before, deadline=10, ignore=lambda section, line: section not in _KEPT or of_others(section, line)
    )
    if left:
        session.config.stash[_left] = left
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


_left = pytest.StashKey[str]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for what, why in sorted(_left_out.items()):
        terminalreporter.write_line(f"NOT RUN: {what}: {why}", yellow=True)
    for line in terminalreporter.config.stash.get(_left, "").splitlines():
        terminalreporter.write_line(f"LEFT BEHIND: {line}", red=True)
