"""What is taken of a far end's sources, by the longest prefix."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from agent.kernel.tunnel_sources import judge_prefixes, subtract

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
