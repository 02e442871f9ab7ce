"""What NATBox refuses before it touches anything."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from agent.kernel.natbox_layout import Surroundings
from natbox.table import check_table, make_sorted
from natbox.tables import Tables
from proto.errors import CaasError, Code
from proto.model import Gateway, GatewayTable, Neighbour, OwnAddress, Publication


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


def check(desired: GatewayTable, *others: GatewayTable, around: Surroundings | None = None) -> None:
    """Beside *others*, on a machine that has nothing where *around* does not say otherwise."""
    check_table(desired, Tables(others), around or Surroundings())


GOOD = table(gateway(100, near("192.168.10.50")), generation=3)


def test_a_sound_table_is_taken() -> None:
    check(GOOD)
    check(GOOD, GOOD)
    check(replace(GOOD, generation=4), GOOD, table(gateway(101, cluster="o"), cluster="o"))


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
        check(table(wrong))
    assert caught.value.code is Code.INVALID
    assert wrong.name in caught.value.message


def test_an_older_generation_is_stale() -> None:
    with pytest.raises(CaasError, match="generation 2 is older than 3") as caught:
        check(replace(GOOD, generation=2), GOOD)
    assert caught.value.code is Code.STALE


def test_the_same_generation_with_other_contents_is_stale() -> None:
    with pytest.raises(CaasError, match="other contents") as caught:
        check(table(gateway(100), generation=3), GOOD)
    assert caught.value.code is Code.STALE


def test_order_is_no_content() -> None:
    both = gateway(100, near("192.168.10.50"), near("192.168.10.7"))
    turned = gateway(100, near("192.168.10.7"), near("192.168.10.50"))
    assert make_sorted(table(gateway(200), both)) == make_sorted(table(turned, gateway(200)))
    check(table(turned), table(both))


def test_another_clusters_vid_is_a_conflict_and_its_own_is_none() -> None:
    other = table(gateway(100, cluster="other", network="lan"), cluster="other")
    with pytest.raises(CaasError, match="demo/n: VID 100 belongs to other/lan") as caught:
        check(GOOD, other)
    assert caught.value.code is Code.CONFLICT
    check(table(gateway(101)), other)


EXTERNAL, OTHER_EXTERNAL = ipaddress.IPv4Address("203.0.113.7"), ipaddress.IPv4Address("203.0.113.8")
HOME = ipaddress.IPv4Address("192.168.10.50")
WEB = Publication(protocol="tcp", port=80, to=HOME, to_port=8080)


def publisher(
    vid: int = 100,
    *publications: Publication,
    cluster: str = "demo",
    network: str = "n",
    external: ipaddress.IPv4Address | None = None,
    own: ipaddress.IPv4Address | None = None,
) -> Gateway:
    made = gateway(vid, near(str(HOME)), cluster=cluster, network=network)
    addresses = () if own is None else (OwnAddress(external=own, address=HOME),)
    return replace(made, external=external, publications=publications, own_addresses=addresses)


def of_other(vid: int = 200, *publications: Publication, **more: ipaddress.IPv4Address) -> GatewayTable:
    return table(publisher(vid, *publications, cluster="other", **more), cluster="other")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mine", "other", "words"),
    [
        pytest.param(
            publisher(100, WEB), of_other(200, WEB), "tcp port 80 of the uplink's own address belongs to other/n",
            id="a port of the uplink's",
        ),
        pytest.param(
            publisher(100, external=EXTERNAL), of_other(200, external=EXTERNAL),
            "external address 203.0.113.7 belongs to other/n", id="an external address",
        ),
        pytest.param(
            publisher(100, own=EXTERNAL), of_other(200, external=EXTERNAL), "external address 203.0.113.7 belongs to",
            id="own and external",
        ),
        pytest.param(
            publisher(100, own=EXTERNAL), of_other(200, own=EXTERNAL), "external address 203.0.113.7 belongs to",
            id="an own address",
        ),
    ],
)  # fmt: skip
def test_what_another_cluster_publishes_is_a_conflict(mine: Gateway, other: GatewayTable, words: str) -> None:
    with pytest.raises(CaasError, match=words) as caught:
        check(table(mine), other)
    assert caught.value.code is Code.CONFLICT
    assert caught.value.hint


def test_other_ports_addresses_and_protocols_are_no_conflict() -> None:
    udp = replace(WEB, protocol="udp")
    check(table(publisher(100, WEB)), of_other(200, udp))
    check(table(publisher(100, WEB)), of_other(200, replace(WEB, port=81)))
    check(table(publisher(100, WEB, external=EXTERNAL)), of_other(200, WEB, external=OTHER_EXTERNAL))
    check(table(publisher(100, WEB, external=EXTERNAL)), of_other(200, WEB))
    again = table(publisher(100, WEB, external=EXTERNAL), generation=2)
    check(again, table(publisher(100, WEB, external=EXTERNAL)))


def test_networks_of_one_cluster_share_an_external_address_but_no_port_of_it() -> None:
    one, other = (publisher(vid, network=f"n{vid}", external=EXTERNAL) for vid in (100, 101))
    check(table(one, other))
    with pytest.raises(CaasError, match=r"demo/n101: tcp port 80 of 203\.0\.113\.7 belongs to demo/n100") as caught:
        check(table(replace(one, publications=(WEB,)), replace(other, publications=(WEB,))))
    assert caught.value.code is Code.CONFLICT
    with pytest.raises(CaasError, match=r"external address 203\.0\.113\.7 belongs to demo/n100"):
        check(table(one, publisher(101, network="n101", own=EXTERNAL)))


@pytest.mark.parametrize(
    ("external", "words"),
    [
        ("224.0.0.5", "not an address that a host may have"),
        ("127.0.0.1", "not an address that a host may have"),
        ("240.100.10.50", "not an address that a host may have"),
        ("0.0.0.1", "not an address that a host may have"),
        ("203.0.113.1", "is NATBox's own"),
        ("192.168.2.24", "is NATBox's own"),
        ("192.168.10.99", "is inside 192.168.10.0/24"),
    ],
)
def test_an_address_that_natbox_cannot_have_is_invalid(external: str, words: str) -> None:
    own = frozenset(ipaddress.IPv4Address(each) for each in ("203.0.113.1", "192.168.2.24"))
    for wrong in (
        publisher(100, external=ipaddress.IPv4Address(external)),
        publisher(100, own=ipaddress.IPv4Address(external)),
    ):
        with pytest.raises(CaasError, match=words) as caught:
            check(table(wrong), around=Surroundings(addresses=own))
        assert caught.value.code is Code.INVALID


def test_a_port_that_somebody_listens_at_is_refused_while_it_is_new() -> None:
    around = Surroundings(listening=frozenset({("tcp", 80)}))
    with pytest.raises(
        CaasError, match="tcp port 80 of the uplink's own address: somebody on NATBox's machine"
    ) as seen:
        check(table(publisher(100, WEB)), around=around)
    assert seen.value.code is Code.CONFLICT
    check(table(publisher(100, replace(WEB, protocol="udp"))), around=around)
    check(table(publisher(100, WEB, external=EXTERNAL)), around=around)
    check(table(publisher(100, WEB), generation=2), table(publisher(100, WEB)), around=around)


def test_tables_forget_what_a_removed_or_changed_table_had() -> None:
    tables = Tables([of_other(200, WEB)])
    tables.put(of_other(201, replace(WEB, port=81)))
    assert (tables.find_vid(200), tables.find_vid(201)) == (None, tables["other"].gateways[0])
    check_table(table(publisher(200, WEB)), tables, Surroundings())
    tables.remove("other")
    check_table(table(publisher(201, replace(WEB, port=81))), tables, Surroundings())
    assert not list(tables.gateways())
