"""Every mistake that a file alone shows: refused, with its line, its keys, what was found and what would be right."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from coordinator.config import ConfigError, Problem, load_bytes
from coordinator.config.check import check_cluster
from coordinator.config.problem import SHOWN_MAX, Report, suggest
from proto.errors import CaasError, Code

GOOD = """\
name: demo
hosts:
  host1: {address: 192.168.2.25, trunk: eth1}
  host2: {address: 192.168.2.26, trunk: eth1}
natbox: {address: 192.168.2.24, trunk: eth1, uplink: eth2}
networks:
  cluster: {vlan: 100, subnet: 192.168.10.0/24, gateway: 192.168.10.1}
containers:
  ubuntu011: {host: host1, network: cluster, address: 192.168.10.50, roles: [controller, compute]}
  ubuntu012: {host: host2, network: cluster, address: 192.168.10.51, roles: [compute]}
nova: {virt_driver: fake}
"""
HOSTS, NETWORKS = "hosts:\n", "networks:\n"
SUBNET, GATEWAY, ONE, TWO = "subnet: 192.168.10.0/24", "gateway: 192.168.10.1}", "192.168.10.50", "192.168.10.51"
NATBOX = "natbox: {address: 192.168.2.24, trunk: eth1, uplink: eth2}\n"
COMPUTE = "  ubuntu012: {host: host2, network: cluster, address: 192.168.10.51, roles: [compute]}\n"
NET = "networks.cluster"

# name: (what of GOOD is replaced, by what, line, path, message, hint)
MISTAKES = {
    "vid 0": ("vlan: 100", "vlan: 0", 7, f"{NET}.vlan", "VID 0: it must be within 1..4094", "1..4094"),
    "vid 4095": ("vlan: 100", "vlan: 4095", 7, f"{NET}.vlan", "VID 4095: it must be within 1..4094", "1..4094"),
    "vid negative": ("vlan: 100", "vlan: -5", 7, f"{NET}.vlan", "VID -5", "1..4094"),
    "vid huge": ("vlan: 100", f"vlan: {'9' * 40}", 7, f"{NET}.vlan", "is no number", "1..4094"),
    "vid quoted": ("vlan: 100", "vlan: '100'", 7, f"{NET}.vlan", "in quotes is no number", "1..4094"),
    "vid word": ("vlan: 100", "vlan: red", 7, f"{NET}.vlan", "'red' is no number", "1..4094"),
    "vid a list": ("vlan: 100", "vlan: [100]", 7, f"{NET}.vlan", "found a list", "1..4094"),
    "vid empty": ("vlan: 100", "vlan: ~", 7, f"{NET}.vlan", "found nothing", "1..4094"),
    "vid missing": ("vlan: 100, ", "", 7, NET, "'vlan' is missing", "add vlan"),
    "vid twice": (
        NETWORKS,
        f"{NETWORKS}  a: {{vlan: 100, subnet: 10.1.0.0/16}}\n",
        8,
        f"{NET}.vlan",
        "VID 100 is network a's already (line 7)",
        "two VIDs",
    ),
    "subnet host bits": (
        SUBNET,
        "subnet: 192.168.10.7/24",
        7,
        f"{NET}.subnet",
        "host bits set",
        "write 192.168.10.0/24",
    ),
    "subnet no prefix": (SUBNET, "subnet: 192.168.10.0", 7, f"{NET}.subnet", "prefix length is", "192.168.10.0/24"),
    "subnet octets": (SUBNET, "subnet: 999.1.1.0/24", 7, f"{NET}.subnet", "is no subnet", "192.168.10.0/24"),
    "subnet multicast": (SUBNET, "subnet: 224.0.1.0/24", 7, f"{NET}.subnet", "is multicast", "private"),
    "subnet loopback": (SUBNET, "subnet: 127.1.0.0/16", 7, f"{NET}.subnet", "is loopback", "private"),
    "subnet /31": (SUBNET, "subnet: 10.0.0.0/31", 7, f"{NET}.subnet", "nothing of that size", "8..30"),
    "subnet /0": (SUBNET, "subnet: 0.0.0.0/0", 7, f"{NET}.subnet", "nothing of that size", "8..30"),
    "subnet over hosts": (
        NETWORKS,
        f"{NETWORKS}  a: {{vlan: 5, subnet: 192.168.2.0/24}}\n",
        7,
        "networks.a.subnet",
        "overlaps the underlay: host host1 (192.168.2.25), host host2 (192.168.2.26), NATBox (192.168.2.24)",
        "that the hosts do not use",
    ),
    "subnet over natbox": (
        "{address: 192.168.2.24",
        "{address: 192.168.10.200",
        7,
        f"{NET}.subnet",
        "overlaps the underlay: NATBox (192.168.10.200)",
        "that the hosts do not use",
    ),
    "subnets overlap": (
        NETWORKS,
        f"{NETWORKS}  a: {{vlan: 5, subnet: 192.168.8.0/21}}\n",
        8,
        f"{NET}.subnet",
        "192.168.10.0/24 overlaps 192.168.8.0/21 of network a (line 7)",
        "disjoint",
    ),
    "gateway outside": (GATEWAY, "gateway: 192.168.11.1}", 7, f"{NET}.gateway", "outside 192.168.10.0/24", "10.1,"),
    "gateway is network": (GATEWAY, "gateway: 192.168.10.0}", 7, f"{NET}.gateway", "the network address", "10.1,"),
    "gateway is broadcast": (GATEWAY, "gateway: 192.168.10.255}", 7, f"{NET}.gateway", "the broadcast", "10.1,"),
    "gateway with prefix": (GATEWAY, "gateway: 192.168.10.1/24}", 7, f"{NET}.gateway", "no IPv4", "write 192.168.10.1"),
    "gateway, no natbox": (NATBOX, "", 6, f"{NET}.gateway", "needs a NATBox that has the address", "add natbox:"),
    "address outside": (
        ONE,
        "192.168.11.50",
        9,
        "containers.ubuntu011.address",
        "is outside 192.168.10.0/24",
        "cluster",
    ),
    "address is network": (ONE, "192.168.10.0", 9, "containers.ubuntu011.address", "the network address of", "cluster"),
    "address is broadcast": (ONE, "192.168.10.255", 9, "containers.ubuntu011.address", "the broadcast", "cluster"),
    "address is gateway": (ONE, "192.168.10.1", 9, "containers.ubuntu011.address", "the gateway of network", "another"),
    "address twice": (
        TWO,
        ONE,
        10,
        "containers.ubuntu012.address",
        "container ubuntu011's already (line 9)",
        "another",
    ),
    "address IPv6": (TWO, "'fd00::1'", 10, "containers.ubuntu012.address", "no IPv4 address", "four numbers"),
    "network full": (
        COMPUTE,
        COMPUTE
        + "  x: {host: host1, network: s, roles: [compute]}\n"
        + "  y: {host: host1, network: s, roles: [compute]}\n"
        + "  z: {host: host1, network: s, roles: [compute]}\n",
        13,
        "containers.z",
        "network s is full: 10.0.0.0/30 has room for 2",
        "larger subnet",
    ),
    "host address twice": ("192.168.2.26", "192.168.2.25", 4, "hosts.host2.address", "host host1 already", "its own"),
    "natbox on a trunk": ("{address: 192.168.2.24", "{address: 192.168.2.26", 5, "natbox.address", "host2's", "itself"),
    "natbox uplink": ("uplink: eth2", "uplink: eth1", 5, "natbox.uplink", "eth1 is the trunk already", "of its own"),
    "natbox half": (", uplink: eth2", "", 5, "natbox", "'uplink' is missing", "add uplink"),
    "natbox a word": (NATBOX, "natbox: yes\n", 5, "natbox", "found 'yes'", "address, trunk, uplink"),
    "trunk missing": ("25, trunk: eth1", "25", 3, "hosts.host1", "container ubuntu011 is in VLAN network", "add trunk"),
    "trunk too long": ("25, trunk: eth1", "25, trunk: a234567890123456", 3, "hosts.host1.trunk", "1 to 15", "eth1"),
    "unknown top key": ("nova:", "novva:", 11, "novva", "unknown key 'novva'", "did you mean 'nova'?"),
    "unknown host key": (
        "{address: 192.168.2.25",
        "{adress: 192.168.2.25",
        3,
        "hosts.host1.adress",
        "key",
        "'address'",
    ),
    "unknown network key": ("vlan: 100", "vlan_id: 100", 7, f"{NET}.vlan_id", "unknown key", "'vlan'?"),
    "unknown container key": ("roles: [compute]", "role: [compute]", 10, "containers.ubuntu012.role", "key", "'roles'"),
    "unknown natbox key": ("uplink: eth2", "uplnk: eth2", 5, "natbox.uplnk", "unknown key 'uplnk'", "'uplink'"),
    "unknown nova key": ("virt_driver", "virtdriver", 11, "nova.virtdriver", "unknown key", "'virt_driver'"),
    "unknown far key": ("nova: {", "nova: {zzz: 1, ", 11, "nova.zzz", "unknown key", "known here: api_workers, region"),
    "unknown driver": ("driver: fake", "driver: fakee", 11, "nova.virt_driver", "unknown virt_driver", "'fake'"),
    "workers": ("driver: fake", "driver: fake, api_workers: 0", 11, "nova.api_workers", "within 1..64", "1..64"),
    "region": ("driver: fake", "driver: fake, region: a b", 11, "nova.region", "region 'a b'", "write a-b"),
    "unknown host": (
        "host: host2",
        "host: hosst2",
        10,
        "containers.ubuntu012.host",
        "unknown host 'hosst2'",
        "'host2'",
    ),
    "unknown network": (
        "host2, network: cluster",
        "host2, network: x",
        10,
        "containers.ubuntu012.network",
        "'x'",
        "clu",
    ),
    "unknown role": ("[compute]", "[computer]", 10, "containers.ubuntu012.roles", "'computer'", "'compute'"),
    "no roles": ("[compute]", "[]", 10, "containers.ubuntu012.roles", "the list is empty", "name at least one"),
    "roles a mapping": ("[compute]", "{}", 10, "containers.ubuntu012.roles", "found a mapping", "list of words"),
    "no controller": (
        "[controller, compute]",
        "[compute]",
        8,
        "containers",
        "no controller: nobody holds database",
        "add",
    ),
    "no scheduler": (
        "[controller, compute]",
        "[database, messaging, keystone, glance, placement, nova-api, nova-conductor]",
        8,
        "containers",
        "nobody holds nova-scheduler",
        "add nova-scheduler",
    ),
    "two controllers": ("[compute]", "[glance]", 10, "containers.ubuntu012.roles", "held by ubuntu011 already", "only"),
    "host name": ("host2: {", "Host_2: {", 4, "hosts.Host_2", "host name 'Host_2'", "write host-2"),
    "container name": ("ubuntu012:", "-x:", 10, "containers.-x", "host name '-x'", "write x"),
    "container name long": ("ubuntu012:", f"{'a' * 64}:", 10, f"containers.{'a' * 64}", "1 to 63", ""),
    "container localhost": ("ubuntu012:", "localhost:", 10, "containers.localhost", "localhost", "another name"),
    "network name": ("  cluster: {", "  Cluster: {", 7, "networks.Cluster", "network name 'Cluster'", "write cluster"),
    "cluster name": ("name: demo", "name: Demo!", 1, "name", "cluster name 'Demo!'", "write demo"),
    "cluster name a list": ("name: demo", "name: [demo]", 1, "name", "found a list", "a cluster's name"),
    "container twice": ("ubuntu012:", "ubuntu011:", 10, "containers", "there twice, first in line 9", "rename one"),
    "host twice": ("host2: {address: 192.168.2.26", "host1: {address: 192.168.2.26", 4, "hosts", "there twice", "keep"),
    "key twice": ("{host: host2,", "{host: host2, host: host1,", 10, "containers.ubuntu012", "'host' is there", "keep"),
    "container a word": (COMPUTE, "  ubuntu012: 5\n", 10, "containers.ubuntu012", "found '5'", "host, network, roles"),
    "subnet nothing": (SUBNET, "subnet: ~", 7, f"{NET}.subnet", "found nothing", "a subnet is needed"),
    "subnet missing": (f"{SUBNET}, ", "", 7, NET, "'subnet' is missing", "add subnet"),
    "driver nothing": ("driver: fake", "driver: ~", 11, "nova.virt_driver", "found nothing", "fake or fake-small"),
    "a tag": ("name: demo", "name: !demo demo", 1, "", "tag !demo", "remove it"),
}
# A mistake of one of these kinds hides what it would have held, or leads to a second one that is as true.
SECOND = {"host name", "network name", "host twice", "unknown network key", "network full", "no roles"}


def _problems(text: str | bytes, file: str = "demo.yaml") -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load_bytes(text.encode() if isinstance(text, str) else text, file=file)
    assert caught.value.code is Code.INVALID
    return caught.value.problems


def test_the_file_that_mistakes_are_made_in_is_right() -> None:
    assert load_bytes(GOOD.encode(), file="demo.yaml").name == "demo"


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_refused_with_its_line_and_what_would_be_right(name: str) -> None:
    old, new, line, path, message, hint = MISTAKES[name]
    text = GOOD
    if name == "network full":
        text = text.replace(NETWORKS, f"{NETWORKS}  s: {{vlan: 9, subnet: 10.0.0.0/30}}\n")
        line += 1
    assert text.count(old) == 1 or name in ("address twice",), f"{old!r} must be there once"
    problems = _problems(text.replace(old, new, 1))
    if name not in SECOND:
        assert len(problems) == 1, [str(problem) for problem in problems]
    found = [problem for problem in problems if problem.path == path and message in problem.message]
    assert found, [str(problem) for problem in problems]
    assert (found[0].file, found[0].line) == ("demo.yaml", line)
    assert hint in found[0].hint
    assert str(found[0]).startswith(f"demo.yaml:{line}: ")


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    text = (
        GOOD.replace("vlan: 100", "vlan: 5000").replace("host: host2", "host: host9").replace("25, trunk", "25, trnk")
    )
    problems = _problems(text)
    assert [problem.line for problem in problems] == [3, 3, 7, 10]
    with pytest.raises(ConfigError) as caught:
        load_bytes(text.encode(), file="demo.yaml")
    message = caught.value.message
    assert message.startswith("demo.yaml: 4 problems\n")
    for problem in problems:
        assert f"  {problem}\n    hint: {problem.hint}" in message


def test_a_mistake_hides_no_other_and_invents_none() -> None:
    """A network that cannot be read is not unknown, and a role that cannot be read is not missing."""
    text = GOOD.replace("vlan: 100", "vlan: x").replace("controller, compute", "controler, compute")
    assert [problem.path for problem in _problems(text)] == ["networks.cluster.vlan", "containers.ubuntu011.roles"]


def test_three_nested_subnets_are_both_told_of() -> None:
    more = (
        "  a: {vlan: 1, subnet: 10.0.0.0/8}\n  b: {vlan: 2, subnet: 10.1.0.0/16}\n  c: {vlan: 3, subnet: 10.2.0.0/16}\n"
    )
    problems = _problems(GOOD.replace(NETWORKS, NETWORKS + more))
    assert [problem.path for problem in problems] == ["networks.b.subnet", "networks.c.subnet"]


@pytest.mark.parametrize(
    ("content", "line", "says", "hint"),
    [
        (b"", 1, "the file is empty", "examples/demo.yaml"),
        (b"# only a comment\n", 1, "the file is empty", "examples/demo.yaml"),
        (b"--- \n...\n", 1, "the file is empty", ""),
        (b"- a\n- b\n", 1, "found a list", "hosts, networks, containers"),
        (b"just words", 1, "found 'just words'", "hosts, networks, containers"),
        (b"hosts:\n\thost1: {}\n", 2, "not YAML", "indent with blanks"),
        (b"hosts: {a: 1\n", 2, "not YAML", ""),
        (b"a: b: c\n", 1, "not YAML", ""),
        (b"\x89PNG\r\n\x1a\n\x00\x00", 1, "not a text file", "UTF-8"),
        (b"name: a\nhosts: \x00\n", 2, "control character '\\x00'", ""),
        (b"\x7fELF\x02\x01\x01" + bytes(100), 1, "not a text file", ""),
        (b"name: caf\xe9\n", 1, "not UTF-8", "UTF-8"),
        (b"a: " + b"[" * 100_000, 1, "nested more than", ""),
        (b"a: " + b"{a: " * 100_000, 1, "nested more than", ""),
        (b"a: &a [*a]\n", 1, "it contains itself", ""),
        (b"a: *nobody\n", 1, "no anchor of that name", ""),
        (b"a: 1\n---\nb: 2\n", 2, "a second document", "split"),
        (b"? [a, b]\n: 1\n", 1, "a key must be text, found a list", ""),
        (b"? \n: 1\n", 1, "a key must be text, found nothing", ""),
        (b"<<: 5\n", 1, "<< merges mappings", ""),
    ],
    ids=lambda value: repr(value)[:30] if isinstance(value, bytes) else "",
)
def test_what_is_no_cluster_file_at_all(content: bytes, line: int, says: str, hint: str) -> None:
    problems = _problems(content)
    found = [problem for problem in problems if says in problem.message]
    assert found, [str(problem) for problem in problems]
    assert found[0].line == line
    assert hint in found[0].hint


@pytest.mark.parametrize(
    ("part", "says", "hint"),
    [("{}", "it is empty", "at least one"), ("5", "found '5'", "NAME: {"), ("[a]", "found a list", "NAME: {")],
)
@pytest.mark.parametrize("section", ["hosts", "networks", "containers"])
def test_a_section_without_names(section: str, part: str, says: str, hint: str) -> None:
    other = {"hosts": "{h: {address: 10.9.0.1, trunk: t}}", "networks": "{n: {vlan: 1, subnet: 10.0.0.0/24}}"}
    other["containers"] = "{c: {host: h, network: n, roles: [controller]}}"
    problems = _problems("".join(f"{key}: {part if key == section else value}\n" for key, value in other.items()))
    found = [problem for problem in problems if problem.path == section]
    assert says in found[0].message
    assert hint in found[0].hint


def test_a_file_without_its_parts_lacks_them_by_name() -> None:
    problems = _problems("name: demo\n")
    assert [problem.message for problem in problems] == [
        "'hosts' is missing",
        "'networks' is missing",
        "'containers' is missing",
    ]


@pytest.mark.timeout(30)
def test_aliases_within_aliases_cost_nothing() -> None:
    bomb = ["a0: &a0 {k: v}"]
    bomb += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    assert len(_problems("\n".join(bomb))) == 33  # 30 unknown keys, 3 missing ones


@pytest.mark.timeout(60)
def test_merge_keys_within_merge_keys_are_bounded() -> None:
    keys = ", ".join(f"k{n}: v" for n in range(2000))
    bomb = [f"base: &b {{{keys}}}"] + [f"m{n}: {{<<: *b}}" for n in range(2000)]
    problems = _problems("\n".join(bomb))
    assert "keys merged in all" in problems[0].message


def test_a_huge_file_is_refused_before_it_is_parsed() -> None:
    problems = _problems(b"#" * (33 << 20))
    assert "at most" in problems[0].message


def test_a_file_with_a_thousand_mistakes_shows_the_first_hundred() -> None:
    text = GOOD + "".join(f"k{n}: 1\n" for n in range(1000))
    with pytest.raises(ConfigError) as caught:
        load_bytes(text.encode(), file="f")
    assert len(caught.value.problems) == 1000
    assert f"… and {1000 - SHOWN_MAX} more" in caught.value.message


def test_one_problem_is_its_own_message_and_hint() -> None:
    with pytest.raises(ConfigError) as caught:
        load_bytes(GOOD.replace("vlan: 100", "vlan: 0").encode(), file="f.yaml")
    assert caught.value.message == "f.yaml:7: networks.cluster.vlan: VID 0: it must be within 1..4094"
    assert caught.value.hint == "a number within 1..4094 is needed"


def test_a_list_of_problems_has_no_empty_hints_and_no_count_of_none() -> None:
    text = GOOD.replace("ubuntu012:", f"{'a' * 64}:").replace("vlan: 100", "vlan: 0")
    with pytest.raises(ConfigError) as caught:
        load_bytes(text.encode(), file="f.yaml")
    lines = caught.value.message.splitlines()
    assert len(lines) == 4
    assert lines[0] == "f.yaml: 2 problems"
    assert lines[3].startswith("  f.yaml:10: containers.a")


def test_what_is_known_is_listed_where_nothing_is_near_but_not_without_end() -> None:
    assert suggest("zzz", ["b", "a"]) == "known here: a, b"
    assert suggest("zzz", [f"n{number:02}" for number in range(20)]).endswith("n18, n19")
    assert suggest("zzz", [f"n{number:02}" for number in range(21)]).endswith("n18, n19, …")
    assert suggest("zzz", []) == "there is none"
    assert suggest("Compute", ["compute"]) == "did you mean 'compute'?"


def test_of_many_hosts_inside_a_subnet_five_are_named() -> None:
    hosts = "".join(f"  h{n}: {{address: 10.0.0.{n + 1}}}\n" for n in range(6))
    text = GOOD.replace(HOSTS, HOSTS + hosts).replace(NETWORKS, f"{NETWORKS}  a: {{vlan: 5, subnet: 10.0.0.0/24}}\n")
    (problem,) = _problems(text)
    assert "host h4 (10.0.0.5), … is inside it" in problem.message
    (problem,) = _problems(text.replace("  h5: {address: 10.0.0.6}\n", ""))
    assert "host h4 (10.0.0.5) is inside it" in problem.message


def test_natbox_may_share_a_machine_but_not_a_trunk() -> None:
    text = GOOD.replace("192.168.2.24, trunk: eth1", "192.168.2.26, trunk: eth3")
    assert load_bytes(text.encode(), file="f").natbox is not None


def test_a_cluster_that_is_made_without_a_file_is_checked_as_well() -> None:
    """Other loaders may know no lines."""
    report = Report("made")
    file = dataclasses.replace(load_bytes(GOOD.encode(), file="f"), places={})
    check_cluster(file, report)
    assert report.problems == []
    second = dataclasses.replace(file.hosts["host2"], address=file.hosts["host1"].address)
    check_cluster(dataclasses.replace(file, hosts={**file.hosts, "host2": second}), report)
    (problem,) = report.problems
    assert str(problem) == "made: hosts.host2.address: 192.168.2.25 is the address of host host1 already"


def test_the_error_crosses_processes_with_its_problems() -> None:
    with pytest.raises(ConfigError) as caught:
        load_bytes(b"name: demo\n", file="f")
    again = pickle.loads(pickle.dumps(caught.value))
    assert again == caught.value
    assert again.problems == caught.value.problems


def test_a_name_that_contradicts_the_file_is_refused() -> None:
    with pytest.raises(CaasError, match="the file says name: demo, the call says other"):
        load_bytes(GOOD.encode(), file="f.yaml", name="other")


def test_a_stem_that_is_no_name_is_refused_with_the_way_out() -> None:
    with pytest.raises(CaasError, match="cluster name 'My File'") as caught:
        load_bytes(GOOD.replace("name: demo\n", "").encode(), file="dir/My File.yaml")
    assert "--name" in caught.value.hint


def test_a_subnet_that_natbox_cannot_serve_is_refused_and_may_be_an_island() -> None:
    wide = GOOD.replace("192.168.2.", "172.16.2.").replace("192.168.10.0/24", "192.168.0.0/15")
    with pytest.raises(ConfigError) as caught:
        load_bytes(wide.encode(), file="f.yaml")
    (problem,) = caught.value.problems
    assert (problem.line, problem.path) == (7, f"{NET}.subnet")
    assert "NATBox serves subnets of /16 to /30" in problem.message
    load_bytes(wide.replace(", gateway: 192.168.10.1", "").encode(), file="f.yaml")


def test_a_mistake_in_one_place_hides_none_in_another() -> None:
    text = GOOD.replace("vlan: 100", "vlan: 4095").replace("gateway: 192.168.10.1}", "gateway: 192.168.11.1}")
    text = text.replace(TWO, ONE).replace("nova: {virt_driver", "nova: {virt_drivr")
    with pytest.raises(ConfigError) as caught:
        load_bytes(text.encode(), file="f.yaml")
    assert [problem.path for problem in caught.value.problems] == [
        f"{NET}.vlan",
        f"{NET}.gateway",
        "containers.ubuntu012.address",
        "nova.virt_drivr",
    ]
