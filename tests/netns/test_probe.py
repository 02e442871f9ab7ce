"""What the machine can do is found by trying, and what it cannot is named with its mend."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agent.kernel import ipip_bpf, probe, vlan_bpf
from agent.kernel.door import NetlinkDoor
from proto.errors import CaasError, Code
from proto.model import Ipip, Vlan
from tests.conftest import kernel_words
from tests.netns.conftest import MARK
from tests.support import oracle
from tests.support.netns import Site, run
from tests.support.tunnelled import make_tunnel

ASK = """
import json
from agent.kernel import probe
lacks = [[each.what, each.mend] for each in probe.find_lacks({"vlan": "auto"})]
print(json.dumps([probe.choose("vlan", "auto"), lacks]))
"""


@pytest.mark.parametrize("kind", ["vlan", "ipip"])
def test_the_choice_is_what_iproute2_finds(kind: str) -> None:
    works = not kernel_words(kind)
    assert probe.choose(kind, "auto") == ("kernel" if works else "bpf")
    assert probe.choose(kind, "kernel") == ("kernel" if works else "")
    assert probe.choose(kind, "bpf") == "bpf"
    assert probe.find_lacks({kind: "bpf"}) == []


def test_probing_leaves_no_trace(site: Site) -> None:
    before = (oracle.snapshot(site.host), len(list(Path("/proc/self/fd").iterdir())), threads())
    with NetlinkDoor(netns=site.host) as door:
        door.datapath(), door.lacks(None)
        assert door.writes == 0
    assert (oracle.snapshot(site.host), len(list(Path("/proc/self/fd").iterdir())), threads()) == before


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


WANTED: dict[str, Vlan | Ipip] = {
    "vlan": Vlan(name="eth1.100", parent="eth1", vid=100, mtu=1500, master="", mark=MARK),
    "ipip": make_tunnel(1),
}


@pytest.mark.parametrize(("kind", "module"), [("vlan", vlan_bpf), ("ipip", ipip_bpf)])
def test_objects_that_were_not_compiled_are_named(
    monkeypatch: pytest.MonkeyPatch, site: Site, kind: str, module: object
) -> None:
    monkeypatch.setattr(module, "OBJECT", Path("/nowhere/any.bpf.o"))
    (lack,) = probe.find_lacks({kind: "bpf"})
    assert "not compiled" in lack.what
    assert lack.mend == "make bpf"
    wanted = WANTED[kind]
    with NetlinkDoor(netns=site.host, vlan="bpf", ipip="bpf") as door:
        assert getattr(door.datapath(), kind) == ""
        with pytest.raises(CaasError, match=rf"create {kind} {re.escape(wanted.name)}: .*not compiled") as caught:
            door.create(wanted)
    assert (caught.value.code, caught.value.hint) == (Code.UNSUPPORTED, "make bpf")


@pytest.mark.parametrize(("kind", "mend"), [("vlan", "modprobe 8021q"), ("ipip", "modprobe ipip")])
def test_a_kernel_without_the_devices_is_told_apart(kind: str, mend: str) -> None:
    if not kernel_words(kind):
        assert probe.find_lacks({kind: "kernel"}) == []
        return
    (lack,) = probe.find_lacks({kind: "kernel"})
    assert "Unknown device type" in lack.what
    assert lack.mend == mend


def test_missing_privilege_is_one_lack_with_one_mend() -> None:
    command = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", sys.executable, "-c", ASK]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    choice, lacks = json.loads(done.stdout)
    assert choice == ""
    assert lacks == [["the agent lacks CAP_NET_ADMIN", "run caas-agent as root"]]


def test_a_forward_filter_that_would_drop_bridged_frames_is_named(site: Site) -> None:
    switch = "/proc/sys/net/bridge/bridge-nf-call-iptables"
    with NetlinkDoor(netns=site.host, vlan="bpf") as door:
        assert door.lacks(None) == []
        run("nft add table ip theirs", netns=site.host)
        run("nft add chain ip theirs onward '{ type filter hook forward priority 0; policy drop; }'", netns=site.host)
        run(f"test -e {switch} && echo 1 > {switch}", netns=site.host, check=False)
        on = run(f"cat {switch}", netns=site.host, check=False) == "1\n"
        named = [lack.what.partition("chain ")[2].partition(",")[0] for lack in door.lacks(None)]
        assert named == ["ip theirs onward"] * on
        run(f"echo 0 > {switch}", netns=site.host, check=False)
        assert door.lacks(None) == []
