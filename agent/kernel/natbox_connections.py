"""The connections of one VLAN in the kernel's table (conntrack), by the mark they carry. nfnetlink_conntrack.h."""

from __future__ import annotations

import socket
import struct

from agent.kernel.errors import kernel_errors
from agent.kernel.natbox_layout import MARK_OUT
from agent.kernel.netlink import Netlink, attr, parse_attrs

NETLINK_NETFILTER = 12
CT_GET, CT_DELETE = 1 << 8 | 1, 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK is 1
CTA_MARK, CTA_MARK_MASK = 8, 21
#: nfgenmsg: family, version, resource id. Version 1 makes the family count when connections are removed.
_HEAD = struct.pack("=BBH", socket.AF_INET, 1, 0)


class Connections:
    """Conntrack of the namespace *netns* (None: the caller's)."""

    def __init__(self, connection: Netlink) -> None:
        self._connection = connection

    def end_all(self, vid: int) -> None:
        """End every connection of the VLAN, and no other."""
        with kernel_errors(f"end the connections of VID {vid}"):
            self._connection.change(CT_DELETE, _HEAD + _of(vid))

    def count(self, vid: int) -> int:
        """How many connections the VLAN has. Walks the whole table."""
        with kernel_errors(f"count the connections of VID {vid}"):
            payloads = self._connection.dump(CT_GET, _HEAD + _of(vid))
        wanted = struct.pack(">I", MARK_OUT | vid)
        return sum(parse_attrs(payload, len(_HEAD)).get(CTA_MARK) == wanted for payload in payloads)


def _of(vid: int) -> bytes:
    return attr(CTA_MARK, struct.pack(">I", MARK_OUT | vid)) + attr(CTA_MARK_MASK, struct.pack(">I", 0xFFFFFFFF))
