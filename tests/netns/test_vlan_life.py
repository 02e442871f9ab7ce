"""A vlan from its creation to its removal: what is refused, what is left, what a restart finds, what is mended."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256

import pytest

from agent.kernel import links, trunks, vlan_bpf, vlan_kernel
from agent.kernel.door import NetlinkDoor
from proto.errors import CaasError, Code
from proto.marks import Mark
from proto.model import Address, Bridge, HostState, Vlan
from tests.support import oracle
from tests.support.netns import BOX_MAC, WIRE_MAC, Site, poll_until, run
from tests.support.wire import Tap, inside

BROKEN_WORD = "(broken)"


def frame(text: bytes) -> bytes:
    """An untagged broadcast of a box's."""
    return b"\xff" * 6 + bytes.fromhex(BOX_MAC.replace(":", "")) + b"\x08\x06" + text.ljust(46, b"\0")


def tagged(vid: int, text: bytes) -> bytes:
    source = bytes.fromhex(WIRE_MAC.replace(":", ""))
    return b"\xff" * 6 + source + b"\x81\x00" + vid.to_bytes(2, "big") + b"\x08\x06" + text.ljust(46, b"\0")


def is_cut(site: Site, box: str, vid: int) -> bool:
    """Whether frames do not cross, tried three times."""
    return not carries(site, box, vid, tries=3)


def carries(site: Site, box: str, vid: int, *, tries: int = 50) -> bool:
    """Whether a frame of the box's is seen tagged on the wire and one from the wire untagged in the box."""
    with Tap(box, "eth0") as inner, Tap(site.wire, "eth1") as outer:
        for _ in range(tries):
            inner.send(frame(b"out"))
            outer.send(tagged(vid, b"in"))
            sent = outer.collect(lambda seen: b"out" in seen.data, timeout=0.1)
            got = inner.collect(lambda seen: b"in" in seen.data, timeout=0.1)
            if sent and got:
                return sent[0].tags == ((0x8100, vid),) and got[0].tags == ()
    return False


#: Where the ipip module is loaded it makes this device in every namespace (ip-link(8)).
FALLBACK = {"tunl0"}


def test_it_is_there_as_wanted(site: Site, door: NetlinkDoor, realisation: str, bridge: Bridge, vlan: Vlan) -> None:
    door.create(bridge)
    door.create(vlan)
    seen = oracle.links(site.host)
    link = seen["eth1.100"]
    assert (link["mtu"], link["master"], link["ifalias"]) == (1500, "lxcbr100", "caas:demo:cluster")
    assert {"UP", "LOWER_UP"} <= set(link["flags"])
    assert link["address"] == seen["eth1"]["address"]
    if realisation == "kernel":
        assert (link["linkinfo"]["info_kind"], link["linkinfo"]["info_data"]["id"]) == ("vlan", 100)
    assert door.datapath().vlan == realisation
    observed = door.observe()
    assert observed.state == HostState(links=(bridge, vlan))
    assert set(observed.foreign) - FALLBACK == {"lo", "eth1"}
    assert observed.foreign["eth1"].up
    for name, found in seen.items():
        if name not in {"lo", "eth1"} | FALLBACK:
            assert oracle.addresses(site.host, name) == [], "the host has an address in the segment"
            assert found["ifalias"].startswith("caas:")


def test_removal_leaves_nothing(site: Site, door: NetlinkDoor, bridge: Bridge, vlan: Vlan) -> None:
    before = oracle.snapshot(site.host)
    door.create(bridge)
    door.create(vlan)
    assert oracle.snapshot(site.host) != before
    for _ in range(2):
        door.delete(vlan)
        door.delete(bridge)
    assert oracle.snapshot(site.host) == before


def test_looking_writes_nothing(door: NetlinkDoor, bridge: Bridge, vlan: Vlan) -> None:
    door.create(bridge)
    before = door.writes
    door.create(vlan)
    assert door.writes > before
    before = door.writes
    door.observe(), door.datapath(), door.lacks(None)
    assert door.writes == before


