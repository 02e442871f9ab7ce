"""What NATBox refuses before it touches anything."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from natbox.table import check_table, make_sorted
from proto.errors import CaasError, Code
from proto.model import Gateway, GatewayTable, Neighbour


def near(address: str, mac: str = "02:00:00:00:00:01") -> Neighbour:
    return Neighbour(address=ipaddress.IPv4Address(address), mac=mac)


def gateway(
    vid: int = 100, *neighbours: Neighbour, cluster: str = "demo", at: str = "192.168.10.1/24", network: str = "n"
) -> Gateway:
    return Gateway(
        cluster=cluster, network=network, vid=vid, gateway=ipaddress.IPv4Interface(at), neighbours=neighbours
    )


def table(*gateways: Gateway, generation: int = 1, cluster: str = "demo") -> GatewayTable:
    return GatewayTable(cluster=cluster, generation=generation, gateways=gateways)


GOOD = table(gateway(100, near("192.168.10.50")), generation=3)


def test_a_sound_table_is_taken() -> None:
    check_table(GOOD, {})
    check_table(GOOD, {"demo": GOOD})
    check_table(replace(GOOD, generation=4), {"demo": GOOD, "other": table(gateway(101, cluster="o"), cluster="o")})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        pytest.param(gateway(at="10.0.0.1/15"), "/16 to /30", id="too large"),
        pytest.param(gateway(at="10.0.0.0/31"), "/16 to /30", id="too small"),
        pytest.param(gateway(at="192.168.10.0/24"), "is the network address", id="gateway is the network"),
        pytest.param(gateway(at="192.168.10.255/24"), "is the broadcast address", id="gateway is the broadcast"),
        pytest.param(gateway(at="0.0.1.1/24"), "not addresses", id="this network"),
        pytest.param(gateway(at="127.0.1.1/24"), "not addresses", id="loopback"),
        pytest.param(gateway(at="224.0.1.1/24"), "not addresses", id="multicast"),
        pytest.param(gateway(at="240.0.1.1/24"), "not addresses", id="where the inner ones are"),
        pytest.param(gateway(100, near("192.168.10.0")), "is the network address", id="neighbour is the network"),
        pytest.param(gateway(100, near("192.168.10.255")), "is the broadcast address", id="neighbour is the broadcast"),
        pytest.param(gateway(100, near("192.168.10.5"), near("192.168.10.5")), "twice", id="neighbour twice"),
        pytest.param(gateway(100, near("192.168.10.5", "02:00")), "MAC '02:00'", id="no MAC"),
        pytest.param(gateway(100, near("192.168.10.5", "01:00:5e:00:00:01")), "MAC '01", id="multicast MAC"),
        pytest.param(gateway(network="n" * 120), "too long", id="name"),
    ],
)
def test_an_unsound_gateway_is_invalid(wrong: Gateway, words: str) -> None:
    with pytest.raises(CaasError, match=words) as caught:
        check_table(table(wrong), {})
    assert caught.value.code is Code.INVALID
    assert wrong.name in caught.value.message


def test_an_older_generation_is_stale() -> None:
    with pytest.raises(CaasError, match="generation 2 is older than 3") as caught:
        check_table(replace(GOOD, generation=2), {"demo": GOOD})
    assert caught.value.code is Code.STALE


def test_the_same_generation_with_other_contents_is_stale() -> None:
    with pytest.raises(CaasError, match="other contents") as caught:
        check_table(table(gateway(100), generation=3), {"demo": GOOD})
    assert caught.value.code is Code.STALE


def test_order_is_no_content() -> None:
    both = gateway(100, near("192.168.10.50"), near("192.168.10.7"))
    turned = gateway(100, near("192.168.10.7"), near("192.168.10.50"))
    assert make_sorted(table(gateway(200), both)) == make_sorted(table(turned, gateway(200)))
    check_table(table(turned), {"demo": table(both)})


def test_another_clusters_vid_is_a_conflict_and_its_own_is_none() -> None:
    other = table(gateway(100, cluster="other", network="lan"), cluster="other")
    with pytest.raises(CaasError, match="demo/n: VID 100 belongs to other/lan") as caught:
        check_table(GOOD, {"other": other})
    assert caught.value.code is Code.CONFLICT
    check_table(table(gateway(101)), {"other": other})
