"""What works against clusters on a host: each thing is caused, in a namespace or in another host's files, and named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.kernel.doctor import Doctor
from proto.model import HostState
from tests.support.netns import Namespaces, run
from tests.support.things import make_container, make_state, make_tunnelled

CLEAN = {
    "proc/1/comm": "systemd\n",
    "proc/sys/net/bridge/bridge-nf-call-iptables": "0\n",
    "proc/sys/net/ipv4/conf/all/rp_filter": "2\n",
    "proc/sys/fs/inotify/max_user_instances": "1024\n",
    "proc/sys/net/ipv4/neigh/default/gc_thresh3": "1024\n",
    "proc/sys/net/netfilter/nf_conntrack_count": "10\n",
    "proc/sys/net/netfilter/nf_conntrack_max": "262144\n",
    "proc/net/arp": "IP address       HW type     Flags\n192.168.2.1 0x1 0x2\n",
    "sys/kernel/mm/ksm/run": "1\n",
}
FAR = make_tunnelled(1)
DENSE = HostState(containers=(replace(make_container(), merge=True),))
DESIRED = make_state().union(FAR).union(DENSE)


class Patient:
    """A host: a namespace with a bridge of ours, and a folder for its files."""

    def __init__(self, root: Path) -> None:
        self.root, self.spaces = root, Namespaces()
        self.netns = self.spaces.add("host")
        run(f"ip -n {self.netns} link add lxcbr100 type bridge")
        run(f"ip -n {self.netns} link set lxcbr100 alias caas:demo:cluster up")
        for path, text in CLEAN.items():
            self.write(path, text)
        self.index = run(f"ip -n {self.netns} -o link show lxcbr100").partition(":")[0]

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def complaints(self) -> list[str]:
        found = Doctor(netns=self.netns, root=self.root).examine(DESIRED)
        assert all(one.why and one.mend for one in found)
        return [f"{one.what} | {one.mend}" for one in found]


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Patient]:
    made = Patient(tmp_path)
    yield made
    made.spaces.close()


def runs(name: str) -> Callable[[Patient], None]:
    return lambda patient: patient.write("proc/77/comm", f"{name}\n")


def sets(path: str, text: str) -> Callable[[Patient], None]:
    return lambda patient: patient.write(path, text)


def does(command: str) -> Callable[[Patient], None]:
    return lambda patient: (run(command, netns=patient.netns), None)[1]


def takes(daemon: str, folder: str, line: str, conf: str, leave: str) -> Callable[[Patient], None]:
    def cause(patient: Patient) -> None:
        patient.write("proc/77/comm", f"{daemon}\n")
        patient.write(conf, leave)
        patient.write(f"{folder}/{patient.index}", f"# private\n{line}\n")

    return cause


DROP = "type filter hook forward priority 0; policy drop;"
NETWORKD_CONF = (
    "[Network]\nManageForeignRoutes=no\n#ManageForeignRoutingPolicyRules=yes\nManageForeignRoutingPolicyRules=false\n"
)
NM_CONF = "[keyfile]\nunmanaged-devices=interface-name:lxcbr*\n"
CAUSES = {
    "FORWARD": (
        does(f"nft 'add table ip filter; add chain ip filter FORWARD {{ {DROP} }}'"),
        ["nft chain ip filter FORWARD drops", "nft 'insert rule ip filter FORWARD iifname"],
    ),
    "bridged": (
        sets("proc/sys/net/bridge/bridge-nf-call-iptables", "1\n"),
        ["bridge-nf-call-iptables: 1", "sysctl -w net.bridge.bridge-nf-call-iptables=0"],
    ),
    "rp_filter": (sets("proc/sys/net/ipv4/conf/all/rp_filter", "1\n"), ["rp_filter is 1", "all.rp_filter=2"]),
    "inotify": (sets("proc/sys/fs/inotify/max_user_instances", "128\n"), ["instances is 128", "instances=1024"]),
    "neighbours": (
        sets("proc/sys/net/ipv4/neigh/default/gc_thresh3", "2\n"),
        ["gc_thresh3 is 2", "sysctl -w net.ipv4.neigh.default.gc_thresh1="],
    ),
    "connections": (
        sets("proc/sys/net/netfilter/nf_conntrack_count", "250000\n"),
        ["250000 of 262144 connections", "nf_conntrack_max=524288"],
    ),
    "lxc-net": (
        does("ip link add lxcbr0 type bridge"),
        ["lxcbr0 is there and not ours", "systemctl disable --now lxc-net"],
    ),
    "KSM": (sets("sys/kernel/mm/ksm/run", "0\n"), ["KSM does not run", "echo 1 > /sys/kernel/mm/ksm/run"]),
    "ksmtuned": (runs("ksmtuned"), ["ksmtuned runs", "systemctl disable --now ksmtuned"]),
    "firewalld": (runs("firewalld"), ["firewalld runs", "--add-interface=lxcbr+"]),
    "networkd's defaults": (
        runs("systemd-network"),
        ["ManageForeignRoutes, ManageForeignRoutingPolicyRules on", "networkd.conf.d/caas.conf"],
    ),
    "networkd's links": (
        takes(
            "systemd-network",
            "run/systemd/netif/links",
            "ADMIN_STATE=configured",
            "etc/systemd/networkd.conf.d/a.conf",
            NETWORKD_CONF,
        ),
        ["systemd-networkd manages lxcbr100", "Unmanaged=yes"],
    ),
    "NetworkManager": (runs("NetworkManager"), ["nothing keeps it from our links", "interface-name:lxcbr*"]),
    "NetworkManager's links": (
        takes(
            "NetworkManager", "run/NetworkManager/devices", "managed=true", "etc/NetworkManager/conf.d/a.conf", NM_CONF
        ),
        ["NetworkManager manages lxcbr100", "interface-name:lxcbr100"],
    ),
}


@pytest.mark.parametrize("name", CAUSES)
def test_what_is_wrong_with_a_host_is_named_with_its_mend(patient: Patient, name: str) -> None:
    cause, words = CAUSES[name]
    assert patient.complaints() == []
    cause(patient)
    (complaint,) = patient.complaints()
    assert all(word in complaint for word in words), complaint


def test_a_bridge_that_is_nearly_full_is_named(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a limit of three: a thousand ports take longer to make than all else here."""
    monkeypatch.setattr("agent.kernel.doctor.PORTS_MANY", 3)
    for number in range(3):
        assert patient.complaints() == []
        run(f"ip link add p{number} master lxcbr100 type veth peer name q{number}", netns=patient.netns)
    (complaint,) = patient.complaints()
    assert "bridge lxcbr100 has 3 ports" in complaint


