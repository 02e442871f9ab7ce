"""What is taken of a far end's sources, by the longest prefix; and what goes to one as it is."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kernel.forwards import BROKEN as NOWHERE
from agent.kernel.masquerade import BROKEN
from agent.kernel.tunnel_sources import Translated, judge_prefixes, subtract
from proto.marks import Mark
from proto.model import Masquerade

#: Few bits that differ, so that blocks and addresses lie in each other.
addresses = st.integers(0, 7).map(lambda low: IPv4Address("10.9.0.0") + low)
blocks = st.builds(lambda address, length: IPv4Network((address, length), strict=False), addresses, st.integers(29, 32))
sets = st.frozensets(blocks, max_size=3)


@given(sets, sets, addresses)
def test_a_source_is_theirs_where_they_have_it_and_we_have_not(
    sources: frozenset[IPv4Network], own: frozenset[IPv4Network], address: IPv4Address
) -> None:
    verdicts = judge_prefixes(sources, own)
    prefixes = [each for each in verdicts if address in each]
    theirs = any(address in each for each in sources)
    assert bool(prefixes) == theirs
    if prefixes:
        ours = any(address in each for each in own)
        assert verdicts[max(prefixes, key=lambda each: each.prefixlen)] == (not ours)


@given(sets, sets, addresses)
def test_what_is_subtracted_is_gone_and_nothing_else(
    networks: frozenset[IPv4Network], away: frozenset[IPv4Network], address: IPv4Address
) -> None:
    wanted = any(address in each for each in networks) and not any(address in each for each in away)
    assert any(address in each for each in subtract(networks, away)) == wanted


MARK = Mark("demo", "lan")
BLOCK = IPv4Network("10.9.1.0/24")
EXEMPT = (IPv4Network("10.9.0.0/16"),)


@pytest.mark.parametrize(
    ("masquerades", "ways"),
    [
        ((), (IPv4Network("0.0.0.0/0"),)),
        (((IPv4Network("10.8.0.0/16"), ()),), (IPv4Network("0.0.0.0/0"),)),
        (((BLOCK, EXEMPT),), EXEMPT),
        (((BLOCK, ()),), ()),
        (((IPv4Network("10.9.1.128/25"), EXEMPT),), EXEMPT),
        (((BLOCK, EXEMPT), (IPv4Network("10.9.0.0/16"), ())), ()),
        (((BLOCK, BROKEN),), ()),
    ],
    ids=["none", "another's", "exempt", "all", "of a part", "two", "half a one"],
)
def test_what_goes_as_it_is(
    masquerades: tuple[tuple[IPv4Network, tuple[IPv4Network, ...]], ...], ways: tuple[IPv4Network, ...]
) -> None:
    translated = Translated(
        masquerades=tuple(Masquerade(source=source, exempt=exempt, mark=MARK) for source, exempt in masquerades)
    )
    assert translated.find_ways(BLOCK) == ways


def test_while_a_forward_is_broken_every_container_may_be_its_target() -> None:
    address = IPv4Address("10.9.1.2")
    assert Translated().leaves_alone(address)
    assert Translated(targets=frozenset({IPv4Address("10.9.1.3")})).leaves_alone(address)
    assert not Translated(targets=frozenset({address})).leaves_alone(address)
    assert not Translated(targets=frozenset({NOWHERE})).leaves_alone(address)
