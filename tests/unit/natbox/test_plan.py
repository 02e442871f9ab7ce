"""The difference between the VLANs that should be and those that are."""

from __future__ import annotations

from dataclasses import replace

from agent.kernel.natbox_layout import SeenGateway, SeenPath
from natbox.plan import make_plan
from proto.model import Gateway, GatewayPath, Limits, Plan
from tests.unit.natbox.test_table import EXTERNAL, OTHER_EXTERNAL, WEB, gateway, near, publisher

PATH = GatewayPath(trunk="eth1", uplink="eth2")
LAID, ABSENT = SeenPath(there=("rules", "route"), missing=()), SeenPath(there=(), missing=("rules", "route"))


def plan(*desired: Gateway, seen: tuple[SeenGateway, ...] = (), path: SeenPath = LAID, wanted: bool = True) -> Plan:
    by_vid = {each.gateway.vid: each for each in seen}
    return make_plan(desired, by_vid, path=PATH, seen_path=path, path_is_wanted=wanted)


def whole(each: Gateway) -> SeenGateway:
    return SeenGateway(gateway=each, intact=True)


def lines(made: Plan) -> list[str]:
    return [str(action) for action in made]


def test_nothing_to_do_is_an_empty_plan() -> None:
    one = gateway(100, near("192.168.10.50"))
    assert plan(one, seen=(whole(one),)) == ()
    assert plan(path=ABSENT, wanted=False) == ()


def test_the_first_gateway_needs_the_path() -> None:
    assert lines(plan(gateway(100), path=ABSENT)) == [
        "create datapath eth1 to eth2: missing",
        "create gateway demo/n: missing",
    ]


def test_a_damaged_path_says_what_is_missing() -> None:
    damaged = SeenPath(there=("route",), missing=("rules",))
    one = gateway(100)
    assert lines(plan(one, seen=(whole(one),), path=damaged)) == ["change datapath eth1 to eth2: missing: rules"]


def test_what_goes_goes_first_and_the_path_last() -> None:
    old, new = gateway(100, network="old"), gateway(200, network="new")
    assert lines(plan(new, seen=(whole(old),))) == [
        "delete gateway demo/old: not desired",
        "create gateway demo/new: missing",
    ]
    assert lines(plan(seen=(whole(old),), wanted=False)) == [
        "delete gateway demo/old: not desired",
        "delete datapath eth1 to eth2: no cluster is left",
    ]


def test_a_change_names_every_difference() -> None:
    before = gateway(100, near("192.168.10.5"), near("192.168.10.6"))
    after = gateway(
        100, near("192.168.10.6", "02:00:00:00:00:02"), near("192.168.10.7"), at="192.168.10.2/24", network="m"
    )
    assert lines(plan(after, seen=(whole(before),))) == [
        "change gateway demo/m: name demo/n -> demo/m, gateway 192.168.10.1/24 -> 192.168.10.2/24, "
        "neighbour 192.168.10.7 missing, neighbour 192.168.10.5 not desired, "
        "neighbour 192.168.10.6 has 02:00:00:00:00:01, not 02:00:00:00:00:02"
    ]


def test_what_is_half_made_is_made_again() -> None:
    one = gateway(100)
    assert lines(plan(one, seen=(SeenGateway(gateway=one, intact=False),))) == [
        "change gateway demo/n: half made, changed by somebody else, or for another MAC of the trunk"
    ]


def test_doors_that_differ_are_named() -> None:
    before = publisher(100, WEB, own=OTHER_EXTERNAL)
    after = replace(
        before,
        external=EXTERNAL,
        publications=(replace(WEB, to_port=81),),
        own_addresses=(),
        limits=Limits(connections=5, connections_per_second=2),
    )
    assert lines(plan(after, seen=(whole(before),))) == [
        "change gateway demo/n: external the uplink's address -> 203.0.113.7, limits 0, 0/s -> 5, 2/s, "
        "publication tcp 80 to 192.168.10.50:81 missing, address 203.0.113.8 of 192.168.10.50 not desired, "
        "publication tcp 80 to 192.168.10.50:8080 not desired"
    ]
    assert plan(after, seen=(whole(after),)) == ()


def test_a_port_that_moves_is_given_up_before_it_is_taken() -> None:
    giver, taker = publisher(200, WEB, network="giver"), publisher(100, network="taker")
    empty, full = replace(giver, publications=()), replace(taker, publications=(WEB,))
    made = plan(full, empty, seen=(whole(giver), whole(taker)))
    assert [action.name for action in made] == ["demo/giver", "demo/taker"]
    both = plan(full, replace(giver, publications=(replace(WEB, port=81),)), seen=(whole(giver), whole(taker)))
    assert [action.name for action in both] == ["demo/giver", "demo/taker"]
    exchanged = plan(
        replace(taker, publications=(WEB,)),
        replace(giver, publications=(replace(WEB, port=81),)),
        seen=(whole(giver), whole(replace(taker, publications=(replace(WEB, port=81),)))),
    )
    assert {action.name for action in exchanged} == {"demo/giver", "demo/taker"}