def test_creating_twice_is_a_conflict_and_changes_nothing(
    site: Site, door: NetlinkDoor, bridge: Bridge, vlan: Vlan
) -> None:
    door.create(bridge)
    door.create(vlan)
    before = oracle.snapshot(site.host)
    for thing in (bridge, vlan):
        with pytest.raises(CaasError, match=rf"create {thing.kind} {thing.name}: the name is taken") as caught:
            door.create(thing)
        assert caught.value.code is Code.CONFLICT
    assert oracle.snapshot(site.host) == before


@dataclass(frozen=True)
class Refused:
    """What is in the way (made and taken away by commands), what is wanted, and what has to be said."""

    make: Callable[[Vlan], Vlan]
    code: Code
    words: str
    before: str = ""
    after: str = ""


REFUSALS = {
    "foreign name": Refused(
        lambda v: replace(v, name="theirs"),
        Code.NOT_OWNED,
        "a bridge that is not ours",
        "ip link add theirs type bridge",
        "ip link del theirs",
    ),
    "missing parent": Refused(lambda v: replace(v, parent="eth9"), Code.NOT_FOUND, "its parent eth9 does not exist"),
    "parent down": Refused(
        lambda v: v, Code.FAILED, "its parent eth1 is down", "ip link set eth1 down", "ip link set eth1 up"
    ),
    "loopback": Refused(lambda v: replace(v, parent="lo"), Code.UNSUPPORTED, "lo is no Ethernet link"),
    "mtu": Refused(lambda v: replace(v, mtu=1501), Code.INVALID, "MTU 1501 is above 1500, that of its parent eth1"),
    "vid taken": Refused(lambda v: replace(v, vid=7, name="other"), Code.CONFLICT, "VID 7 on eth1 is taken by eth1.7"),
    "missing bridge": Refused(lambda v: replace(v, master="br9"), Code.NOT_FOUND, "its bridge br9 does not exist"),
    "foreign bridge": Refused(
        lambda v: replace(v, master="br9"),
        Code.NOT_OWNED,
        "br9 is not a bridge of ours",
        "ip link add br9 type bridge",
        "ip link del br9",
    ),
}


def test_what_is_refused_is_named_and_leaves_nothing(site: Site, door: NetlinkDoor, bridge: Bridge, vlan: Vlan) -> None:
    door.create(bridge)
    door.create(replace(vlan, name="eth1.7", vid=7))
    clean = oracle.snapshot(site.host)
    # Those that need nothing put in the way come first and are judged together: a look at everything takes its time.
    for name, refused in sorted(REFUSALS.items(), key=lambda item: item[1].before):
        if refused.before:
            assert oracle.snapshot(site.host) == clean
            run(refused.before, netns=site.host)
            obstructed = oracle.snapshot(site.host)
        with pytest.raises(CaasError) as caught:
            door.create(refused.make(vlan))
        assert caught.value.code is refused.code, name
        assert refused.words in caught.value.message
        if refused.before:
            assert oracle.snapshot(site.host) == obstructed, name
            run(refused.after, netns=site.host)
            clean = oracle.snapshot(site.host)
    door.create(vlan)


FAILING = {
    "kernel": ("make_quiet", "perform 1", "perform 2"),
    "bpf": ("make_quiet", "perform 1", "perform 2", "perform 3", "attach_far_end", "attach_trunk"),
}


