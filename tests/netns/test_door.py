"""Bridges, addresses, routes, rules, translation, ports: made by the door, judged by ip and nft."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from agent.kernel import links
from agent.kernel.door import NetlinkDoor
from proto.errors import CaasError, Code
from proto.marks import Mark
from proto.model import Address, Bridge, Container, HostState, Ipip, Route, Vlan
from tests.support import oracle
from tests.support.kernel_contract import (
    ADDRESS,
    BRIDGE,
    FORWARD,
    MARK,
    MASQUERADE,
    ROUTE,
    RULE,
    THINGS,
    KernelContract,
    Look,
    Plug,
    flat,
    make_container,
)
from tests.support.netns import Site, run


@pytest.fixture
def door(site: Site) -> Iterator[NetlinkDoor]:
    with NetlinkDoor(netns=site.host, vlan="bpf") as opened:
        yield opened


class TestNetlinkDoor(KernelContract):
    @pytest.fixture
    def look(self, site: Site) -> Look:
        return lambda: oracle.snapshot(site.host)

    @pytest.fixture
    def plug(self, site: Site) -> Plug:
        def add_box(container: Container) -> None:
            site.add_box(container.nic.port.removeprefix("p-"), container.nic.bridge)

        return add_box


def test_another_door_sees_the_same_and_writes_nothing(site: Site, door: NetlinkDoor) -> None:
    for thing in THINGS:
        door.create(thing)
    with NetlinkDoor(netns=site.host, vlan="bpf") as second:
        assert second.observe().state == door.observe().state
        assert second.writes == 0


@pytest.mark.parametrize("setting", ["ipv6/conf/lxcbr100/disable_ipv6", "ipv4/conf/lxcbr100/rp_filter"])
def test_a_bridge_that_was_not_made_silent_is_not_whole_and_is_mended(
    site: Site, door: NetlinkDoor, setting: str
) -> None:
    """Its maker was killed after it had made it and before it had set that."""
    wanted = Bridge(name="lxcbr100", mtu=1400, mark=Mark("demo", "cluster"))
    door.create(wanted)
    assert door.observe().state.links == (wanted,)
    value = run(f"cat /proc/sys/net/{setting}", netns=site.host)
    run(f"echo 0 > /proc/sys/net/{setting}", netns=site.host)
    (seen,) = door.observe().state.links
    assert isinstance(seen, Bridge)
    assert seen != wanted
    door.change(seen, wanted)
    assert run(f"cat /proc/sys/net/{setting}", netns=site.host) == value == "1\n"
    assert door.observe().state.links == (wanted,)


def test_an_address_is_there_only_when_its_link_forwards(
    site: Site, door: NetlinkDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is killed between the two is asked again: where the address is, it is not made again."""
    door.create(Bridge(name="lxcbr100", mtu=1400, mark=Mark("demo", "cluster")))
    address = Address(link="lxcbr100", address=IPv4Interface("10.20.0.1/24"))
    with monkeypatch.context() as patch:
        patch.setattr("agent.kernel.door.layer3.add_address", _killed)
        with pytest.raises(KeyboardInterrupt):
            door.create(address)
    assert run("cat /proc/sys/net/ipv4/conf/lxcbr100/forwarding", netns=site.host) == "1\n"
    door.create(address)
    assert door.observe().state.addresses == (address,)


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_a_deletion_that_was_cut_off_has_left_is_swept(site: Site, door: NetlinkDoor) -> None:
    """Of a vlan and a tunnel the links alone are gone."""
    before = oracle.snapshot(site.host), remains(site)
    mark, far = Mark("demo", "cluster"), IPv4Address("192.168.2.26")
    door.create(Bridge(name="lxcbr100", mtu=1400, mark=mark))
    door.create(Vlan(name="eth1.100", parent="eth1", vid=100, mtu=1400, master="lxcbr100", mark=mark))
    door.create(Ipip(name="t1", local=IPv4Address("192.168.2.25"), remote=far, mtu=1480, mark=Mark("host", "t1")))
    door.create(Route(dst=IPv4Network("10.20.9.0/24"), dev="t1"))
    made = remains(site)
    writes = door.writes
    door.sweep()
    assert (door.writes, remains(site)) == (writes, made), "what is in use stays"
    run("ip link del eth1.100 && ip link del t1 && ip link del lxcbr100", netns=site.host)
    assert remains(site) != before[1]
    door.sweep()
    assert (oracle.snapshot(site.host), remains(site)) == before
    writes = door.writes
    door.sweep()
    assert door.writes == writes


