"""NATBox over time: restarts, upgrades, other VLANs that come and go. Nobody's packet is lost but a removed VLAN's."""

from __future__ import annotations

import errno
import ipaddress
import re
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.kernel import filters, natbox_programs
from agent.kernel.filters import Direction
from agent.kernel.natbox_chains import Listen, make_shares
from agent.kernel.natbox_door import NatboxDoor
from agent.kernel.netlink import Netlink
from natbox.gatekeeper import Gatekeeper
from natbox.leftovers import Leftovers
from natbox.saved import PreviousValues, SavedTables
from proto.errors import CaasError, Code
from proto.model import Gateway, GatewayTable, Limits, Publication
from tests.support.crossing import MANAGEMENT, OUTSIDE, UPLINK, Crossing, mac_of, run
from tests.support.flows import Sender, echo, transfer
from tests.support.gateway import Previous, Station, make_gateway, make_table
from tests.support.natbox_daemon import Daemon, daemon
from tests.support.oracle import snapshot

GATEWAY = "192.168.10.1"


@pytest.fixture
def around() -> Iterator[Crossing]:
    made = Crossing()
    yield made
    made.close()


def add_tenant(around: Crossing, build: Path, vid: int) -> tuple[str, Station]:
    """A namespace with a stack of its own in VLAN *vid*, 192.168.10.50 in each of them."""
    netns = around.add_tenant(vid, "192.168.10.50/24", GATEWAY, build=build)
    return netns, Station(vid=vid, mac=mac_of(netns, "eth1"))


def open_door(around: Crossing) -> NatboxDoor:
    return NatboxDoor(trunk="eth1", uplink="eth2", memory=Previous(), netns=around.natbox)


def natbox_share() -> int:
    """How many connections a VLAN may have that has no limit of its own."""
    return make_shares(int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text())).connections


def connections(door: NatboxDoor) -> list[int]:
    """How many VLANs 100 and 200 have now."""
    return [each.connections for each in door.counters([100, 200])]


def result_of(events: list[dict[str, dict[str, str]]]) -> dict[str, str]:
    assert "result" in events[-1], events
    return events[-1]["result"]


def test_no_packet_is_lost_to_kill_restart_and_other_vlans(around: Crossing, tmp_path: Path) -> None:
    netns, station = add_tenant(around, tmp_path, 100)
    table = make_table(make_gateway(station))
    with daemon(around, tmp_path) as natbox, echo(around.outside, 7):
        result_of(natbox.apply(table))
        assert run("ping", "-c1", "-W5", OUTSIDE, netns=netns).returncode == 0
        with Sender(netns, (OUTSIDE, 7)) as sender:
            natbox.kill(signal.SIGKILL)
            time.sleep(0.5)  # nobody is there but the kernel
            natbox.start()
            assert "1 clusters in force, 0 kernel writes" in natbox.log(), "adopted, and nothing written"
            assert int(result_of(natbox.apply(table)).get("kernelWrites", 0)) == 0
            other = make_table(make_gateway(Station(vid=200, mac="02:00:00:00:00:01")))
            assert int(result_of(natbox.apply(other))["kernelWrites"]) > 0
            result_of(natbox.call("Destroy", cluster="c200"))
            assert natbox.kill(signal.SIGTERM) == 0
            time.sleep(0.2)
            assert sender.finish() == 0, f"of {sender.sent}"
            assert sender.sent > 500


def test_the_service_refuses_and_tells(around: Crossing, tmp_path: Path) -> None:
    station = Station(vid=100, mac="02:00:00:00:00:01")
    with daemon(around, tmp_path) as natbox:
        (probe,) = natbox.call("Probe")
        assert (probe["trunk"], probe["uplinkAddresses"], probe.get("lacks", [])) == ("eth1", ["203.0.113.1/24"], [])
        planned = natbox.apply(make_table(make_gateway(station)), dry_run=True)
        assert [(each["verb"], each["kind"]) for each in planned[0]["planned"]["actions"]] == [
            ("create", "datapath"),
            ("create", "gateway"),
        ]
        assert natbox.call("Observe") == [{}], "a dry run changes nothing"
        result_of(natbox.apply(make_table(make_gateway(station), generation=5)))
        (observed,) = natbox.call("Observe")
        assert observed["tables"][0]["gateways"][0]["neighbours"] == [
            {"address": "192.168.10.50", "mac": "02:00:00:00:00:01"}
        ]
        assert natbox.apply(make_table(make_gateway(station), generation=4))[0]["error"] == "stale"
        (conflict,) = natbox.apply(make_table(make_gateway(station, cluster="thief")))
        assert conflict["error"] == "conflict"
        assert "VID 100 belongs to c100/cluster" in conflict["message"]
        assert natbox.call("Counters")[0]["counters"] == [
            {"vid": 100, "cluster": "c100", "network": "cluster", "connectionsMax": str(natbox_share())}
        ]
        assert natbox.call("Destroy", cluster="nobody")[-1] == {"result": {"generation": "1"}}


