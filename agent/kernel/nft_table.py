"""One nftables table by netlink itself: elements of its sets, one at a time, and the comments of its rules.

libnftables reads every set to change one, and every element to look at one; here neither costs more where there are
thousands. Formats: linux/netfilter/nf_tables.h; each part of a concatenated key is padded to words of 4 bytes.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from agent.kernel.errors import kernel_errors
from agent.kernel.netlink import KernelError
from agent.kernel.nfnetlink import (
    CREATE,
    NfNetlink,
    make_attribute,
    make_nested,
    make_string,
    read_attributes,
    read_string,
)
from agent.kernel.tally import Tally

SUBSYSTEM = 10
GETCHAIN, GETRULE, NEWSETELEM, GETSETELEM, DELSETELEM = 4, 7, 12, 13, 14
#: NFTA_SET_ELEM_LIST_*, NFTA_LIST_ELEM, NFTA_SET_ELEM_*, NFTA_DATA_VALUE, NFTA_EXPR_*, NFTA_CHAIN_*, NFTA_RULE_*
LIST_TABLE, LIST_SET, LIST_ELEMENTS, LIST_ELEM = 1, 2, 3, 1
ELEM_KEY, ELEM_DATA, ELEM_USERDATA, ELEM_EXPR = 1, 2, 6, 7
DATA_VALUE, EXPR_NAME, EXPR_DATA = 1, 1, 2
CHAIN_TABLE, CHAIN_NAME, RULE_TABLE, RULE_CHAIN, RULE_USERDATA = 1, 3, 1, 2, 7
COMMENT = 0  # nft's comment in the user data of an element or a rule: kind, length, text


@dataclass(frozen=True, slots=True)
class Expression:
    """What an element does or counts when a packet meets it ("connlimit", "counter"): attributes by number."""

    name: str
    attributes: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a set, or of a map where it has *data*. Bytes are as the kernel's registers have them."""

    key: bytes
    data: bytes = b""
    expression: Expression | None = None
    comment: str = ""


#: The name of a set, and one of its elements.
Place = tuple[str, Element]


class NftTable:
    """The table *name* of family ip, in the namespace *netns* (None: the caller's). Safe for several threads."""

    def __init__(self, name: str, *, netns: str | None = None, tally: Tally | None = None) -> None:
        self.name = name
        self._tally = tally if tally is not None else Tally()
        with kernel_errors("open nftables' netlink socket"):
            self._netlink = NfNetlink(SUBSYSTEM, netns=netns)

    def close(self) -> None:
        """A second time changes nothing."""
        self._netlink.close()

    def get(self, set_name: str, key: bytes) -> Element | None:
        """The element, or None; also where there is no such set."""
        with kernel_errors(f"look into nft set {self.name} {set_name}"):
            try:
                (message,) = self._netlink.ask(GETSETELEM, self._elements(set_name, [Element(key)]))
            except KernelError as exc:
                if exc.errno == errno.ENOENT:
                    return None
                raise
        return next(_read_elements(message))

    def list_elements(self, set_name: str) -> list[Element]:
        """Every element, in no order; none where there is no such set."""
        messages = self._dump(GETSETELEM, self._elements(set_name, ()), f"list nft set {self.name} {set_name}")
        return [element for message in messages for element in _read_elements(message)]

    def change(
        self, *, clear: Sequence[tuple[str, bytes]] = (), remove: Sequence[Place] = (), add: Sequence[Place] = ()
    ) -> None:
        """All in one transaction, or nothing. What is removed must be there; what is added may be, as it is.

        *clear* are sets and keys that packets add and the kernel takes away by itself: gone afterwards in any case.
        """
        if not clear and not remove and not add:
            return
        requests = []
        for name, key in clear:
            body = self._elements(name, [Element(key)])
            requests += [(NEWSETELEM, CREATE, body), (DELSETELEM, 0, body)]
        requests += [(DELSETELEM, 0, self._elements(name, [Element(one.key)])) for name, one in remove]
        requests += [(NEWSETELEM, CREATE, self._elements(name, [one])) for name, one in add]
        self._tally.add()
        with kernel_errors(f"change the sets of nft table {self.name}"):
            self._netlink.tell_together(requests)

    def list_rules(self) -> dict[str, list[str]] | None:
        """The comments of each chain's rules in order ("" for none), by chain. None where there is no such table."""
        what = f"list nft table {self.name}"
        found: dict[str, list[str]] = {}
        for message in self._dump(GETCHAIN, b"", what):
            read = dict(read_attributes(message))
            if read_string(read[CHAIN_TABLE]) == self.name:
                found[read_string(read[CHAIN_NAME])] = []
        if not found:
            return None
        for message in self._dump(GETRULE, make_attribute(RULE_TABLE, make_string(self.name)), what):
            read = dict(read_attributes(message))
            if read_string(read[RULE_TABLE]) == self.name:
                found.setdefault(read_string(read[RULE_CHAIN]), []).append(_read_comment(read.get(RULE_USERDATA, b"")))
        return found

    def _elements(self, set_name: str, elements: Iterable[Element]) -> bytes:
        body = make_attribute(LIST_TABLE, make_string(self.name)) + make_attribute(LIST_SET, make_string(set_name))
        listed = b"".join(make_nested(LIST_ELEM, _write_element(each)) for each in elements)
        return body + (make_nested(LIST_ELEMENTS, listed) if listed else b"")

    def _dump(self, kind: int, body: bytes, what: str) -> list[bytes]:
        with kernel_errors(what):
            try:
                return self._netlink.dump(kind, body)
            except KernelError as exc:
                if exc.errno == errno.ENOENT:
                    return []
                raise


def _write_element(element: Element) -> bytes:
    parts = [make_nested(ELEM_KEY, make_attribute(DATA_VALUE, element.key))]
    if element.data:
        parts.append(make_nested(ELEM_DATA, make_attribute(DATA_VALUE, element.data)))
    if element.comment:
        text = make_string(element.comment)
        parts.append(make_attribute(ELEM_USERDATA, bytes((COMMENT, len(text))) + text))
    if element.expression is not None:
        attributes = (make_attribute(kind, value) for kind, value in element.expression.attributes.items())
        name = make_attribute(EXPR_NAME, make_string(element.expression.name))
        parts.append(make_nested(ELEM_EXPR, name, make_nested(EXPR_DATA, *attributes)))
    return b"".join(parts)


def _read_elements(message: bytes) -> Iterator[Element]:
    for kind, listed in read_attributes(message):
        if kind == LIST_ELEMENTS:
            for _, body in read_attributes(listed):
                yield _read_element(dict(read_attributes(body)))


def _read_element(found: Mapping[int, bytes]) -> Element:
    expression = None
    if ELEM_EXPR in found:
        parts = dict(read_attributes(found[ELEM_EXPR]))
        expression = Expression(read_string(parts[EXPR_NAME]), dict(read_attributes(parts.get(EXPR_DATA, b""))))
    return Element(
        key=_read_data(found[ELEM_KEY]),
        data=_read_data(found[ELEM_DATA]) if ELEM_DATA in found else b"",
        expression=expression,
        comment=_read_comment(found.get(ELEM_USERDATA, b"")),
    )


def _read_data(value: bytes) -> bytes:
    return dict(read_attributes(value))[DATA_VALUE]


def _read_comment(userdata: bytes) -> str:
    at = 0
    while at + 2 <= len(userdata):
        kind, length = userdata[at], userdata[at + 1]
        if kind == COMMENT:
            return read_string(userdata[at + 2 : at + 2 + length])
        at += 2 + length
    return ""