@pytest.mark.parametrize(
    ("conf", "process", "text"),
    [
        ("usr/lib/systemd/networkd.conf.d/a.conf", "systemd-network", NETWORKD_CONF),
        ("etc/systemd/networkd.conf", "systemd-network", NETWORKD_CONF),
        ("usr/lib/NetworkManager/conf.d/a.conf", "NetworkManager", NM_CONF),
    ],
)
def test_a_daemon_that_was_told_to_leave_ours_alone_is_no_fault(
    patient: Patient, conf: str, process: str, text: str
) -> None:
    runs(process)(patient)
    assert len(patient.complaints()) == 1
    patient.write(conf, text)
    patient.write(f"run/systemd/netif/links/{patient.index}", "ADMIN_STATE=unmanaged\n")
    patient.write(f"run/NetworkManager/devices/{patient.index}", "[device]\nmanaged=false\n")
    assert patient.complaints() == []


def test_what_no_cluster_needs_is_no_fault(patient: Patient) -> None:
    patient.write("sys/kernel/mm/ksm/run", "0\n")
    patient.write("proc/sys/net/ipv4/conf/all/rp_filter", "1\n")
    assert Doctor(netns=patient.netns, root=patient.root).examine(HostState()) == ()


def test_a_daemon_in_a_container_is_not_the_host_s(patient: Patient) -> None:
    patient.write("proc/77/comm", "firewalld\n")
    for pid, place in (("self", "pid:[1]"), ("1", "pid:[1]"), ("77", "pid:[2]")):
        (patient.root / "proc" / pid / "ns").mkdir(parents=True)
        (patient.root / "proc" / pid / "ns/pid").symlink_to(place)
    assert patient.complaints() == []
    (patient.root / "proc/77/ns/pid").unlink()
    (patient.root / "proc/77/ns/pid").symlink_to("pid:[1]")
    assert len(patient.complaints()) == 1
