"""The guest begins when the tests with nova are over and is asked last: it needs a core for minutes, and no waiting."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.guest import Guest, make_test_run

HERE = Path(__file__).parent
#: What each realisation carries in full; of what becomes of it all that is about the kernel's,
#: and of both together; the rest of ours runs natively, and VXLAN is the native kernel's own: emulation is slow.
_LIFE = "frames or kernel or side_by_side or two_processes"
_TUNNEL = "kernel and (frames or wanted or removal or whole or any_far_end or understand or picture)"
#: What NATBox lets through and what not: how tags come to its programs is the kernel's affair.
_PATH = "outbound_has or inbound_has or wrong_frame or nobody_asked or silence or clamped or needed"
RUNS = {
    "vlan": ["tests/netns/test_vlan_frames.py", "tests/netns/test_vlan_life.py", "-k", _LIFE],
    "ipip": [
        "tests/netns/test_ipip_frames.py",
        "tests/netns/test_ipip_life.py",
        "tests/netns/test_picture.py",
        "-k",
        _TUNNEL,
    ],
    "natbox": ["tests/netns/test_natbox_frames.py", "-k", _PATH],
    # One container from beginning to end, in files that can be run alone.
    "container": ["tests/lxc/test_cgroup_v2_smoke.py"],
}
_guest = pytest.StashKey[Guest]()


def _is_here(item: pytest.Item) -> bool:
    return item.path.is_relative_to(HERE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_is_here)  # stable: everything else stays in its order


def start(config: pytest.Config) -> Guest:
    """The guest of this run, started when first asked for."""
    if config.stash.get(_guest, None) is None:
        config.stash[_guest] = Guest({name: make_test_run(arguments) for name, arguments in RUNS.items()})
    return config.stash[_guest]


class Early:
    """Starts the guest before its tests are due."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if "e2e" not in item.path.parts:
            start(self._config)


def pytest_collection_finish(session: pytest.Session) -> None:
    if os.geteuid() == 0 and not session.config.option.collectonly and any(map(_is_here, session.items)):
        session.config.pluginmanager.register(Early(session.config))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (guest := session.config.stash.get(_guest, None)) is not None:
        guest.stop()


@pytest.fixture(scope="session")
def said(pytestconfig: pytest.Config) -> str:
    """All that the guest said."""
    return start(pytestconfig).said()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "guest_run" in metafunc.fixturenames:
        metafunc.parametrize("guest_run", RUNS)
