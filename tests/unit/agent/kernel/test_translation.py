"""The table of masquerades and forwards, against an nft that keeps rules as it was given them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kernel import masquerade
from agent.kernel.forwards import BROKEN, Forwards, read_forwards
from agent.kernel.translation import Translation
from proto.errors import CaasError, Code
from proto.marks import Mark
from proto.model import Forward, Masquerade

MARK = Mark("demo", "c1")
FORWARD = Forward(address=IPv4Address("192.0.2.1"), port=1222, to=IPv4Address("10.9.1.2"), to_port=22, mark=MARK)
MASQUERADE = Masquerade(source=IPv4Network("10.9.1.0/24"), exempt=(IPv4Network("10.9.0.0/16"),), mark=MARK)
networks = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False), st.integers(0, 2**32 - 1), st.integers(1, 32)
)
addresses = st.integers(1, 2**32 - 1).map(IPv4Address)
ports = st.integers(1, 65535)


class FakeNft:
    """One table in memory; a chain that is not empty, or not there, may not be touched."""

    def __init__(self) -> None:
        self.chains: dict[str, list[dict[str, Any]]] = {}
        self.is_there = False
        self.calls = 0
        self._handles = iter(range(1, 1 << 20))

    @property
    def rules(self) -> list[dict[str, Any]]:
        return [rule for rules in self.chains.values() for rule in rules]

    def list_table(self, family: str, name: str) -> list[dict[str, Any]]:
        assert (family, name) == ("ip", "caas")
        if not self.is_there:
            return []
        return [{"table": {}}, *({"chain": {"name": name}} for name in self.chains), *({"rule": r} for r in self.rules)]

    def change(self, commands: Sequence[Mapping[str, Any]], *, what: str) -> None:
        self.calls += 1
        for command in commands:
            ((verb, thing),) = command.items()
            ((kind, value),) = thing.items()
            getattr(self, f"_{verb}_{kind}")(value)

    def _add_table(self, _: Mapping[str, Any]) -> None:
        self.is_there = True

    def _add_chain(self, chain: Mapping[str, Any]) -> None:
        assert self.is_there
        self.chains.setdefault(chain["name"], [])

    def _add_rule(self, rule: Mapping[str, Any]) -> None:
        self.chains[rule["chain"]].append({**rule, "handle": next(self._handles)})

    def _delete_rule(self, rule: Mapping[str, Any]) -> None:
        self.chains[rule["chain"]].remove(next(r for r in self.chains[rule["chain"]] if r["handle"] == rule["handle"]))

    def _delete_chain(self, chain: Mapping[str, Any]) -> None:
        assert self.chains.pop(chain["name"]) == []

    def _delete_table(self, _: Mapping[str, Any]) -> None:
        self.chains.clear()
        self.is_there = False


class FakeConnection:
    """It has the policy rule of answers, or has it not."""

    def __init__(self) -> None:
        self.has_rule = False

    def dump(self, request: object, read: object) -> list[bool]:
        return [self.has_rule]

    def change(self, request: Callable[[FakeConnection], None]) -> None:
        request(self)

    def rule(self, command: str, **_: object) -> None:
        assert self.has_rule == (command == "del"), f"{command}: it is not so"
        self.has_rule = command == "add"


@pytest.fixture
def nft() -> FakeNft:
    return FakeNft()


@pytest.fixture
def table(nft: FakeNft) -> Translation:
    return Translation(nft)  # type: ignore[arg-type]


@pytest.fixture
def connection() -> FakeConnection:
    return FakeConnection()


@pytest.fixture
def forwards(connection: FakeConnection, table: Translation) -> Forwards:
    return Forwards(connection, table)  # type: ignore[arg-type]


@given(source=networks, exempt=st.lists(networks, max_size=4))
def test_a_masquerade_is_read_back_as_the_same(source: IPv4Network, exempt: list[IPv4Network]) -> None:
    table = Translation(FakeNft())  # type: ignore[arg-type]
    wanted = Masquerade(source=source, exempt=tuple(exempt), mark=MARK)
    masquerade.add_masquerade(table, wanted)
    assert masquerade.read_masquerades(table.list_rules()) == [wanted]
    assert read_forwards(table.list_rules()) == []


@given(address=addresses, port=ports, to=addresses, to_port=ports)
def test_a_forward_is_read_back_as_the_same(address: IPv4Address, port: int, to: IPv4Address, to_port: int) -> None:
    table = Translation(FakeNft())  # type: ignore[arg-type]
    wanted = Forward(address=address, port=port, to=to, to_port=to_port, mark=MARK)
    Forwards(FakeConnection(), table).create(wanted)  # type: ignore[arg-type]
    assert read_forwards(table.list_rules()) == [wanted]
    assert masquerade.read_masquerades(table.list_rules()) == []


def test_the_table_goes_with_its_last_rule_of_any_kind(nft: FakeNft, table: Translation, forwards: Forwards) -> None:
    masquerade.add_masquerade(table, MASQUERADE)
    forwards.create(FORWARD)
    forwards.create(replace(FORWARD, port=1223))
    masquerade.delete_masquerade(table, MASQUERADE)
    assert set(nft.chains) == {"prerouting", "output", "answers"}, "a chain goes with its last rule"
    forwards.delete(FORWARD)
    assert read_forwards(table.list_rules()) == [replace(FORWARD, port=1223)]
    masquerade.add_masquerade(table, MASQUERADE)
    forwards.delete(replace(FORWARD, port=1223))
    assert masquerade.read_masquerades(table.list_rules()) == [MASQUERADE]
    assert nft.is_there
    masquerade.delete_masquerade(table, MASQUERADE)
    assert not nft.is_there
    calls = nft.calls
    masquerade.delete_masquerade(table, MASQUERADE)
    forwards.delete(FORWARD)
    assert nft.calls == calls, "what is gone already needs no call"


def test_two_rules_that_lead_to_different_places_are_broken(
    nft: FakeNft, table: Translation, forwards: Forwards
) -> None:
    forwards.create(FORWARD)
    (rule,) = nft.chains["output"]
    rule["expr"] = [*rule["expr"][:2], {"dnat": {"addr": "10.9.1.3", "port": 22}}]
    (seen,) = read_forwards(table.list_rules())
    assert seen.to == BROKEN
    forwards.change(seen, FORWARD)
    assert read_forwards(table.list_rules()) == [FORWARD]


def test_the_way_of_answers_is_there_while_there_is_a_forward(
    table: Translation, forwards: Forwards, connection: FakeConnection
) -> None:
    second = replace(FORWARD, port=1223)
    forwards.create(FORWARD)
    forwards.create(second)
    assert connection.has_rule
    forwards.delete(FORWARD)
    assert connection.has_rule
    connection.has_rule = False
    (seen,) = forwards.observe(table.list_rules())
    assert seen.to == BROKEN
    forwards.change(seen, second)
    assert connection.has_rule
    assert forwards.observe(table.list_rules()) == [second]
    forwards.delete(second)
    assert not connection.has_rule
    assert forwards.observe(table.list_rules()) == []
    with pytest.raises(CaasError):
        forwards.create(replace(FORWARD, mark=Mark("demo", "x" * 120)))
    assert not connection.has_rule, "what was begun is taken back"


def test_rules_of_others_in_it_stay_and_keep_it(nft: FakeNft, table: Translation, forwards: Forwards) -> None:
    forwards.create(FORWARD)
    theirs = {**nft.chains["prerouting"][0], "comment": "theirs", "handle": 0}
    nft.chains["prerouting"].insert(0, theirs)
    nft.chains["extra"] = []
    assert read_forwards(table.list_rules()) == [FORWARD]
    forwards.delete(FORWARD)
    assert nft.chains == {"prerouting": [theirs], "extra": []}


def test_our_mark_on_a_rule_that_we_never_made_is_not_read(
    nft: FakeNft, table: Translation, forwards: Forwards
) -> None:
    forwards.create(FORWARD)
    masquerade.add_masquerade(table, MASQUERADE)
    for rule in nft.rules:
        rule["expr"] = []
    assert read_forwards(table.list_rules()) == []
    assert masquerade.read_masquerades(table.list_rules()) == []


@pytest.mark.parametrize("chain", ["prerouting", "output", "answers"])
@pytest.mark.parametrize("how", ["gone", "twice", "another's"])
def test_a_forward_that_was_cut_is_seen_and_mended(
    nft: FakeNft, table: Translation, forwards: Forwards, chain: str, how: str
) -> None:
    forwards.create(FORWARD)
    (rule,) = nft.chains[chain]
    if how == "another's":
        rule["comment"] = "caas:demo:another"
    else:
        nft.chains[chain] = [] if how == "gone" else [rule, {**rule, "handle": 1 << 30}]
    (seen,) = read_forwards(table.list_rules())
    assert (seen.name, seen.to) == (FORWARD.name, BROKEN)
    forwards.change(seen, FORWARD)
    assert read_forwards(table.list_rules()) == [FORWARD]
    assert [len(rules) for rules in nft.chains.values()] == [1, 1, 1]
    forwards.change(FORWARD, seen)
    assert read_forwards(table.list_rules()) == [FORWARD], "an undo does not break it again"


@pytest.mark.parametrize("chain", ["postrouting", "forward"])
@pytest.mark.parametrize("how", ["gone", "half gone", "twice", "another's"])
def test_a_masquerade_that_was_cut_is_seen_and_mended(nft: FakeNft, table: Translation, chain: str, how: str) -> None:
    masquerade.add_masquerade(table, MASQUERADE)
    rules = nft.chains[chain]
    if how == "another's":
        rules[0]["comment"] = "caas:demo:another"
    else:
        again = [{**rule, "handle": rule["handle"] + 100} for rule in rules]
        nft.chains[chain] = {"gone": [], "half gone": rules[1:], "twice": rules + again}[how]
    (seen,) = masquerade.read_masquerades(table.list_rules())
    assert (seen.source, seen.exempt) == (MASQUERADE.source, masquerade.BROKEN)
    masquerade.replace_masquerade(table, seen, MASQUERADE)
    assert masquerade.read_masquerades(table.list_rules()) == [MASQUERADE]
    assert {name: len(each) for name, each in nft.chains.items()} == {"postrouting": 1, "forward": 2}
    masquerade.replace_masquerade(table, MASQUERADE, seen)
    assert masquerade.read_masquerades(table.list_rules()) == [MASQUERADE], "an undo does not break it again"


def test_a_change_is_one_transaction_and_leaves_the_others(
    nft: FakeNft, table: Translation, forwards: Forwards
) -> None:
    other, second = replace(FORWARD, port=1223), replace(MASQUERADE, source=IPv4Network("10.9.2.0/24"))
    for forward in (FORWARD, other):
        forwards.create(forward)
    for each in (MASQUERADE, second):
        masquerade.add_masquerade(table, each)
    calls = nft.calls
    moved = replace(FORWARD, to=IPv4Address("10.9.1.7"), to_port=2222, mark=Mark("demo", "c7"))
    forwards.change(FORWARD, moved)
    bare = replace(MASQUERADE, exempt=(), mark=Mark("demo", "new"))
    masquerade.replace_masquerade(table, MASQUERADE, bare)
    assert nft.calls == calls + 2
    assert set(read_forwards(table.list_rules())) == {moved, other}
    assert set(masquerade.read_masquerades(table.list_rules())) == {bare, second}


def test_what_is_there_or_is_not_is_said(table: Translation, forwards: Forwards) -> None:
    with pytest.raises(CaasError, match=r"change forward 192\.0\.2\.1:1222: there is no such rule") as caught:
        forwards.change(FORWARD, FORWARD)
    assert caught.value.code is Code.NOT_FOUND
    with pytest.raises(CaasError, match=r"change masquerade 10\.9\.1\.0/24: there is no such rule") as caught:
        masquerade.replace_masquerade(table, MASQUERADE, MASQUERADE)
    assert caught.value.code is Code.NOT_FOUND
    forwards.create(FORWARD)
    masquerade.add_masquerade(table, MASQUERADE)
    with pytest.raises(CaasError, match=r"create forward 192\.0\.2\.1:1222") as caught:
        forwards.create(replace(FORWARD, to=IPv4Address("10.9.1.7")))
    assert caught.value.code is Code.CONFLICT
    with pytest.raises(CaasError, match=r"create masquerade 10\.9\.1\.0/24") as caught:
        masquerade.add_masquerade(table, MASQUERADE)
    assert caught.value.code is Code.CONFLICT


def test_a_mark_that_nft_would_cut_is_refused(nft: FakeNft, table: Translation, forwards: Forwards) -> None:
    long = Mark("demo", "x" * 120)
    with pytest.raises(CaasError, match="longer than 127 bytes") as caught:
        masquerade.add_masquerade(table, replace(MASQUERADE, mark=long))
    assert caught.value.code is Code.INVALID
    with pytest.raises(CaasError, match="longer than 127 bytes") as caught:
        forwards.create(replace(FORWARD, mark=long))
    assert caught.value.code is Code.INVALID
    assert nft.calls == 0
