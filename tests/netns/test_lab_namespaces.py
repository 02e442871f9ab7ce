"""agent.kernel.namespaces against the kernel: `ip` shows what was asked for, and the machine's own stays as it is."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from agent.kernel import namespaces
from agent.kernel.namespaces import call_in, create_namespace, delete_namespace, namespace_label, namespace_names
from proto.errors import CaasError, Code

PREFIX = f"lns{os.getpid()}"


def ip(*words: str) -> Any:
    done = subprocess.run(["ip", "-details", "-json", *words], capture_output=True, text=True, check=True)
    return json.loads(done.stdout or "[]")


def sysctl(namespace: str, key: str) -> str:
    path = f"/proc/sys/{key.replace('.', '/')}"
    argv = ["nsenter", f"--net=/run/netns/{namespace}", "cat", path]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def pair() -> Iterator[tuple[str, str]]:
    names = (f"{PREFIX}-a", f"{PREFIX}-b")
    try:
        for name in names:
            create_namespace(name, label=f"test:{name}")
        yield names
    finally:
        for name in names:
            delete_namespace(name)


def test_a_namespace_is_listed_labelled_and_has_its_loopback_up(pair: tuple[str, str]) -> None:
    listed = {entry["name"] for entry in ip("netns")}
    assert set(pair) <= listed
    assert set(pair) <= set(namespace_names())
    (loopback,) = ip("-n", pair[0], "link")
    assert loopback["ifname"] == "lo"
    assert "UP" in loopback["flags"]
    assert loopback["ifalias"] == f"test:{pair[0]}" == namespace_label(pair[0])


def test_a_name_that_is_taken_is_refused_and_what_has_it_stays(pair: tuple[str, str]) -> None:
    with pytest.raises(CaasError, match=f"namespace {pair[0]} exists") as caught:
        create_namespace(pair[0], label="other")
    assert caught.value.code is Code.CONFLICT
    assert namespace_label(pair[0]) == f"test:{pair[0]}"


def test_deleting_twice_is_no_error_and_removes_unfinished_names(pair: tuple[str, str]) -> None:
    delete_namespace(pair[0])
    delete_namespace(pair[0])
    assert pair[0] not in namespace_names()
    (namespaces.RUN_DIR / pair[0]).touch()
    assert pair[0] in namespaces.unfinished_names()
    delete_namespace(pair[0])
    assert pair[0] not in os.listdir(namespaces.RUN_DIR)


def test_a_veth_pair_joins_two_namespaces_and_is_in_no_other(pair: tuple[str, str]) -> None:
    first, second = pair
    before = {link["ifname"] for link in ip("link")}

    def plug(inside: namespaces.Inside) -> None:
        inside.create_veth("eth0", mtu=1400, peer="port", peer_namespace=second, peer_mtu=1450)
        link = inside.links()["eth0"]
        for _ in range(2):
            inside.add_address(link, ipaddress.IPv4Interface("10.0.0.1/24"))
        inside.set_link(link, mtu=1400)
        for _ in range(2):
            inside.set_route(ipaddress.IPv4Network("0.0.0.0/0"), ipaddress.IPv4Address("10.0.0.2"))

    call_in(first, plug)
    (eth0,) = (link for link in ip("-n", first, "address") if link["ifname"] == "eth0")
    (port,) = (link for link in ip("-n", second, "link") if link["ifname"] == "port")
    assert (eth0["mtu"], port["mtu"]) == (1400, 1450)
    addresses = [(a["local"], a["prefixlen"]) for a in eth0["addr_info"] if a["family"] == "inet"]
    assert addresses == [("10.0.0.1", 24)]
    defaults = [route["gateway"] for route in ip("-n", first, "route") if route["dst"] == "default"]
    assert defaults == ["10.0.0.2"]
    assert {link["ifname"] for link in ip("link")} - before == set()


def test_a_switch_has_no_filter_and_no_opinion_on_multicast(pair: tuple[str, str]) -> None:
    call_in(pair[0], lambda inside: inside.create_switch("switch", mtu=9000))
    (bridge,) = (link for link in ip("-n", pair[0], "link") if link["ifname"] == "switch")
    data = bridge["linkinfo"]["info_data"]
    assert bridge["mtu"] == 9000
    assert (data["stp_state"], data["vlan_filtering"], data["mcast_snooping"], data["forward_delay"]) == (0, 0, 0, 0)
    with pytest.raises(CaasError) as caught:
        call_in(pair[0], lambda inside: inside.create_switch("switch", mtu=9000))
    assert caught.value.code is Code.CONFLICT


def test_a_sysctl_is_set_inside_only(pair: tuple[str, str]) -> None:
    outside = sysctl(pair[1], "net.ipv4.ip_forward")
    wanted = "1" if outside == "0" else "0"
    call_in(pair[0], lambda inside: inside.set_sysctl("net.ipv4.ip_forward", wanted))
    assert sysctl(pair[0], "net.ipv4.ip_forward") == wanted
    assert sysctl(pair[1], "net.ipv4.ip_forward") == outside
    with pytest.raises(CaasError, match=r"no sysctl net\.nothing"):
        call_in(pair[0], lambda inside: inside.set_sysctl("net.nothing", "1"))


def test_the_caller_stays_where_it_is(pair: tuple[str, str]) -> None:
    before = os.stat("/proc/self/ns/net").st_ino
    within = call_in(pair[0], lambda inside: os.stat("/proc/thread-self/ns/net").st_ino)
    assert within == namespaces.namespace_id(pair[0]) != before
    with contextlib.suppress(ZeroDivisionError):
        call_in(pair[0], lambda inside: 1 // 0)
    assert os.stat("/proc/thread-self/ns/net").st_ino == before
    with pytest.raises(CaasError, match="does not exist") as caught:
        call_in(f"{PREFIX}-none", lambda inside: None)
    assert caught.value.code is Code.NOT_FOUND
