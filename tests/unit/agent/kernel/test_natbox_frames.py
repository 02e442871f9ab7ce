"""Frames that NATBoxes make, read by scapy; and the numbers that the BPF program has, too."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import ARP, Dot1Q, Ether

from agent.kernel import natbox_frames as frames
from agent.kernel.natbox_gate import SIZE, Gate, make_gate, read_gate

SOURCE = (Path(__file__).parents[4] / "agent/kernel/bpf/natbox.bpf.c").read_text()
MAC = bytes.fromhex("020000000001")
ADDRESS = ipaddress.IPv4Address("192.168.10.1")
epochs = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("ETH_P_NATBOX", frames.ETH_P_NATBOX),
        ("CONTROL_MAGIC", frames.MAGIC),
        ("CONTROL_CLAIM", frames.CLAIM),
        ("CONTROL_ASK", frames.ASK),
        ("CONTROL_ANSWER", frames.ANSWER),
    ],
)
def test_numbers_are_the_programs(name: str, number: int) -> None:
    found = re.search(rf"^#define {name}\s+(\w+)", SOURCE, re.MULTILINE)
    assert found, name
    assert int(found[1], 0) == number


@given(st.sampled_from((frames.CLAIM, frames.ASK)), epochs)
def test_a_control_frame_reads_as_it_was_written(kind: int, epoch: int) -> None:
    frame = frames.make_control(kind, epoch, MAC)
    assert frames.read_control(frame) == (kind, epoch)
    read = Ether(frame)
    assert (read.type, read.src, int(read.dst[:2], 16) & 1) == (0x88B5, MAC.hex(":"), 1)
    assert len(frame) == 60


@given(st.binary(max_size=80))
def test_what_is_no_control_frame_is_not_read(data: bytes) -> None:
    assert frames.read_control(data) is None
    other = frames.make_control(frames.CLAIM, 1, MAC).replace(b"caas", b"caat")
    assert frames.read_control(other) is None, "somebody else's experiment"
    assert frames.read_arp_sender(data) is None


@pytest.mark.parametrize("vid", [0, 1, 4094])
def test_an_announcement_is_a_request_for_its_own_address(vid: int) -> None:
    read = Ether(frames.make_announcement(ADDRESS, MAC, vid=vid))
    assert (read.src, read.dst) == (MAC.hex(":"), "ff:ff:ff:ff:ff:ff")
    assert (read[Dot1Q].vlan, read[Dot1Q].prio) == (vid, 0) if vid else Dot1Q not in read
    arp = read[ARP]
    assert (arp.op, arp.psrc, arp.pdst, arp.hwsrc) == (1, str(ADDRESS), str(ADDRESS), MAC.hex(":"))


def test_a_probe_claims_nothing() -> None:
    frame = frames.make_probe(ADDRESS, MAC)
    arp = Ether(frame)[ARP]
    assert (arp.op, arp.psrc, arp.pdst, arp.hwsrc) == (1, "0.0.0.0", str(ADDRESS), MAC.hex(":"))
    assert frames.read_arp_sender(frame) is None, "no answer, and no sign of an owner"


def test_an_answer_names_its_owner() -> None:
    answer = Ether(dst=MAC.hex(":"), src="02:00:00:00:00:02") / ARP(op=2, psrc=str(ADDRESS), hwsrc="02:00:00:00:00:02")
    assert frames.read_arp_sender(bytes(answer)) == (ADDRESS, bytes.fromhex("020000000002"))


@given(epochs, st.booleans(), epochs)
def test_a_gate_reads_as_it_was_written(epoch: int, is_open: bool, heard: int) -> None:
    gate = Gate(epoch=epoch, is_open=is_open, heard=heard)
    value = make_gate(gate, MAC)
    assert read_gate(value) == gate
    assert len(value) == SIZE == 32
    assert read_gate(bytes(SIZE)) == Gate(), "a new map is that of a NATBox alone, open"
