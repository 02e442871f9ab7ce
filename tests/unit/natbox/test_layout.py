"""The two sides of the maps agree: agent/kernel/natbox_layout.py and bpf/natbox.bpf.c."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

import pytest

from agent.kernel import natbox_layout as layout
from agent.kernel.natbox_chains import Shares, make_chains, make_comments, make_script
from natbox.main import parse_listen
from proto.errors import CaasError
from tests.unit.natbox.test_table import gateway, near

SOURCE = (Path(__file__).parents[3] / "agent/kernel/bpf/natbox.bpf.c").read_text()


def constant(name: str) -> int:
    found = re.search(rf"^#define {name}\s+(\w+)", SOURCE, re.MULTILINE)
    assert found, name
    return int(found[1], 0)


def test_numbers_are_the_programs() -> None:
    assert constant("MARK_OUT") == layout.MARK_OUT
    assert int(layout.INNER.network_address) == constant("INNER")
    assert constant("INNER_VID_SHIFT") == layout.INNER_VID_SHIFT
    assert int(layout.STACK_ADDRESS) == constant("STACK_SOURCE")
    assert constant("MARK_TEXT") == layout.MARK_TEXT_MAX + 1


def test_every_reason_of_the_program_has_its_words() -> None:
    names = re.search(r"enum reason \{(.*?)REASONS,", SOURCE, re.DOTALL)
    assert names
    assert len(re.findall(r"[A-Z0-9_]+,", names[1])) == len(layout.REASONS) == len(set(layout.REASONS)) <= 32
    assert set(layout.REASONS) > layout.ORDINARY_REASONS


def test_an_entry_reads_as_it_was_written() -> None:
    one = gateway(4094, at="10.1.2.3/20")
    value = layout.make_vlan_entry(one, mac="02:00:00:00:00:01", is_open=True)
    entry = layout.read_vlan_entry(layout.make_vid_key(4094), value)
    assert (entry.vid, entry.gateway, entry.mac, entry.open) == (4094, one.gateway, "02:00:00:00:00:01", True)
    assert (entry.owner.cluster, entry.owner.object) == ("demo", "n")
    assert layout.has_subnet(value, one.gateway.network)
    assert not layout.has_subnet(value, ipaddress.IPv4Network("10.1.0.0/21"))
    assert not layout.has_subnet(value, ipaddress.IPv4Network("10.2.0.0/20"))
    with pytest.raises(CaasError, match="no mark of ours"):
        layout.read_vlan_entry(layout.make_vid_key(1), bytes(len(value)))


def test_neighbours_read_as_they_were_written() -> None:
    wanted = (near("192.168.10.5"), near("192.168.10.6", "02:00:00:00:00:02"))
    entries = layout.make_neighbours(7, wanted)
    assert [layout.read_neighbour(key, value) for key, value in entries.items()] == [(7, each) for each in wanted]
    assert all(key.startswith(layout.make_vid_key(7)) for key in entries)


def test_inner_subnets_are_each_vlans_own() -> None:
    subnets = [layout.make_inner_subnet(vid) for vid in range(1, 4095)]
    assert len(set(subnets)) == 4094
    assert all(subnet.subnet_of(layout.INNER) and layout.STACK_ADDRESS not in subnet for subnet in subnets)
    assert ipaddress.IPv4Address("255.255.255.255") not in subnets[-1]
    assert [layout.read_inner_vid(subnet[77]) for subnet in subnets] == list(range(1, 4095))


def test_counters_are_summed_over_the_cpus() -> None:
    value = b"".join(number.to_bytes(8, "little") for number in (1, 10, 2, 20, 3, 30, 4, 40))
    assert layout.read_traffic(value) == (4, 40, 6, 60)


SHARES = Shares(connections=100, connections_per_second=10)


def test_rules_do_not_depend_on_vlans_and_notice_their_links() -> None:
    chains = make_chains(trunk="eth1", uplink="eth2", listen=None, shares=SHARES)
    script = make_script(chains, (2, 3))
    assert len(script.splitlines()) < 100
    comments = {comment for chain in chains for comment in make_comments(chain, (2, 3))}
    assert len(comments) == sum(len(chain.rules) for chain in chains), "each rule has a comment of its own"
    assert comments.isdisjoint(comment for chain in chains for comment in make_comments(chain, (4, 3)))


def test_only_the_daemons_own_port_is_open_on_the_uplink() -> None:
    listen = parse_listen("203.0.113.1:7444")
    assert listen is not None
    without = make_chains(trunk="eth1", uplink="eth2", listen=None, shares=SHARES)
    opened = make_chains(trunk="eth1", uplink="eth2", listen=listen, shares=SHARES)
    extra = [rule for one, other in zip(opened, without, strict=True) for rule in one.rules if rule not in other.rules]
    assert len(extra) == 1
    assert "ip daddr 203.0.113.1 tcp dport 7444 accept" in extra[0]


@pytest.mark.parametrize("text", ["203.0.113.1", "203.0.113.1:", "203.0.113.1:0", "203.0.113.1:65536", "x:y"])
def test_a_wrong_listen_is_refused(text: str) -> None:
    with pytest.raises(CaasError, match="ADDRESS:PORT"):
        parse_listen(text)
