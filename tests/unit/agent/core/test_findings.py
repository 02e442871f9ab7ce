"""What a pending plan means for packets."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from agent.core.findings import find_pending
from agent.core.plan import make_plan
from proto.model import Bridge, Cause, Finding, HostState, Ipip, Vlan
from tests.support.things import TRUNK, make_bridge, make_container, make_state, make_tunnelled, make_vlan

FOREIGN = {TRUNK.name: TRUNK}
FAR, BLOCK = IPv4Network("192.0.2.1/32"), IPv4Network("10.9.1.0/24")


def found(desired: HostState, observed: HostState) -> list[Finding]:
    return list(find_pending(make_plan(desired, observed, FOREIGN), desired))


def without(state: HostState, kind: type) -> HostState:
    return replace(state, links=tuple(link for link in state.links if not isinstance(link, kind)))


def test_a_host_that_is_as_desired_has_none() -> None:
    state = make_state(make_container())
    assert found(state, state) == []


def test_what_is_there_too_much_is_no_cause() -> None:
    assert found(HostState(), make_state(make_container())) == []


@pytest.mark.parametrize(
    ("observed", "cause", "crossing"),
    [
        pytest.param(without(make_state(), Vlan), Cause.LINK_DOWN, True, id="no vlan"),
        pytest.param(without(make_state(), Bridge), Cause.LINK_DOWN, False, id="no bridge"),
        pytest.param(
            replace(make_state(), links=(make_bridge(), replace(make_vlan(), vid=101))),
            Cause.WRONG_VLAN,
            True,
            id="another VID",
        ),
        pytest.param(
            replace(make_state(), links=(make_bridge(), replace(make_vlan(), master="other"))),
            Cause.WRONG_VLAN,
            True,
            id="another bridge",
        ),
        pytest.param(
            replace(make_state(), links=(make_bridge(), replace(make_vlan(), mtu=1400))), Cause.MTU, True, id="MTU"
        ),
        pytest.param(
            replace(make_state(), links=(make_bridge(), replace(make_vlan(), parent="(broken)"))),
            Cause.LINK_DOWN,
            True,
            id="not whole",
        ),
    ],
)
def test_links(observed: HostState, cause: Cause, crossing: bool) -> None:
    desired = make_state(make_container())
    (finding,) = found(desired, replace(observed, containers=desired.containers))
    assert (finding.cause, finding.near, finding.crossing, finding.sure) == (cause, ("ubuntu011",), crossing, True)


@pytest.mark.parametrize(
    ("attribute", "count", "far"),
    [("routes", 2, {(FAR,), (BLOCK,)}), ("rules", 1, {(FAR,)}), ("links", 1, {(BLOCK, FAR)})],
)
def test_what_leads_to_a_tunnel(attribute: str, count: int, far: set[tuple[IPv4Network, ...]]) -> None:
    desired = make_tunnelled(1)
    findings = found(desired, replace(desired, **{attribute: ()}))
    assert len(findings) == count
    assert {finding.far for finding in findings} == far
    wanted = Cause.LINK_DOWN if attribute == "links" else Cause.NO_ROUTE
    assert {finding.cause for finding in findings} == {wanted}


def test_a_tunnel_that_is_not_whole() -> None:
    desired = make_tunnelled(1)
    (tunnel,) = desired.links
    assert isinstance(tunnel, Ipip)
    broken = replace(desired, links=(replace(tunnel, local="0.0.0.0"),))  # type: ignore[arg-type]
    (finding,) = found(desired, broken)
    assert (finding.cause, finding.text) == (Cause.TUNNEL, "tunnel t192.0.2.1 is not whole")


def test_a_container_that_does_not_run() -> None:
    desired = make_state(make_container())
    (finding,) = found(desired, make_state(make_container(running=False)))
    assert (finding.cause, finding.near, finding.crossing) == (Cause.NOT_RUNNING, ("ubuntu011",), False)
