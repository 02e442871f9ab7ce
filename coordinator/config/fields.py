"""Reading typed values from a tree: each function returns the value, or None after reporting what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError

from coordinator.config import tree
from coordinator.config.problem import Place, Report, nearest, suggest
from proto.errors import CaasError

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


def dotted(*path: str) -> str:
    """Keys as messages show them."""
    return ".".join(part for part in path if part)


class Fields:
    """The keys of one mapping, read one by one. Unknown and missing ones are reported at construction."""

    def __init__(
        self,
        node: tree.Node,
        path: str,
        report: Report,
        *,
        place: Place,
        required: Sequence[str],
        optional: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.report = report
        self.place = place
        self._entries: Mapping[str, tree.Entry] = {}
        known = (*required, *optional)
        if not isinstance(node, tree.Mapping):
            hint = f"a mapping is needed, with {', '.join(known)}"
            report.add(node.place, path, f"found {tree.describe(node)}", hint=hint)
            return
        self._entries = node.entries
        meant = set()
        for key, entry in node.entries.items():
            if key not in known:
                report.add(entry.place, dotted(path, key), f"unknown key {key!r}", hint=suggest(key, known))
                meant.add(nearest(key, known))
        for key in required:
            if key not in node.entries and key not in meant:
                report.add(place, path, f"{key!r} is missing", hint=f"add {key}: …")

    def node(self, key: str) -> tree.Node | None:
        """What *key* leads to, or None."""
        entry = self._entries.get(key)
        return entry.node if entry else None

    def where(self, key: str) -> Place:
        """The place of *key*, or of the mapping where it is not there."""
        entry = self._entries.get(key)
        return entry.place if entry else self.place

    def wrong(self, key: str, message: str, *, hint: str = "") -> None:
        """Report a problem with the value of *key*."""
        self.report.add(self.where(key), dotted(self.path, key), message, hint=hint)

    def scalar(self, key: str, wanted: str) -> tree.Scalar | None:
        """The scalar at *key*; None where there is none, reported where it is something else (*wanted* is for
        the hint)."""
        node = self.node(key)
        if node is None:
            return None
        if not isinstance(node, tree.Scalar) or tree.is_nothing(node) or not node.text.strip():
            self.wrong(key, f"found {tree.describe(node)}", hint=f"{wanted} is needed")
            return None
        return node

    def checked(self, key: str, wanted: str, check: Callable[[str], str]) -> str | None:
        """Text that *check* (it raises CaasError) lets pass."""
        found = self.scalar(key, wanted)
        if found is None:
            return None
        try:
            return check(found.text)
        except CaasError as exc:
            self.wrong(key, exc.message, hint=exc.hint or better_name(found.text, check) or f"{wanted} is needed")
            return None

    def choice(self, key: str, known: Sequence[str]) -> str | None:
        """One of *known*."""
        found = self.scalar(key, " or ".join(known))
        if found is None:
            return None
        if found.text not in known:
            self.wrong(key, f"unknown {key} {found.text!r}", hint=suggest(found.text, known))
            return None
        return found.text

    def integer(self, key: str, *, lowest: int, highest: int, what: str) -> int | None:
        """A decimal number within *lowest*..*highest*; a quoted one is text."""
        wanted = f"a number within {lowest}..{highest}"
        found = self.scalar(key, wanted)
        if found is None:
            return None
        if not found.plain or not _INTEGER.fullmatch(found.text):
            quoted = " in quotes" if _INTEGER.fullmatch(found.text) else ""
            self.wrong(key, f"{what} {found.text!r}{quoted} is no number", hint=f"{wanted} is needed")
            return None
        number = int(found.text)
        if not lowest <= number <= highest:
            self.wrong(key, f"{what} {number}: it must be within {lowest}..{highest}", hint=f"{wanted} is needed")
            return None
        return number

    def flag(self, key: str) -> bool:
        """true or false, as YAML 1.2's core schema writes them; false where it is not there."""
        node = self.node(key)
        if node is None:
            return False
        if not isinstance(node, tree.Scalar) or not node.plain or node.text.lower() not in ("true", "false"):
            self.wrong(key, f"found {tree.describe(node)}", hint="true or false is needed")
            return False
        return node.text.lower() == "true"

    def address(self, key: str) -> IPv4Address | None:
        """An IPv4 address without prefix length."""
        found = self.scalar(key, "an IPv4 address")
        return None if found is None else self.as_address(key, found)

    def as_address(self, key: str, found: tree.Scalar) -> IPv4Address | None:
        """*found*, of the value of *key*, as an IPv4 address without prefix length."""
        try:
            return IPv4Address(found.text)
        except AddressValueError as exc:
            without = found.text.partition("/")[0]
            hint = f"write {without}" if _is_address(without) else "four numbers 0..255, as in 192.168.2.25"
            message = f"{found.text!r} is no IPv4 address: {exc}"
            self.report.add(found.place, dotted(self.path, key), message, hint=hint)
            return None

    def network(self, key: str) -> IPv4Network | None:
        """An IPv4 network with its prefix length and no host bits."""
        found = self.scalar(key, "a subnet")
        if found is None:
            return None
        try:
            if "/" not in found.text:
                raise NetmaskValueError("the prefix length is missing")
            return IPv4Network(found.text)
        except ValueError as exc:
            self.wrong(key, f"{found.text!r} is no subnet: {exc}", hint=_network_hint(found.text))
            return None

    def mapping(self, key: str, what: str) -> dict[str, tree.Entry]:
        """The entries of a mapping of named things; empty where it is missing or something else."""
        node = self.node(key)
        if node is None:
            return {}
        if not isinstance(node, tree.Mapping):
            self.wrong(key, f"found {tree.describe(node)}", hint=f"a mapping is needed: NAME: {{…}} for each {what}")
            return {}
        if not node.entries:
            self.wrong(key, "it is empty", hint=f"at least one {what} is needed")
        return node.entries

    def words(self, key: str) -> list[tree.Scalar]:
        """A list of words; one word stands for a list of itself."""
        node = self.node(key)
        if node is None:
            return []
        items = node.items if isinstance(node, tree.Sequence) else [node]
        words = [item for item in items if isinstance(item, tree.Scalar) and not tree.is_nothing(item)]
        for item in items:
            if not isinstance(item, tree.Scalar) or tree.is_nothing(item):
                self.report.add(
                    item.place, dotted(self.path, key), f"found {tree.describe(item)}", hint="a list of words is needed"
                )
        if not items:
            self.wrong(key, "the list is empty", hint="name at least one")
        return words


def better_name(name: str, check: Callable[[str], str]) -> str:
    """A hint with a name that *check* lets pass and that is nearly *name*; "" where there is none."""
    better = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    try:
        return f"write {check(better)}"
    except CaasError:
        return ""


def _is_address(text: str) -> bool:
    try:
        IPv4Address(text)
    except AddressValueError:
        return False
    return True


def _network_hint(text: str) -> str:
    try:
        return (
            f"write {IPv4Network(text, strict=False)}" if "/" in text else f"write {IPv4Network(text + '/24', False)}"
        )
    except ValueError:
        return "as in 192.168.10.0/24"
