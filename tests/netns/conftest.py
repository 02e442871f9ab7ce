"""A site for each test, and the realisations of a vlan that a contract test runs against."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.kernel.door import NetlinkDoor
from proto.marks import Mark
from proto.model import Bridge, Vlan
from tests.support.netns import Site

REALISATIONS = [pytest.param("kernel", marks=pytest.mark.kinds("vlan")), "bpf"]
TUNNELS = [pytest.param("kernel", marks=pytest.mark.kinds("ipip")), "bpf"]
MARK = Mark("demo", "cluster")


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


@pytest.fixture(params=REALISATIONS)
def realisation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def door(site: Site, realisation: str) -> Iterator[NetlinkDoor]:
    with NetlinkDoor(netns=site.host, vlan=realisation) as opened:  # type: ignore[arg-type]
        yield opened


@pytest.fixture
def bridge() -> Bridge:
    return Bridge(name="lxcbr100", mtu=1500, mark=MARK)


@pytest.fixture
def vlan() -> Vlan:
    return Vlan(name="eth1.100", parent="eth1", vid=100, mtu=1500, master="lxcbr100", mark=MARK)
