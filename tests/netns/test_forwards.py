"""Forwarded ports and those that others have: real connections through a host, judged at both their ends and by nft."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from agent.core.apply import apply
from agent.kernel.door import NetlinkDoor
from agent.kernel.forwards import BROKEN
from proto.errors import CaasError, Code
from proto.marks import TUNNEL_RULE_PRIORITY, TUNNEL_TABLE, Mark
from proto.model import Address, Bridge, Forward, Gateway, HostState, Masquerade, Route, Rule, Verb
from tests.support import oracle
from tests.support.fakes import FakeContainers
from tests.support.netns import HOST_ADDRESS, WIRE_ADDRESS, Site, poll_until, run
from tests.support.tunnelled import make_tunnel
from tests.support.wire import Tap, inside

MARK = Mark("demo", "lan")
BOX = "10.20.1.5"
FORWARD = Forward(
    address=IPv4Address(HOST_ADDRESS), port=1222, to=IPv4Address(BOX), to_port=22, mark=Mark("demo", "c1")
)
STATE = HostState(
    links=(Bridge(name="lxcbr0", mtu=1480, mark=MARK),),
    addresses=(Address(link="lxcbr0", address=IPv4Interface("10.20.1.1/24")),),
    masquerades=(Masquerade(source=IPv4Network("10.20.1.0/24"), exempt=(), mark=MARK),),
    forwards=(FORWARD,),
)


@pytest.fixture
def door(site: Site) -> Iterator[NetlinkDoor]:
    run("sysctl -qw net.ipv4.conf.eth1.forwarding=1", netns=site.host)
    with NetlinkDoor(netns=site.host, ipip="bpf") as opened:
        yield opened


@pytest.fixture
def box(site: Site, door: NetlinkDoor) -> str:
    """A container's namespace behind the host's bridge, which is as STATE says."""
    put(door, STATE)
    made = site.add_box("box", "lxcbr0", address=f"{BOX}/24")
    run("ip route add default via 10.20.1.1", netns=made)
    # A bridge sends nothing until the kernel has told itself of its first port, within a second or so.
    poll_until(lambda: run(f"ping -c 1 -W 1 {BOX} >/dev/null && echo yes", netns=site.host, check=False), deadline=10)
    return made


def put(door: NetlinkDoor, state: HostState) -> list[tuple[Verb, str, str]]:
    """Apply through the core: what was done."""
    done: list[tuple[Verb, str, str]] = []
    apply(
        door,
        FakeContainers(),
        "demo",
        state,
        others=HostState(),
        on_plan=lambda plan: None,
        on_done=lambda action: done.append((action.verb, action.kind, action.name)),
    )
    return done


@contextmanager
def listening(netns: str, address: str, port: int) -> Iterator[socket.socket]:
    server = inside(netns, lambda: socket.create_server((address, port)))
    server.settimeout(3)
    with server:
        yield server


def meet(client: str, port: int, server: socket.socket, *, patience: float = 3) -> tuple[str, bytes, bytes]:
    """A connection from the namespace *client* to the host's port: who the server sees, what each hears.

    TimeoutError where there is none within *patience* seconds.
    """
    with inside(client, lambda: socket.create_connection((HOST_ADDRESS, port), timeout=patience)) as one:
        other, (source, _) = server.accept()
        with other:
            one.settimeout(3)
            other.settimeout(3)
            one.sendall(b"from the client")
            other.sendall(b"from the server")
            assert one.getpeername() == (HOST_ADDRESS, port)
            return source, other.recv(99), one.recv(99)


def is_refused(client: str, port: int) -> bool:
    try:
        inside(client, lambda: socket.create_connection((HOST_ADDRESS, port), timeout=3)).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_connection_lands_in_the_container_with_the_clients_own_source(site: Site, box: str) -> None:
    said = (b"from the client", b"from the server")
    with listening(box, BOX, 22) as server:
        assert meet(site.wire, 1222, server) == (WIRE_ADDRESS, *said)
        assert meet(site.host, 1222, server) == (HOST_ADDRESS, *said), "the host itself reaches it, too"
    assert is_refused(site.wire, 1223)
    assert is_refused(site.wire, 22), "the container's port is not the host's"


def test_it_is_the_hosts_address_alone_that_is_forwarded(site: Site, box: str) -> None:
    run("ip address add 192.168.2.99/24 dev eth1", netns=site.host)
    with listening(site.host, "192.168.2.99", 1222) as server:
        with inside(site.wire, lambda: socket.create_connection(("192.168.2.99", 1222), timeout=3)) as one:
            server.accept()[0].close()
            assert one.getpeername() == ("192.168.2.99", 1222)


def test_masquerading_goes_on_beside_it(site: Site, box: str) -> None:
    with listening(site.wire, WIRE_ADDRESS, 80) as server:
        with inside(box, lambda: socket.create_connection((WIRE_ADDRESS, 80), timeout=3)):
            accepted, (source, _) = server.accept()
            accepted.close()
    assert source == HOST_ADDRESS


def test_it_is_changed_in_place_and_gone_when_it_is_not_wanted(site: Site, door: NetlinkDoor, box: str) -> None:
    moved = replace(FORWARD, to_port=2222)
    assert put(door, replace(STATE, forwards=(moved,))) == [(Verb.CHANGE, "forward", FORWARD.name)]
    with listening(box, BOX, 2222) as server:
        assert meet(site.wire, 1222, server)[0] == WIRE_ADDRESS
    assert put(door, replace(STATE, forwards=(moved,))) == []
    assert put(door, replace(STATE, forwards=())) == [(Verb.DELETE, "forward", FORWARD.name)]
    assert is_refused(site.wire, 1222)
    assert is_refused(site.host, 1222)
    chains = {each["chain"]["name"] for each in oracle.ruleset(site.host) if "chain" in each}
    assert not chains & {"prerouting", "output", "answers"}, "chains go with their last rule"
    put(door, HostState())
    assert oracle.ruleset(site.host) == []


def test_a_restarted_agent_adopts_it_without_a_write(site: Site, door: NetlinkDoor, box: str) -> None:
    door.close()
    with NetlinkDoor(netns=site.host, ipip="bpf") as restarted:
        assert restarted.observe().state.forwards == (FORWARD,)
        assert put(restarted, STATE) == []
        assert restarted.writes == 0
        with listening(box, BOX, 22) as server:
            assert meet(site.wire, 1222, server)[0] == WIRE_ADDRESS


@pytest.mark.parametrize("chain", ["prerouting", "output", "answers"])
def test_a_rule_that_somebody_removed_is_seen_and_mended(site: Site, door: NetlinkDoor, box: str, chain: str) -> None:
    run(f"nft flush chain ip caas {chain}", netns=site.host)
    assert door.observe().state.forwards == (replace(FORWARD, to=BROKEN, to_port=1222),)
    assert put(door, STATE) == [(Verb.CHANGE, "forward", FORWARD.name)]
    with listening(box, BOX, 22) as server:
        assert meet(site.wire, 1222, server)[0] == WIRE_ADDRESS
        assert meet(site.host, 1222, server)[0] == HOST_ADDRESS


def test_what_fails_after_it_takes_it_back(site: Site, door: NetlinkDoor) -> None:
    before = oracle.snapshot(site.host)
    second = replace(FORWARD, port=1223, mark=Mark("demo", "x" * 120))
    with pytest.raises(CaasError, match="longer than 127 bytes"):
        put(door, replace(STATE, forwards=(FORWARD, second)))
    assert oracle.snapshot(site.host) == before


def test_others_rules_are_neither_seen_nor_touched(site: Site, door: NetlinkDoor) -> None:
    run(
        "nft 'add table ip nat; add chain ip nat pre { type nat hook prerouting priority -100; }; add rule ip nat pre "
        f"ip daddr {HOST_ADDRESS} tcp dport 1222 dnat to {BOX}:22'",
        netns=site.host,
    )
    before = oracle.snapshot(site.host)
    assert door.observe().state.forwards == ()
    door.delete(FORWARD)
    assert oracle.snapshot(site.host) == before


def test_ports_that_others_have_are_told(site: Site, door: NetlinkDoor, box: str) -> None:
    assert door.taken_ports() == []
    run(
        "nft 'add table inet theirs; add chain inet theirs pre { type nat hook prerouting priority -100; };"
        "add rule inet theirs pre tcp dport { 1230, 1240-1241 } dnat ip to 10.20.1.9:22;"
        "add rule inet theirs pre tcp dport 1250 redirect to :22; add rule inet theirs pre tcp dport 1260 accept;"
        "add rule inet theirs pre udp dport 1270 redirect to :22'",
        netns=site.host,
    )
    with (
        listening(site.host, "0.0.0.0", 1300),
        listening(site.host, HOST_ADDRESS, 1299),
        listening(site.host, "127.0.0.1", 1301),
        listening(site.wire, WIRE_ADDRESS, 1302),
        inside(site.host, lambda: socket.create_server(("::", 1303), family=socket.AF_INET6, dualstack_ipv6=True)),
    ):
        writes = door.writes
        assert door.taken_ports() == [1230, 1240, 1241, 1250, 1299, 1300, 1303]
        assert door.writes == writes


def test_a_kind_that_the_door_does_not_know_is_refused(door: NetlinkDoor) -> None:
    unknown = Gateway(cluster="demo", network="lan", vid=100, gateway=IPv4Interface("10.0.0.1/24"))
    for call in (door.create, door.delete, lambda thing: door.change(thing, thing)):
        with pytest.raises(CaasError, match="knows no gateway") as caught:
            call(unknown)  # type: ignore[arg-type]
        assert caught.value.code is Code.UNSUPPORTED


def test_a_host_that_is_tunnelled_to_reaches_it_by_the_way_it_came(site: Site, door: NetlinkDoor, box: str) -> None:
    """Containers' own packets to that host leave by the tunnel, answers of what is forwarded must not."""
    tunnel = make_tunnel(1)
    peer, block = IPv4Network(WIRE_ADDRESS), IPv4Network("10.20.1.0/24")
    tunnelled = replace(
        STATE,
        links=(*STATE.links, tunnel),
        routes=(Route(dst=peer, dev=tunnel.name, table=TUNNEL_TABLE),),
        rules=(Rule(priority=TUNNEL_RULE_PRIORITY, src=block, dst=peer, table=TUNNEL_TABLE),),
    )
    put(door, tunnelled)
    with Tap(site.wire, "eth1") as wire:
        with listening(box, BOX, 22) as server:
            assert meet(site.wire, 1222, server) == (WIRE_ADDRESS, b"from the client", b"from the server")
        run(f"ping -c 1 -W 0.2 {WIRE_ADDRESS}", netns=box, check=False)
        protocols = [frame.payload[9] for frame in wire.drain() if frame.ethertype == 0x0800]
    assert set(protocols) == {4, 6}, "the container's own leave by the tunnel"
    assert door.lacks(tunnelled) == []
    run("sysctl -qw net.ipv4.conf.eth1.rp_filter=1", netns=site.host)
    with pytest.raises(TimeoutError), listening(box, BOX, 22) as server:
        meet(site.wire, 1222, server, patience=1)
    (strict,) = door.lacks(tunnelled)
    assert strict.mend == "sysctl -w net.ipv4.conf.eth1.rp_filter=2"
    assert door.lacks(STATE) == [], "without tunnels to hosts it is as good"
    run(strict.mend, netns=site.host)
    with listening(box, BOX, 22) as server:
        assert meet(site.wire, 1222, server)[0] == WIRE_ADDRESS
    run("ip rule del pref 3231", netns=site.host)
    assert door.observe().state.forwards == (replace(FORWARD, to=BROKEN, to_port=1222),)
    with pytest.raises(TimeoutError), listening(box, BOX, 22) as server:
        meet(site.wire, 1222, server, patience=1)
    assert put(door, tunnelled) == [(Verb.CHANGE, "forward", FORWARD.name)]
    with listening(box, BOX, 22) as server:
        assert meet(site.wire, 1222, server)[0] == WIRE_ADDRESS
