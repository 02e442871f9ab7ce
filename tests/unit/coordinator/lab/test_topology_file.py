"""Topology files: what they may say, and that every mistake in one is reported at once with its line."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from coordinator.config.problem import ConfigError
from coordinator.lab.daemons import make_services, make_settings
from coordinator.lab.places import Places
from coordinator.lab.topology import Role, make_switch_port_name
from coordinator.lab.topology_file import default_topology, load_topology, parse_topology
from proto.errors import CaasError, Code

EXAMPLES = Path(__file__).parents[4] / "examples"
ONE_HOST = """
switches: {lan: {}}
hosts:
  host1: {nics: {eth0: {switch: lan, address: 10.0.0.1/24}}}
"""
TWO_SWITCHES = ONE_HOST.replace("{lan: {}}", "{lan: {}, up: {}}")
#: To be put behind TWO_SWITCHES.
PAIR = """
natbox: {trunk: t, uplink: u, gateway: 10.1.0.9, nics: {m: {switch: lan, address: 10.0.0.3/24}, t: {switch: lan},
  u: {switch: up, address: 10.1.0.1/24}}}
natbox2: {trunk: t, uplink: u, gateway: 10.1.0.9, nics: {m: {switch: lan, address: 10.0.0.4/24}, t: {switch: lan},
  u: {switch: up}}}
"""
SECOND = PAIR.index("natbox2")


def second(before: str, after: str) -> str:
    """Two NATBoxes, and something else in the second."""
    assert before in PAIR[SECOND:]
    return TWO_SWITCHES + PAIR[:SECOND] + PAIR[SECOND:].replace(before, after)


def parse(text: str) -> object:
    return parse_topology(text.encode(), "lab.yaml")


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert caught.value.code is Code.INVALID
    return [f"{problem.line}: {problem.path}: {problem.message}" for problem in caught.value.problems]


def test_the_default_lab_is_the_one_of_the_design() -> None:
    topology = default_topology()
    addresses = {
        f"{machine.name}.{nic.name}": str(nic.address)
        for machine in topology.machines.values()
        for nic in machine.nics
        if nic.address
    }
    assert addresses == {
        "host1.eth0": "192.168.2.25/24",
        "host2.eth0": "192.168.2.26/24",
        "natbox.eth0": "192.168.2.24/24",
        "natbox.eth2": "203.0.113.1/24",
        "outside.eth0": "203.0.113.254/24",
    }
    switches = {f"{m.name}.{n.name}": n.switch for m in topology.machines.values() for n in m.nics if n.switch}
    assert switches == {
        "host1.eth0": "management",
        "host2.eth0": "management",
        "natbox.eth0": "management",
        "host1.eth1": "trunk",
        "host2.eth1": "trunk",
        "natbox.eth1": "trunk",
    }
    natbox, outside = topology.machine("natbox"), topology.machine("outside")
    assert (natbox.trunk, natbox.uplink, natbox.role) == ("eth1", "eth2", Role.NATBOX)
    assert natbox.nics[2].wire == ("outside", "eth0")
    assert outside.nics[0].wire == ("natbox", "eth2")
    assert outside.routes == (), "outside knows its own subnet and no other"
    assert topology.coordinator == "host1"


def test_one_nic_may_be_both_management_and_trunk() -> None:
    topology = parse_topology(ONE_HOST.encode(), "lab.yaml")
    (nic,) = topology.machine("host1").nics
    assert (nic.switch, nic.address) == ("lan", ipaddress.ip_interface("10.0.0.1/24"))


def test_routers_mtus_and_routes() -> None:
    topology = parse_topology(
        b"""
coordinator: b
switches: {left: {mtu: 9000}, right: {}}
hosts:
  a: {gateway: 10.1.0.254, nics: {eth0: {switch: left, address: 10.1.0.1/24}}}
  b: {routes: {10.1.0.0/24: 10.2.0.254}, nics: {eth0: {switch: right, address: 10.2.0.1/24, mtu: 1400}}}
routers:
  r: {nics: {x: {switch: left, address: 10.1.0.254/24}, y: {switch: right, address: 10.2.0.254/24}}}
""",
        "lab.yaml",
    )
    assert topology.coordinator == "b"
    assert topology.machine("r").role is Role.ROUTER
    assert topology.machine("a").nics[0].mtu == 9000
    assert topology.machine("b").nics[0].mtu == 1400
    assert topology.machine("a").routes == ((ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_address("10.1.0.254")),)
    assert topology.machine("b").routes == ((ipaddress.ip_network("10.1.0.0/24"), ipaddress.ip_address("10.2.0.254")),)


def test_every_mistake_of_shape_is_reported_at_once_with_its_line() -> None:
    found = problems_of("""coordinator: host1
switches:
  management: {mtu: 99999}
  trunk: {mtuu: 3}
hosts:
  Host1: {nics: {eth0: {switch: management, address: 192.168.2.25}}}
  host2: {nics: {eth0: {switch: management, address: 192.168.2.255/24}}}