def remains(site: Site) -> str:
    """What no link takes with it."""
    return run(
        "nft --stateless list ruleset; tc qdisc show dev eth1; tc filter show dev eth1 ingress; ip link show dev eth1",
        netns=site.host,
    )


def test_a_bridge_is_silent_and_keeps_its_mtu_and_mac(site: Site, door: NetlinkDoor) -> None:
    door.create(BRIDGE)
    before = oracle.links(site.host)["lxcbr0"]
    assert (before["mtu"], before["ifalias"]) == (1480, "caas:demo:cluster")
    assert "UP" in before["flags"]
    data = before["linkinfo"]["info_data"]
    assert (data["stp_state"], data["mcast_snooping"]) == (0, 0)
    assert oracle.addresses(site.host, "lxcbr0") == []
    # Each alone keeps the host's stack out, too: frames do not show which of the two it was.
    for key in ("ipv6.conf.lxcbr0.disable_ipv6", "ipv4.conf.lxcbr0.arp_ignore", "ipv4.conf.lxcbr0.rp_filter"):
        assert run(f"sysctl -n net.{key}", netns=site.host) == "1\n", key
    site.add_box("box", "lxcbr0")
    run("ip link set p-box mtu 1300", netns=site.host)
    after = oracle.links(site.host)["lxcbr0"]
    assert (after["mtu"], after["address"]) == (1480, before["address"])
    door.change(BRIDGE, replace(BRIDGE, mtu=1300, mark=Mark("demo", "other")))
    after = oracle.links(site.host)["lxcbr0"]
    assert (after["mtu"], after["ifalias"]) == (1300, "caas:demo:other")


def test_the_oracle_sees_routes_and_rules_of_our_protocol(site: Site, door: NetlinkDoor) -> None:
    for thing in (BRIDGE, ADDRESS, ROUTE, RULE):
        door.create(thing)
    (route,) = [each for each in oracle.routes(site.host) if each["dst"] == "10.30.0.0/16"]
    assert (route["gateway"], route["dev"], route["protocol"]) == ("10.20.1.9", "lxcbr0", "202")
    (rule,) = [each for each in oracle.rules(site.host) if each["priority"] == 1000]
    assert (rule["dst"], rule["dstlen"], str(rule["table"])) == ("10.30.0.0", 16, "1007")
    assert str(rule["protocol"]) == "202"


def test_others_routes_rules_addresses_and_nft_are_neither_seen_nor_touched(site: Site, door: NetlinkDoor) -> None:
    run("ip route add 10.30.0.0/16 via 192.168.2.1; ip rule add pref 1000 to 10.30.0.0/16 table 1007", netns=site.host)
    run("nft add table ip mine; nft add chain ip mine c; nft add rule ip mine c accept comment caas", netns=site.host)
    before = oracle.snapshot(site.host)
    assert flat(door.observe().state) == set()
    for thing in (ROUTE, RULE, MASQUERADE, FORWARD, replace(ROUTE, dev="eth1", via=IPv4Address("192.168.2.1"))):
        door.delete(thing)
    foreign = Address(link="eth1", address=IPv4Interface("192.168.2.25/24"))
    with pytest.raises(CaasError) as caught:
        door.delete(foreign)
    assert caught.value.code is Code.NOT_OWNED
    assert oracle.snapshot(site.host) == before


def test_our_address_on_a_link_that_is_not_ours_is_seen_and_removed(site: Site, door: NetlinkDoor) -> None:
    ours = Address(link="eth1", address=IPv4Interface("10.40.0.1/24"))
    door.create(ours)
    assert door.observe().state.addresses == (ours,)
    door.delete(ours)
    assert oracle.addresses(site.host, "eth1") == ["192.168.2.25/24"]