def test_a_creation_that_fails_half_way_leaves_nothing(
    site: Site, door: NetlinkDoor, realisation: str, bridge: Bridge, vlan: Vlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for each step that can fail: the failure is reached, the host is as found, the next attempt succeeds."""
    module = vlan_kernel if realisation == "kernel" else vlan_bpf
    door.create(bridge)
    door.datapath()
    before = oracle.snapshot(site.host)
    for name in FAILING[realisation]:
        call, _, number = name.partition(" ")
        place: object = {"make_quiet": module, "perform": links}.get(call, trunks)
        with monkeypatch.context() as patch:
            failing = Failing(getattr(place, call), int(number or 1))
            patch.setattr(place, call, failing)
            with pytest.raises(CaasError, match="simulated"):
                door.create(vlan)
        assert failing.calls >= failing.fails_at, f"{name}: the failure was never reached"
        assert oracle.snapshot(site.host) == before, name
    door.create(vlan)
    assert carries(site, site.add_box("box", bridge.name), 100)


class Failing:
    """A function that does its work and then fails, once: the hardest failure to take back."""

    def __init__(self, real: Callable[..., object], fails_at: int) -> None:
        self.real, self.fails_at, self.calls = real, fails_at, 0

    def __call__(self, *arguments: object, **options: object) -> object:
        self.calls += 1
        result = self.real(*arguments, **options)
        if self.calls == self.fails_at:
            raise CaasError(Code.FAILED, "simulated")
        return result


def test_a_restarted_process_finds_and_continues(
    site: Site, door: NetlinkDoor, realisation: str, bridge: Bridge, vlan: Vlan
) -> None:
    door.create(bridge)
    door.create(vlan)
    box = site.add_box("box", bridge.name)
    found = door.observe().state
    door.close()
    assert carries(site, box, 100), "it stopped with the process"
    with NetlinkDoor(netns=site.host, vlan=realisation) as second:  # type: ignore[arg-type]
        assert second.observe().state == found
        assert second.writes == 0
        others = (replace(bridge, name="lxcbr101"), replace(vlan, name="eth1.101", vid=101, master="lxcbr101"))
        for thing in others:
            second.create(thing)
        assert carries(site, box, 100)
        assert carries(site, site.add_box("two", "lxcbr101"), 101)
        second.delete(vlan)
        assert is_cut(site, box, 100)
        assert set(second.observe().state.links) == {bridge, *others}
    # Deleted by hand while no process ran: what is left of it goes with the next deletion.
    run("ip link del eth1.101", netns=site.host)
    with NetlinkDoor(netns=site.host, vlan=realisation) as third:  # type: ignore[arg-type]
        assert set(third.observe().state.links) == {bridge, others[0]}
        third.delete(others[1])
    assert "bpf" not in oracle.filters(site.host, "eth1")
    assert "PROMISC" not in oracle.links(site.host)["eth1"]["flags"]


def test_changes_in_place(site: Site, door: NetlinkDoor, bridge: Bridge, vlan: Vlan) -> None:
    other = replace(bridge, name="lxcbr7")
    for thing in (bridge, other, vlan):
        door.create(thing)
    box = site.add_box("box", other.name)
    index = oracle.links(site.host)["eth1.100"]["ifindex"]
    after = replace(vlan, mtu=1400, master=other.name, mark=Mark("demo", "moved"))
    door.change(vlan, after)
    link = oracle.links(site.host)["eth1.100"]
    assert (link["mtu"], link["master"], link["ifalias"]) == (1400, "lxcbr7", "caas:demo:moved")
    assert link["ifindex"] == index
    assert after in door.observe().state.links
    assert carries(site, box, 100)
    door.change(after, replace(after, master=""))
    assert "master" not in oracle.links(site.host)["eth1.100"]
    assert is_cut(site, box, 100)


def test_another_vid_and_another_parent(site: Site, door: NetlinkDoor, bridge: Bridge, vlan: Vlan) -> None:
    run(f"ip link add eth2 netns {site.host} type veth peer name eth2 netns {site.wire}")
    for netns in (site.host, site.wire):
        run("sysctl -qw net.ipv6.conf.eth2.disable_ipv6=1; ip link set eth2 up", netns=netns)
    before = oracle.filters(site.host, "eth1")
    door.create(bridge)
    door.create(vlan)
    box = site.add_box("box", bridge.name)
    after = replace(vlan, vid=200)
    door.change(vlan, after)
    assert after in door.observe().state.links
    assert carries(site, box, 200)
    moved = replace(after, parent="eth2")
    door.change(after, moved)
    assert moved in door.observe().state.links
    with Tap(box, "eth0") as inner, Tap(site.wire, "eth2") as outer:
        inner.send(frame(b"moved"))
        assert [seen.tags for seen in outer.collect(lambda seen: b"moved" in seen.data)] == [((0x8100, 200),)]
    assert oracle.filters(site.host, "eth1") == before


def test_what_is_not_ours_is_neither_changed_nor_deleted(
    site: Site, door: NetlinkDoor, bridge: Bridge, vlan: Vlan
) -> None:
    run("ip link add lxcbr100 type bridge; ip link add eth1.100 type veth peer name peer", netns=site.host)
    before = oracle.snapshot(site.host)
    for thing in (bridge, vlan):
        with pytest.raises(CaasError) as caught:
            door.delete(thing)
        assert caught.value.code is Code.NOT_OWNED
        with pytest.raises(CaasError) as caught:
            door.change(thing, replace(thing, mtu=1400))
        assert caught.value.code is Code.NOT_OWNED
    assert oracle.snapshot(site.host) == before


def test_the_trunk_is_deleted(site: Site, door: NetlinkDoor, bridge: Bridge, vlan: Vlan) -> None:
    door.create(bridge)
    door.create(vlan)
    run("ip link del eth1", netns=site.host)
    assert vlan not in door.observe().state.links
    door.delete(vlan)
    assert door.observe().state.links == (bridge,)
    assert set(oracle.links(site.host)) - FALLBACK == {"lo", "lxcbr100"}


DAMAGES = {
    "near end down": "ip link set eth1.100 down",
    "far end down": "ip link set vl-8a276177efcf down",
    "trunk's filter": "tc filter del dev eth1 ingress prio 202",
    "trunk's qdisc": "tc qdisc del dev eth1 clsact",
    "far end's filter": "tc qdisc del dev vl-8a276177efcf clsact",
}


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("restarted", [False, True])
def test_damage_is_seen_and_mended(site: Site, bridge: Bridge, vlan: Vlan, name: str, restarted: bool) -> None:
    door = NetlinkDoor(netns=site.host, vlan="bpf")
    try:
        door.create(bridge)
        door.create(vlan)
        box = site.add_box("box", bridge.name)
        run(DAMAGES[name], netns=site.host)
        assert is_cut(site, box, 100)
        if restarted:
            door.close()
            door = NetlinkDoor(netns=site.host, vlan="bpf")
        (seen,) = [link for link in door.observe().state.links if link.name == vlan.name]
        assert seen == replace(vlan, parent=BROKEN_WORD)
        door.change(seen, vlan)
        assert vlan in door.observe().state.links
        assert carries(site, box, 100)
        door.delete(vlan)
        assert "bpf" not in oracle.filters(site.host, "eth1")
    finally:
        door.close()


@pytest.mark.kinds("vlan")
def test_one_vlan_of_each_realisation_side_by_side(site: Site, bridge: Bridge, vlan: Vlan) -> None:
    twin = replace(vlan, name="eth1.101", vid=101, master="")
    with NetlinkDoor(netns=site.host, vlan="bpf") as ours, NetlinkDoor(netns=site.host, vlan="kernel") as theirs:
        ours.create(bridge)
        ours.create(vlan)
        theirs.create(twin)
        for door in (ours, theirs):
            assert set(door.observe().state.links) == {bridge, vlan, twin}
            with pytest.raises(CaasError, match=r"VID 10[01] on eth1 is taken by eth1.10[01]"):
                door.create(replace(vlan if door is theirs else twin, name="third"))
        assert carries(site, site.add_box("box", bridge.name), 100)
        theirs.delete(vlan)
        ours.delete(twin)
        assert theirs.observe().state.links == (bridge,)


def test_two_processes_share_one_trunk(site: Site, bridge: Bridge, vlan: Vlan) -> None:
    """Neither's first vlan cuts off the other's: whoever comes second adopts what the first has attached."""
    twin = replace(vlan, name="eth1.101", vid=101, master="")
    with NetlinkDoor(netns=site.host, vlan="bpf") as one, NetlinkDoor(netns=site.host, vlan="bpf") as two:
        one.create(bridge)
        one.create(vlan)
        two.create(twin)
        assert set(one.observe().state.links) == set(two.observe().state.links) == {bridge, vlan, twin}
        assert carries(site, site.add_box("box", bridge.name), 100)


@pytest.mark.parametrize("megabytes", [16])
def test_tcp_crosses_whole_and_in_large_segments(
    site: Site, door: NetlinkDoor, bridge: Bridge, vlan: Vlan, megabytes: int
) -> None:
    """Two boxes on two hosts. Checksums and segmentation stay offloaded: frames above the MTU are seen on the wire."""
    far_host = site.namespaces.add("far", ipv6=True)
    run(f"ip link set eth1 netns {far_host}", netns=site.wire)
    run("sysctl -qw net.ipv6.conf.eth1.disable_ipv6=1; ip link set eth1 up", netns=far_host)
    near_box = None
    with NetlinkDoor(netns=far_host, vlan=door.datapath().vlan) as far_door:  # type: ignore[arg-type]
        for each in (door, far_door):
            each.create(bridge)
            each.create(vlan)
        near_box = site.add_box("near", bridge.name, address="10.9.0.1/24")
        site.host, home = far_host, site.host
        far_box = site.add_box("away", bridge.name, mac="02:00:00:00:00:cc", address="10.9.0.2/24")
        site.host = home
        poll_until(lambda: "1 received" in run("ping -c1 -W1 10.9.0.2", netns=near_box, check=False), deadline=10)
        listener = inside(far_box, lambda: socket.create_server(("10.9.0.2", 7000)))
        data = bytes(range(256)) * 4096 * megabytes
        sums: list[str] = []
        receiver = threading.Thread(target=lambda: sums.append(_receive(listener)))
        receiver.start()
        with Tap(far_host, "eth1") as tap:
            client = inside(near_box, lambda: socket.create_connection(("10.9.0.2", 7000), timeout=60))
            with client:
                client.sendall(data)
            receiver.join(timeout=60)
            seen = tap.drain()
    listener.close()
    assert sums == [sha256(data).hexdigest()]
    tcp = [each for each in seen if each.data[23:24] == b"\x06"]
    assert {each.tags for each in tcp} == {((0x8100, 100),)}
    assert max(len(each.data) for each in tcp) > 1514


def _receive(listener: socket.socket) -> str:
    taken, _ = listener.accept()
    digest = sha256()
    with taken:
        while some := taken.recv(1 << 18):
            digest.update(some)
    return digest.hexdigest()


def test_an_address_may_stand_on_a_vlan_without_a_bridge(site: Site, door: NetlinkDoor, vlan: Vlan) -> None:
    door.create(replace(vlan, master=""))
    door.create(Address(link=vlan.name, address=ipaddress.IPv4Interface("10.9.0.1/24")))
    with Tap(site.wire, "eth1") as wire:
        mac = bytes.fromhex(WIRE_MAC.replace(":", ""))
        question = b"\0\1\x08\0\6\4\0\1" + mac + bytes((10, 9, 0, 2)) + b"\0" * 6 + bytes((10, 9, 0, 1))
        wire.send(b"\xff" * 6 + mac + b"\x81\x00\x00\x64\x08\x06" + question.ljust(46, b"\0"))
        (answer,) = wire.collect(lambda seen: seen.ethertype == 0x0806, timeout=3)
    assert answer.tags == ((0x8100, 100),)
    assert answer.payload[14:18] == bytes((10, 9, 0, 1))