def test_a_new_door_adopts_and_writes_nothing(around: Crossing, tmp_path: Path) -> None:
    _, station = add_tenant(around, tmp_path, 100)
    first = open_door(around)
    first.lay_path()
    first.create(make_gateway(station))
    before = snapshot(around.natbox)
    second = open_door(around)
    assert second.observe_path().missing == ()
    assert second.observe_all() == first.observe_all()
    assert [each.gateway for each in second.observe_all().values()] == [make_gateway(station)]
    assert second.writes == 0
    assert snapshot(around.natbox) == before


def test_another_build_of_the_programs_takes_over_without_a_loss(
    around: Crossing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netns, station = add_tenant(around, tmp_path, 100)
    old = open_door(around)
    old.lay_path()
    old.create(make_gateway(station))
    ids = run("tc", "filter", "show", "dev", "eth1", "ingress", netns=around.natbox).stdout
    copy = tmp_path / "newer.bpf.o"
    copy.write_bytes(natbox_programs.OBJECT.read_bytes() + b"\0")
    with echo(around.outside, 7), Sender(netns, (OUTSIDE, 7)) as sender:
        time.sleep(0.2)
        monkeypatch.setattr(natbox_programs, "OBJECT", copy)
        new = open_door(around)
        assert new.observe_path().missing == ("programs on the trunk",)
        new.lay_path()
        assert new.observe_path().missing == ()
        time.sleep(0.2)
        assert sender.finish() == 0
    assert run("tc", "filter", "show", "dev", "eth1", "ingress", netns=around.natbox).stdout != ids
    assert new.counters([100])[0].out_packets >= sender.sent, "the counters were kept"
    assert [each.gateway for each in new.observe_all().values()] == [make_gateway(station)]


def test_a_removed_vlan_loses_its_connections_and_nobody_else_does(around: Crossing, tmp_path: Path) -> None:
    first, second = add_tenant(around, tmp_path, 100), add_tenant(around, tmp_path, 200)
    door = open_door(around)
    door.lay_path()
    for _, station in (first, second):
        door.create(make_gateway(station))
    with (
        echo(around.outside, 7) as peers,
        Sender(first[0], (OUTSIDE, 7)) as gone,
        Sender(second[0], (OUTSIDE, 7)) as stays,
    ):
        time.sleep(0.3)
        assert connections(door) == [1, 1]
        door.delete(make_gateway(first[1]))
        heard = len(gone.heard)
        assert connections(door) == [0, 1]
        time.sleep(0.3)
        assert len(gone.heard) <= heard + 1, "what was on its way may still arrive"
        assert gone.sent > heard + 50
        gone.finish(patience=0)
        assert stays.finish() == 0
        assert len(peers) == 2, "a connection that began again would have another port"
    assert set(door.observe_all()) == {200}


def test_a_neighbour_that_changes_does_not_disturb_another(around: Crossing, tmp_path: Path) -> None:
    netns, station = add_tenant(around, tmp_path, 100)
    door = open_door(around)
    door.lay_path()
    one = make_gateway(station)
    two = make_gateway(station, Station(vid=100, mac="02:00:00:00:00:02", address="192.168.10.51"))
    door.create(one)
    with echo(around.outside, 7), Sender(netns, (OUTSIDE, 7)) as sender:
        for _ in range(20):
            door.change(one, two)
            door.change(two, one)
        time.sleep(0.2)
        assert sender.finish() == 0
    assert door.observe([two]).vlans[100].gateway == one


def test_bulk_tcp_in_both_directions(around: Crossing, tmp_path: Path) -> None:
    netns, station = add_tenant(around, tmp_path, 100)
    door = open_door(around)
    door.lay_path()
    door.create(make_gateway(station))
    size = 64 << 20
    for sender, receiver in ((netns, around.outside), (around.outside, netns)):
        transfer(sender, receiver, OUTSIDE, listener=around.outside, size=size)
    (counters,) = door.counters([100])
    assert min(counters.out_bytes, counters.in_bytes) > size
    assert counters.drops == ()


def test_what_somebody_flushed_is_mended(around: Crossing, tmp_path: Path) -> None:
    netns, station = add_tenant(around, tmp_path, 100)
    gatekeeper = Gatekeeper(open_door(around), SavedTables(tmp_path / "desired"))
    gatekeeper.apply(make_table(make_gateway(station)), on_plan=lambda _: None, on_done=lambda _: None)
    for damage in (
        ["nft", "flush", "ruleset"],
        ["tc", "qdisc", "del", "dev", "eth1", "clsact"],
        ["ip", "route", "del", "240.0.0.0/4"],
        ["sh", "-c", "ip link set eth1 down; ip link set eth1 up"],
    ):
        run(*damage, netns=around.natbox)
        assert run("ping", "-c1", "-W0.3", OUTSIDE, netns=netns, check=False).returncode == 1, damage
        gatekeeper.mend()
        assert run("ping", "-c1", "-W5", OUTSIDE, netns=netns, check=False).returncode == 0, damage
    writes = gatekeeper.door.writes
    gatekeeper.mend()
    assert gatekeeper.door.writes == writes


def test_the_last_table_gone_leaves_nothing(around: Crossing, tmp_path: Path) -> None:
    settings = "net.ipv4.conf"
    before = snapshot(around.natbox), run("sysctl", "-a", "--pattern", settings, netns=around.natbox).stdout
    memory = PreviousValues(tmp_path / "previous.json")
    door = NatboxDoor(trunk="eth1", uplink="eth2", memory=memory, netns=around.natbox)
    gatekeeper = Gatekeeper(door, SavedTables(tmp_path / "desired"))
    tables = [make_table(make_gateway(Station(vid=vid, mac="02:00:00:00:00:01"))) for vid in (100, 200)]
    for table in tables:
        gatekeeper.apply(table, on_plan=lambda _: None, on_done=lambda _: None)
    assert snapshot(around.natbox) != before[0]
    assert (tmp_path / "previous.json").exists()
    looks = Leftovers(tmp_path, netns=around.natbox)
    told = looks.find("demo", is_last=True)
    assert {one.split()[0] for one in told} == {"settings", "nft", "tc"}, told
    for table in tables:
        gatekeeper.destroy(table.cluster, dry_run=False, on_plan=lambda _: None, on_done=lambda _: None)
    assert (snapshot(around.natbox), run("sysctl", "-a", "--pattern", settings, netns=around.natbox).stdout) == before
    assert run("tc", "qdisc", "show", "dev", "eth1", netns=around.natbox).stdout.count("clsact") == 0
    # The generations of both removals: what was sent before them and comes late is refused.
    assert [path.name for path in (tmp_path / "desired").iterdir()] == ["removed"]
    assert not (tmp_path / "previous.json").exists()
    assert looks.find("demo", is_last=True) == ()


def test_settings_that_were_so_before_are_no_part_of_the_path(around: Crossing, tmp_path: Path) -> None:
    """Most gateways forward: net.ipv4.ip_forward is 1 before NATBox comes, and stays so."""
    run("sysctl", "-w", "net.ipv4.ip_forward=1", netns=around.natbox)
    gatekeeper = Gatekeeper(open_door(around), SavedTables(tmp_path / "desired"))
    table = make_table(make_gateway(Station(vid=100, mac="02:00:00:00:00:01")))
    assert gatekeeper.door.observe_path().there == ()
    gatekeeper.apply(table, on_plan=lambda _: None, on_done=lambda _: None)
    gatekeeper.destroy(table.cluster, dry_run=False, on_plan=lambda _: None, on_done=lambda _: None)
    assert gatekeeper.door.observe_path().there == ()
    for link in ("eth1", "eth2"):
        assert run("sysctl", "-n", f"net.ipv4.conf.{link}.forwarding", netns=around.natbox).stdout == "1\n"


def test_a_removal_that_lost_its_power_ends_after_the_boot(around: Crossing, tmp_path: Path) -> None:
    """Only what NATBox has on its disk is left of the path, and goes as well."""
    saved = SavedTables(tmp_path / "desired")
    saved.save(GatewayTable(cluster="demo", generation=2))
    memory = PreviousValues(tmp_path / "previous.json")
    for name, value in (("ipv4/conf/eth1/forwarding", "0"), ("promiscuous eth1", "off"), ("clsact eth1", "made")):
        memory.put(name, value)
    before = snapshot(around.natbox)
    door = NatboxDoor(trunk="eth1", uplink="eth2", memory=memory, netns=around.natbox)
    gatekeeper = Gatekeeper(door, saved, Leftovers(tmp_path, netns=around.natbox))
    gatekeeper.restore()
    assert not (tmp_path / "previous.json").exists()
    assert snapshot(around.natbox) == before
    assert gatekeeper.destroy("demo", dry_run=False, on_plan=lambda _: None, on_done=lambda _: None).left == ()


def test_the_last_of_4094_costs_what_the_first_did(around: Crossing) -> None:
    door = open_door(around)
    door.lay_path()
    cost = []
    for vid in range(1, 4095):
        before = door.writes
        door.create(make_gateway(Station(vid=vid, mac="02:00:00:00:00:01")))
        cost.append(door.writes - before)
    assert set(cost[1:]) == {cost[1]}, "each takes as many changing calls as the second; seconds are in `make bench`"
    assert len(door.observe_all()) == 4094
    rules = run("nft", "-s", "list", "table", "ip", "caas_natbox", netns=around.natbox).stdout
    assert rules.count("comment") < 60
    assert len(run("ip", "rule", netns=around.natbox).stdout.splitlines()) == 3


def test_a_foreign_filter_in_our_place_is_not_touched(around: Crossing, tmp_path: Path) -> None:
    around.add_tenant(100, "192.168.10.50/24", GATEWAY, build=tmp_path)  # compiles tag100.o
    run("tc", "qdisc", "add", "dev", "eth1", "clsact", netns=around.natbox)
    place = ["tc", "filter", "add", "dev", "eth1", "ingress", "prio", "202", "handle", "1", "bpf", "da"]
    run(*place, "obj", str(tmp_path / "tag100.o"), "sec", "tc/pop", netns=around.natbox)
    before = snapshot(around.natbox)
    with pytest.raises(CaasError) as caught:
        open_door(around).lay_path()
    assert caught.value.code is Code.NOT_OWNED
    assert snapshot(around.natbox) == before


def test_a_failure_half_way_is_undone(around: Crossing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(around.natbox)
    memory = Previous()
    door = NatboxDoor(trunk="eth1", uplink="eth2", memory=memory, netns=around.natbox)
    with monkeypatch.context() as broken:
        broken.setattr(natbox_programs, "OBJECT", tmp_path / "nothing.bpf.o")
        with pytest.raises(CaasError, match="not compiled"):
            door.lay_path()
    assert door.writes > 5, "the programs come last: the rest had been made"
    assert snapshot(around.natbox) == before
    assert memory == {}
    door.lay_path()
    assert door.observe_path().missing == ()


def test_a_program_whose_twin_could_not_be_attached_is_taken_back(
    around: Crossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(around.natbox)
    memory = Previous()
    door = NatboxDoor(trunk="eth1", uplink="eth2", memory=memory, netns=around.natbox)
    tried = []

    def attach(connection: Netlink, ifindex: int, direction: Direction, *program: Any, **place: Any) -> None:
        tried.append(direction)
        if direction is Direction.INGRESS:
            raise CaasError(Code.FAILED, "simulated: attach")
        filters.attach(connection, ifindex, direction, *program, **place)

    with monkeypatch.context() as broken:
        broken.setattr(natbox_programs, "attach", attach)
        with pytest.raises(CaasError, match="simulated"):
            door.lay_path()
    assert tried == [Direction.EGRESS, Direction.INGRESS]
    assert snapshot(around.natbox) == before
    assert memory == {}
    door.lay_path()
    assert door.observe_path().missing == ()


def test_a_look_asks_the_kernel_for_each_thing_once(around: Crossing, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every question more the time to add a VLAN grows, twice: it is looked before and after."""
    door = open_door(around)
    door.lay_path()
    gateway = make_gateway(Station(vid=100, mac="02:00:00:00:00:01"))
    door.create(gateway)
    asked = {"ask": 0, "dump": 0}

    def count(name: str) -> None:
        really = getattr(Netlink, name)

        def counted(*words: Any) -> Any:
            asked[name] += 1
            return really(*words)

        monkeypatch.setattr(Netlink, name, counted)

    count("ask")
    count("dump")
    seen = door.observe([gateway])
    assert (seen.path.missing, seen.vlans[100].intact) == ((), True)
    # Trunk, uplink, next hop; addresses, route, the filters of both directions.
    assert asked == {"ask": 3, "dump": 4}


def test_a_link_that_is_gone_is_told_and_vlans_are_seen_where_their_programs_are(around: Crossing) -> None:
    door = open_door(around)
    door.lay_path()
    gateway = make_gateway(Station(vid=100, mac="02:00:00:00:00:01"))
    door.create(gateway)
    run("ip", "link", "del", "eth2", netns=around.natbox)
    seen = door.observe([gateway])
    assert (seen.path.there, seen.path.missing, set(seen.vlans)) == ((), ("eth1 or eth2",), {100})
    run("ip", "link", "del", "eth1", netns=around.natbox)
    seen = door.observe([gateway])
    assert (seen.path.missing, seen.vlans) == (("eth1 or eth2",), {})


def test_a_qdisc_that_cannot_be_noted_is_not_made(around: Crossing, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the daemon is killed before it notes it: nobody would remove it any more."""
    memory = Previous()
    note = memory.put

    def put(name: str, value: str) -> None:
        if name.startswith("clsact"):
            raise OSError(errno.ENOSPC, "no space left")
        note(name, value)

    monkeypatch.setattr(memory, "put", put)
    door = NatboxDoor(trunk="eth1", uplink="eth2", memory=memory, netns=around.natbox)
    with pytest.raises(CaasError, match="no space left"):
        door.lay_path()
    assert "clsact" not in run("tc", "qdisc", "show", "dev", "eth1", netns=around.natbox).stdout
    assert memory == {}


def test_daemon_says_what_is_wrong_with_its_links(around: Crossing, tmp_path: Path) -> None:
    natbox = Daemon(around, tmp_path)
    run("ip", "link", "set", "eth1", "down", netns=around.natbox)
    try:
        natbox.start()
        (probe,) = natbox.call("Probe")
        assert probe["lacks"] == [{"what": "link eth1 is down", "mend": "ip link set eth1 up"}]
        (failed,) = natbox.apply(make_table(make_gateway(Station(vid=100, mac="02:00:00:00:00:01"))))[-1:]
        assert failed["error"] == "failed"
        assert natbox.call("Probe")[0].get("generations", {}) == {}, "nothing is in force after a failure"
    finally:
        natbox.close()


def published(station: Station, port: int) -> Gateway:
    """The VLAN of *station*, which answers at the uplink's UDP *port* with its own port 7."""
    door = Publication(protocol="udp", port=port, to=ipaddress.IPv4Address(station.address), to_port=7)
    return replace(make_gateway(station), publications=(door,))


def test_no_published_packet_is_lost_to_kill_restart_and_other_clusters(around: Crossing, tmp_path: Path) -> None:
    netns, station = add_tenant(around, tmp_path, 100)
    table = make_table(published(station, 5000))
    other = published(Station(vid=200, mac="02:00:00:00:00:01"), 5001)
    limited = replace(other, limits=Limits(connections=9), external=ipaddress.IPv4Address("203.0.113.7"))
    with daemon(around, tmp_path) as natbox, echo(netns, 7):
        result_of(natbox.apply(table))
        with Sender(around.outside, (UPLINK, 5000)) as sender:
            natbox.kill(signal.SIGKILL)
            natbox.start()
            assert "1 clusters in force, 0 kernel writes" in natbox.log(), "adopted, and nothing written"
            result_of(natbox.apply(make_table(other)))
            result_of(natbox.apply(make_table(limited, generation=2)))
            result_of(natbox.call("Destroy", cluster="c200"))
            assert natbox.kill(signal.SIGTERM) == 0
            time.sleep(0.2)
            assert sender.finish() == 0, f"of {sender.sent}"
            assert sender.sent > 100


def test_other_rules_take_over_without_a_loss_and_keep_what_the_sets_hold(around: Crossing, tmp_path: Path) -> None:
    netns, station = add_tenant(around, tmp_path, 100)
    gateway = replace(published(station, 5000), limits=Limits(connections=9))
    old = open_door(around)
    old.lay_path()
    old.create(gateway)
    run("ping", "-c1", "-W0.2", MANAGEMENT, netns=netns, check=False)
    (before,) = old.counters([100])
    assert dict(before.drops) == {"to NATBox's own address": 1}
    listen = Listen(address=ipaddress.IPv4Address(UPLINK), port=7444)
    new = NatboxDoor(trunk="eth1", uplink="eth2", memory=Previous(), listen=listen, netns=around.natbox)
    with echo(netns, 7), Sender(around.outside, (UPLINK, 5000)) as sender:
        time.sleep(0.2)
        assert new.observe_path().missing == ("nft rules",)
        new.lay_path()
        assert new.observe_path().missing == ()
        time.sleep(0.2)
        assert sender.finish() == 0
    (after,) = new.counters([100])
    assert (after.drops, after.connections_max) == (before.drops, 9), "counters and limits were kept"
    seen = new.observe([gateway]).vlans[100]
    assert (seen.gateway, seen.intact) == (gateway, True)
    with echo(netns, 7), Sender(around.outside, (UPLINK, 5000)) as begins:
        time.sleep(0.2)
        assert begins.finish() == 0, "what begins after it, too"


def test_a_table_whose_sets_have_another_shape_is_made_anew(around: Crossing) -> None:
    run("nft", "add table ip caas_natbox; add map ip caas_natbox published { type ipv4_addr : ipv4_addr; };"
        " add chain ip caas_natbox earlier", netns=around.natbox)  # fmt: skip
    door = open_door(around)
    door.lay_path()
    assert door.observe_path().missing == ()
    gateway = published(Station(vid=100, mac="02:00:00:00:00:01"), 5000)
    door.create(gateway)
    assert door.observe([gateway]).vlans[100].intact


def test_what_was_published_is_mended_after_a_flush(around: Crossing, tmp_path: Path) -> None:
    netns, station = add_tenant(around, tmp_path, 100)
    gatekeeper = Gatekeeper(open_door(around), SavedTables(tmp_path / "desired"))
    table = make_table(replace(published(station, 5000), external=ipaddress.IPv4Address("203.0.113.7")))
    gatekeeper.apply(table, on_plan=lambda _: None, on_done=lambda _: None)
    run("nft", "flush", "ruleset", netns=around.natbox)
    # Another cluster's table comes before the daemon has looked.
    other = make_table(make_gateway(Station(vid=200, mac="02:00:00:00:00:01")))
    gatekeeper.apply(other, on_plan=lambda _: None, on_done=lambda _: None)
    assert gatekeeper.plan(table) == ()
    with echo(netns, 7), Sender(around.outside, ("203.0.113.7", 5000)) as sender:
        time.sleep(0.2)
        assert sender.finish() == 0


def test_metrics_survive_a_restart(around: Crossing, tmp_path: Path) -> None:
    netns, station = add_tenant(around, tmp_path, 100)
    with daemon(around, tmp_path, metrics=f"{MANAGEMENT}:9101") as natbox:
        result_of(natbox.apply(make_table(make_gateway(station))))
        run("ping", "-c3", "-i0.2", OUTSIDE, netns=netns)
        run("ping", "-c1", "-W0.2", MANAGEMENT, netns=netns, check=False)
        before = scrape(around)
        natbox.kill(signal.SIGKILL)
        natbox.start()
        after = scrape(around)
    labels = 'cluster="c100",network="cluster",vid="100"'
    for text in (before, after):
        # The first ping also resolved nothing: NATBox knows its neighbours.
        assert f'caas_natbox_packets_total{{{labels},direction="out"}} 4.0' in labelled(text)
        assert f'caas_natbox_packets_total{{{labels},direction="in"}} 3.0' in labelled(text)
        assert f'caas_natbox_drops_total{{{labels},reason="to NATBox\'s own address"}} 1.0' in labelled(text)
        assert f"caas_natbox_connections_limit{{{labels}}} {natbox_share()}.0" in labelled(text)
        assert "caas_natbox_alarms 0.0" in text


def scrape(around: Crossing) -> str:
    url = f"http://{MANAGEMENT}:9101/metrics"
    code = f"import urllib.request; print(urllib.request.urlopen({url!r}, timeout=10).read().decode())"
    return run(sys.executable, "-c", code, netns=around.management).stdout


def labelled(text: str) -> set[str]:
    """The lines of samples, with their labels in the order of docs/natbox.md."""
    found = set()
    for line in text.splitlines():
        name, _, rest = line.partition("{")
        labels, _, value = rest.rpartition("} ")
        parts = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        order = [key for key in ("cluster", "network", "vid", "direction", "reason") if key in parts]
        together = ",".join(f'{key}="{parts[key]}"' for key in order)
        found.add(f"{name}{{{together}}} {value}")
    return found