def test_masquerading_translates_and_exempts(site: Site, door: NetlinkDoor) -> None:
    """A box behind the host: what goes to the wire has the host's address, what goes to an exempt network its own."""
    for thing in (BRIDGE, ADDRESS, replace(MASQUERADE, exempt=(IPv4Network("192.168.2.128/25"),))):
        door.create(thing)
    box = site.add_box("box", "lxcbr0", address="10.20.1.5/24")
    run("ip route add default via 10.20.1.1", netns=box)
    run("sysctl -qw net.ipv4.ip_forward=1", netns=site.host)
    run("ip address add 192.168.2.200/24 dev eth1; ip route add 10.20.1.0/24 via 192.168.2.25", netns=site.wire)
    run("nft add table ip t; nft add chain ip t c '{ type filter hook input priority 0; }'", netns=site.wire)
    for source in ("192.168.2.25", "10.20.1.5"):
        run(f"nft add rule ip t c ip saddr {source} icmp type echo-request counter", netns=site.wire)
    run("ping -c 1 -W 3 192.168.2.26 && ping -c 1 -W 3 192.168.2.200", netns=box)
    counted = [
        expression["counter"]["packets"]
        for each in oracle.ruleset(site.wire)
        for expression in each.get("rule", {}).get("expr", ())
        if "counter" in expression
    ]
    assert counted == [1, 1]


def test_a_containers_port_is_marked_and_silenced(site: Site, door: NetlinkDoor) -> None:
    door.create(BRIDGE)
    site.add_box("one", "lxcbr0")
    door.set_port_mark(make_container("p-one"))
    assert oracle.links(site.host)["p-one"]["ifalias"] == "caas:demo:one"
    assert run("sysctl -n net.ipv6.conf.p-one.disable_ipv6", netns=site.host).strip() == "1"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("ip link add p-one type bridge", Code.NOT_OWNED),
        ("ip link add p-one type veth peer name x", Code.NOT_OWNED),
        ("ip link add p-one master lxcbr0 alias mine type veth peer name x", Code.NOT_OWNED),
    ],
)
def test_only_a_port_of_the_containers_bridge_is_marked(
    site: Site, door: NetlinkDoor, command: str, code: Code
) -> None:
    door.create(BRIDGE)
    run(command.replace(" alias mine", ""), netns=site.host)
    if "alias" in command:
        run("ip link set p-one alias mine", netns=site.host)
    before = oracle.snapshot(site.host)
    with pytest.raises(CaasError, match="p-one") as caught:
        door.set_port_mark(make_container("p-one"))
    assert caught.value.code is code
    assert oracle.snapshot(site.host) == before


def test_hundreds_of_links_are_seen_whole(site: Site, door: NetlinkDoor) -> None:
    """100 vlans are 300 links: more than one answer of the kernel holds."""
    made: list[Bridge | Vlan] = []
    for vid in range(1, 101):
        made.append(Bridge(name=f"lxcbr{vid}", mtu=1500, mark=MARK))
        made.append(Vlan(name=f"eth1.{vid}", parent="eth1", vid=vid, mtu=1500, master=f"lxcbr{vid}", mark=MARK))
    for each in made:
        door.create(each)
    writes = door.writes
    assert set(door.observe().state.links) == set(made)
    assert door.writes == writes


def test_a_bridge_costs_the_same_however_many_links_there_are(
    door: NetlinkDoor, bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def list_links(connection: object) -> None:
        raise AssertionError("it asks for every link")

    monkeypatch.setattr(links, "list_links", list_links)
    door.create(bridge)
    wider = replace(bridge, mtu=1600)
    door.change(bridge, wider)
    with pytest.raises(CaasError, match="the name is taken by a bridge of caas:demo:cluster"):
        door.create(bridge)
    monkeypatch.undo()
    assert door.observe().state.links == (wider,)


def test_several_threads_may_call_at_once(site: Site, door: NetlinkDoor) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for vid in range(number * 10 + 1, number * 10 + 6):
                link = Vlan(name=f"eth1.{vid}", parent="eth1", vid=vid, mtu=1500, master="", mark=MARK)
                door.create(link)
                assert link in door.observe().state.links
                door.delete(link)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert door.observe().state == HostState()