nat: {}
""")
    assert [text.split(": ")[0] for text in found] == ["3", "4", "6", "6", "7", "8"]
    assert "MTU 99999: it must be within 576..65535" in found[0]
    assert "switches.trunk.mtuu: unknown key" in found[1]
    assert "'192.168.2.25' has no prefix length" in "".join(found[2:4])
    assert "host name 'Host1'" in "".join(found[2:4])
    assert "192.168.2.255 is the network or broadcast address" in found[4]


def test_two_natboxes_fit_together() -> None:
    parse(TWO_SWITCHES + PAIR)


def test_two_natboxes_have_one_uplink_address() -> None:
    topology = load_topology(EXAMPLES / "two-natboxes-lab.yaml")
    one, other = topology.natboxes
    assert (one.name, other.name) == ("natbox", "natbox2")
    assert (one.onlink, other.onlink) == ("eth2", "eth2")
    assert one.routes == other.routes
    assert [nic.address for nic in other.nics if nic.name == "eth2"] == [None]
    lines = make_settings(topology).splitlines()
    assert lines[-3:] == ["natbox:", "  addresses: [192.168.2.24, 192.168.2.23]", "  shared: [203.0.113.1/24]"]
    names = [service.daemon.name for service in make_services(topology, Places("lab"), uid=0)]
    assert names == ["caas-agent.host1", "caas-natbox", "caas-natbox2", "caas-coordinator"]
    assert default_topology().natboxes[0].onlink == ""
    assert "natbox" not in make_settings(default_topology())


def test_unknown_keys_name_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("hosts: {a: {nics: {eth0: {swich: lan}}}}")
    assert caught.value.problems[0].hint == "did you mean 'switch'?"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("hosts: {a: {nics: {e: {switch: nope, address: 10.0.0.1/24}}}}", "no switch 'nope'"),
        (ONE_HOST + "  host2: {nics: {eth0: {switch: lan, address: 10.0.0.1/24}}}", "10.0.0.1 is there twice"),
        (ONE_HOST + "  host2: {nics: {eth0: {switch: lan}}}", "no NIC has an address"),
        (ONE_HOST + "  lan: {nics: {eth0: {switch: lan, address: 10.0.0.2/24}}}", "the name 'lan' is taken"),
        (ONE_HOST + "  natbox: {nics: {eth0: {switch: lan, address: 10.0.0.2/24}}}", "the name 'natbox' is taken"),
        (ONE_HOST + "coordinator: nobody", "'nobody' is none of the hosts"),
        (ONE_HOST + "  h: {gateway: 10.9.9.9, nics: {e: {switch: lan, address: 10.0.0.2/24}}}", "is in no subnet"),
        (
            ONE_HOST + "  h: {nics: {e: {switch: lan, address: 10.0.0.2/24}, f: {switch: lan, address: 10.0.0.3/24}}}",
            "overlapping subnet",
        ),
        (ONE_HOST + "  h: {nics: {e: {switch: lan, address: 10.0.0.2/24, mtu: 1501}}}", "do not pass switch lan"),
        (ONE_HOST + "  h: {nics: {e: {address: 10.0.0.2/24}}}", "either `switch: NAME` or a wire"),
        (ONE_HOST + "  h: {nics: {e: {address: 10.0.0.2/24, to: host1.eth0}}}", "either `switch: NAME` or a wire"),
        (ONE_HOST + "  h: {nics: {e: {address: 10.0.0.2/24, to: h.e}}}", "or is this NIC itself"),
        (ONE_HOST + "  h: {nics: {e: {address: 10.0.0.2/24, to: host1.eth7}}}", "there is no NIC 'host1.eth7'"),
        (ONE_HOST + "  h: {nics: {lo: {switch: lan, address: 10.0.0.2/24}}}", "every machine's loopback"),
        (
            ONE_HOST + "natbox: {trunk: t, uplink: t, nics: {t: {switch: lan, address: 10.0.0.3/24}}}",
            "which NATBox has for itself",
        ),
        (
            ONE_HOST
            + "natbox: {trunk: t, uplink: u, nics: {t: {switch: lan}, m: {switch: lan, address: 10.0.0.3/24}}}",
            "NATBox has no NIC 'u'",
        ),
        (
            ONE_HOST
            + "natbox: {trunk: t, uplink: u, nics: "
            + "{t: {switch: lan}, m: {switch: lan, address: 10.0.0.3/24}, u: {switch: lan}}}",
            "needs an address to translate to",
        ),
        (TWO_SWITCHES + PAIR[SECOND:], "there is no first one"),
        (second("u: {switch: up}", "u: {switch: lan}"), "the uplink must be on the first one's switch"),
        (second("t: {switch: lan}", "t: {switch: up}"), "the trunk must be on the first one's switch"),
        (second("u: {switch: up}", "u: {switch: up, address: 10.1.0.2/24}"), "is the first NATBox's"),
        (second("gateway: 10.1.0.9", "gateway: 10.2.0.9"), "is in no subnet"),
    ],
    ids=lambda value: value[:40].strip() if "\n" not in value else "",
)
def test_what_does_not_fit_together_is_refused(text: str, wanted: str) -> None:
    found = problems_of(text)
    assert any(wanted in line for line in found), found


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CaasError, match=r"nowhere\.yaml: No such file") as caught:
        load_topology(tmp_path / "nowhere.yaml")
    assert caught.value.code is Code.INVALID


def test_ports_of_long_names_are_hashed_not_cut() -> None:
    assert make_switch_port_name("host1", "eth0") == "host1.eth0"
    first, second = (make_switch_port_name(f"a-very-long-host-name-{n}", "eth0") for n in (1, 2))
    assert first != second
    assert max(len(first), len(second)) <= 15
