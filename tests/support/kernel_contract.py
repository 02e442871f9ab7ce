"""What every KernelDoor does, the kernel's and the fake: the tests of both. A tier derives a class and has fixtures.

`door` is on a host with a trunk, eth1; `look` shows all that is there in some form of its own; `plug` makes the port
of a container, as starting it does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from agent.core.doors import KernelDoor, NetworkThing
from proto.errors import CaasError, Code
from proto.marks import Mark
from proto.model import Address, Bridge, Container, Forward, HostState, Masquerade, Nic, Route, Rule, Vlan

Look = Callable[[], object]
Plug = Callable[[Container], None]

MARK = Mark("demo", "cluster")
BRIDGE = Bridge(name="lxcbr0", mtu=1480, mark=MARK)
VLAN = Vlan(name="eth1.100", parent="eth1", vid=100, mtu=1480, master="lxcbr0", mark=MARK)
ADDRESS = Address(link="lxcbr0", address=IPv4Interface("10.20.1.1/24"))
ROUTE = Route(dst=IPv4Network("10.30.0.0/16"), dev="lxcbr0", via=IPv4Address("10.20.1.9"))
RULE = Rule(priority=1000, src=None, dst=IPv4Network("10.30.0.0/16"), table=1007)
MASQUERADE = Masquerade(
    source=IPv4Network("10.20.1.0/24"), exempt=(IPv4Network("10.0.0.0/8"), IPv4Network("10.30.0.0/16")), mark=MARK
)
FORWARD = Forward(
    address=IPv4Address("192.168.2.25"), port=1222, to=IPv4Address("10.20.1.5"), to_port=22, mark=Mark("demo", "c1")
)
#: Bottom first.
THINGS: tuple[NetworkThing, ...] = (
    BRIDGE,
    ADDRESS,
    ROUTE,
    replace(ROUTE, dst=IPv4Network("0.0.0.0/0"), table=1007),
    replace(ROUTE, dst=IPv4Network("10.31.0.0/16"), via=None, src=IPv4Address("10.20.1.1"), table=5),
    RULE,
    replace(RULE, priority=1001, src=IPv4Network("10.20.1.0/24"), dst=None, table=5),
    MASQUERADE,
    FORWARD,
    Masquerade(source=IPv4Network("10.21.0.0/16"), exempt=(), mark=MARK),
    replace(FORWARD, port=1223, mark=Mark("demo", "c2")),
)


def flat(state: HostState) -> set[NetworkThing]:
    return {*state.links, *state.addresses, *state.routes, *state.rules, *state.masquerades, *state.forwards}


def make_container(port: str) -> Container:
    nic = Nic(
        bridge="lxcbr0",
        port=port,
        mac="02:00:00:00:00:bb",
        mtu=1480,
        address=IPv4Interface("10.20.1.5/24"),
        gateway=None,
    )
    return Container(cluster="demo", hostname="one", image="base", nic=nic, hosts=(), roles=())


class KernelContract:
    def test_everything_is_seen_as_it_was_wanted_and_goes_again(self, door: KernelDoor, look: Look) -> None:
        before = look()
        for thing in THINGS:
            writes = door.writes
            door.create(thing)
            assert door.writes > writes
        writes = door.writes
        assert flat(door.observe().state) == set(THINGS)
        assert door.writes == writes
        for thing in reversed(THINGS):
            door.delete(thing)
            door.delete(thing)
        assert flat(door.observe().state) == set()
        assert look() == before

    def test_creating_twice_is_a_conflict(self, door: KernelDoor, look: Look) -> None:
        for thing in THINGS:
            door.create(thing)
        before = look()
        for thing in THINGS:
            with pytest.raises(CaasError) as caught:
                door.create(thing)
            assert caught.value.code is Code.CONFLICT, thing
            assert thing.name in caught.value.message
        assert look() == before

    def test_changes_of_links_routes_and_translation(self, door: KernelDoor) -> None:
        for thing in (BRIDGE, ADDRESS, ROUTE, MASQUERADE, FORWARD):
            door.create(thing)
        changes: tuple[tuple[NetworkThing, NetworkThing], ...] = (
            (BRIDGE, replace(BRIDGE, mtu=1400, mark=Mark("demo", "new"))),
            (ROUTE, replace(ROUTE, via=IPv4Address("10.20.1.10"), src=IPv4Address("10.20.1.1"))),
            (MASQUERADE, replace(MASQUERADE, exempt=(IPv4Network("10.0.0.0/9"),), mark=Mark("demo", "new"))),
            (FORWARD, replace(FORWARD, to=IPv4Address("10.20.1.6"))),
        )
        for before, after in changes:
            door.change(before, after)
        assert flat(door.observe().state) == {ADDRESS, *(after for _, after in changes)}

    def test_what_is_not_there_or_something_else_is_not_changed(self, door: KernelDoor, look: Look) -> None:
        door.create(BRIDGE)
        door.create(ADDRESS)
        before = look()
        for thing in (replace(BRIDGE, name="lxcbr1"), ROUTE):
            with pytest.raises(CaasError) as caught:
                door.change(thing, thing)
            assert caught.value.code is Code.NOT_FOUND
            with pytest.raises(CaasError, match="cannot become") as caught:
                door.change(thing, MASQUERADE)
            assert caught.value.code is Code.INVALID
        assert look() == before

    def test_missing_links_and_gateways_are_named(self, door: KernelDoor) -> None:
        for thing in (ADDRESS, ROUTE):
            with pytest.raises(CaasError, match="link lxcbr0 does not exist") as caught:
                door.create(thing)
            assert caught.value.code is Code.NOT_FOUND
        for vlan, words in ((VLAN, "bridge lxcbr0"), (replace(VLAN, parent="nowhere"), "parent nowhere")):
            with pytest.raises(CaasError, match=f"its {words} does not exist") as caught:
                door.create(vlan)
            assert caught.value.code is Code.NOT_FOUND
        door.create(BRIDGE)
        with pytest.raises(CaasError, match=r"create route 10\.30\.0\.0/16.*gateway") as caught:
            door.create(ROUTE)
        assert caught.value.code is Code.NOT_FOUND
        door.delete(replace(ADDRESS, link="nowhere"))
        door.delete(replace(ROUTE, dev="nowhere"))

    def test_links_of_others_are_seen_and_neither_replaced_nor_removed(self, door: KernelDoor, look: Look) -> None:
        assert "eth1" in door.observe().foreign
        before, theirs = look(), replace(BRIDGE, name="eth1")
        for call in (door.create, door.delete):
            with pytest.raises(CaasError, match="eth1") as caught:
                call(theirs)
            assert caught.value.code is Code.NOT_OWNED
        assert look() == before

    def test_what_is_on_a_link_goes_with_it(self, door: KernelDoor, look: Look) -> None:
        before = look()
        for thing in (BRIDGE, ADDRESS, ROUTE, VLAN):
            door.create(thing)
        door.delete(BRIDGE)
        assert flat(door.observe().state) == {replace(VLAN, master="")}
        door.delete(VLAN)
        assert look() == before

    def test_a_route_goes_with_the_address_it_sends_from(self, door: KernelDoor) -> None:
        """Another address stays: with the last one Linux removes every route by the link, which the fake does not."""
        kept = replace(ADDRESS, address=IPv4Interface("10.20.2.1/24"))
        sends = replace(ROUTE, via=None, src=IPv4Address("10.20.1.1"))
        stays = replace(sends, dst=IPv4Network("10.31.0.0/16"), src=None)
        for thing in (BRIDGE, ADDRESS, kept, sends, stays):
            door.create(thing)
        door.delete(ADDRESS)
        assert flat(door.observe().state) == {BRIDGE, kept, stays}

    def test_a_containers_port_is_foreign_until_it_is_marked(self, door: KernelDoor, plug: Plug) -> None:
        door.create(BRIDGE)
        one = make_container("p-one")
        with pytest.raises(CaasError, match="p-one") as caught:
            door.set_port_mark(one)
        assert caught.value.code is Code.NOT_FOUND
        plug(one)
        assert "p-one" in door.observe().foreign
        door.set_port_mark(one)
        assert "p-one" not in door.observe().foreign
        assert flat(door.observe().state) == {BRIDGE}
        writes = door.writes
        door.set_port_mark(one)
        assert door.writes == writes
