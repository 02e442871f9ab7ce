"""Forwarded ports: three rules of nft table `ip caas` for each Forward, and one policy rule for all of them.

Two translate what comes in and what the host itself sends. The source stays the client's own; answers pass the host
again, which the containers' default route leads to. The third marks them: a client may be a host that containers are
tunnelled to, and its answers have to leave as the host's, by the way that they were asked by.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

from agent.kernel.errors import take_back
from agent.kernel.layer3 import add_answer_rule, delete_answer_rule, has_answer_rule
from agent.kernel.netlink import Netlink
from agent.kernel.translation import Seen, Translation, Wanted, header, match
from proto.errors import CaasError, Code
from proto.marks import ANSWER_MARK
from proto.model import Forward

ASKED, ANSWERED = ("output", "prerouting"), "answers"
#: Where a forward leads that lacks one of its rules, or has them differ: nowhere. The next plan changes it.
BROKEN = IPv4Address("0.0.0.0")
_ADDRESS, _PORT = header("ip", "daddr"), header("tcp", "dport")
_ASKED_ADDRESS = {"ct": {"key": "ip daddr", "dir": "original"}}
_ASKED_PORT = {"ct": {"key": "proto-dst", "dir": "original"}}
_MARK = {"meta": {"key": "mark"}}


class Forwards:
    """Those of the namespace that *connection* and *table* work in. Raises CaasError and KernelError."""

    def __init__(self, connection: Netlink, table: Translation) -> None:
        self._connection = connection
        self._table = table

    def observe(self, rules: Sequence[Seen]) -> list[Forward]:
        """Those among *rules*, the table's of ours."""
        found = read_forwards(rules)
        is_whole = not found or has_answer_rule(self._connection)
        return found if is_whole else [replace(each, to=BROKEN, to_port=each.port) for each in found]

    def create(self, wanted: Forward) -> None:
        """CONFLICT where its address and port have a rule."""
        if self._find(wanted):
            raise CaasError(Code.CONFLICT, f"create forward {wanted.name}: it is forwarded already")
        self._make(wanted, what=f"create forward {wanted.name}", remove=())

    def change(self, before: Forward, after: Forward) -> None:
        """NOT_FOUND where *before* has no rule. What was mended is never broken again: an undo finds nothing to do."""
        found = self._find(before)
        if not found:
            raise CaasError(Code.NOT_FOUND, f"change forward {before.name}: there is no such rule")
        if after.to != BROKEN:
            self._make(after, what=f"change forward {after.name}", remove=found)

    def delete(self, unwanted: Forward) -> None:
        """Already gone is success."""
        found = self._find(unwanted)
        self._table.change(what=f"delete forward {unwanted.name}", mark=unwanted.mark, remove=found)
        if not read_forwards(self._table.list_rules()) and has_answer_rule(self._connection):
            delete_answer_rule(self._connection)

    def _make(self, wanted: Forward, *, what: str, remove: Sequence[Seen]) -> None:
        with ExitStack() as undo:
            if not has_answer_rule(self._connection):
                add_answer_rule(self._connection)
                undo.callback(take_back, delete_answer_rule, self._connection)
            self._table.change(what=what, mark=wanted.mark, make=make_rules(wanted), remove=remove)
            undo.pop_all()

    def _find(self, thing: Forward) -> list[Seen]:
        return [rule for rule in self._table.list_rules() if _read_asked(rule) == (str(thing.address), thing.port)]


def make_rules(wanted: Forward) -> list[Wanted]:
    """What the table has of it."""
    asked = (
        match(_ADDRESS, str(wanted.address)),
        match(_PORT, wanted.port),
        {"dnat": {"addr": str(wanted.to), "port": wanted.to_port}},
    )
    answered = (
        match({"meta": {"key": "l4proto"}}, "tcp"),
        match({"ct": {"key": "direction"}}, "reply"),
        match(_ASKED_ADDRESS, str(wanted.address)),
        match(_ASKED_PORT, wanted.port),
        match({"ct": {"key": "status"}}, "dnat", operator="in"),
        {"mangle": {"key": _MARK, "value": {"|": [_MARK, ANSWER_MARK]}}},
    )
    return [*(Wanted(chain, asked) for chain in ASKED), Wanted(ANSWERED, answered)]


def read_forwards(rules: Sequence[Seen]) -> list[Forward]:
    """Those among *rules*."""
    found: dict[tuple[str, int], list[Seen]] = {}
    for rule in rules:
        if asked := _read_asked(rule):
            found.setdefault(asked, []).append(rule)
    return [_join(address, port, seen) for (address, port), seen in found.items()]


def _join(address: str, port: int, rules: Sequence[Seen]) -> Forward:
    """What *rules*, all that ask for the same, are together."""
    targets = [target for rule in rules if (target := rule.says("dnat"))]
    is_whole = (
        sorted(rule.chain for rule in rules) == sorted((*ASKED, ANSWERED))
        and all(target == targets[0] for target in targets)
        and len({rule.mark for rule in rules}) == 1
    )
    leads: dict[str, Any] = targets[0] if is_whole else {"addr": str(BROKEN), "port": port}
    return Forward(
        address=IPv4Address(address),
        port=port,
        to=IPv4Address(leads["addr"]),
        to_port=leads["port"],
        mark=rules[0].mark,
    )


def _read_asked(rule: Seen) -> tuple[str, int] | None:
    """Address and port of the forward that it is of; None for our mark on a rule that is another thing's."""
    if rule.chain in ASKED and rule.says("dnat"):
        addresses, ports = rule.matches(_ADDRESS), rule.matches(_PORT)
    elif rule.chain == ANSWERED and rule.says("mangle"):
        addresses, ports = rule.matches(_ASKED_ADDRESS), rule.matches(_ASKED_PORT)
    else:
        return None
    if len(addresses) != 1 or len(ports) != 1 or not isinstance(addresses[0], str) or not isinstance(ports[0], int):
        return None
    return addresses[0], ports[0]
