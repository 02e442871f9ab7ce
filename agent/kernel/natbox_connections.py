"""The connections of one VLAN in the kernel's table (conntrack), by the mark they carry."""

from __future__ import annotations

from pyroute2.netlink import NETLINK_EXT_ACK, SOL_NETLINK
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from agent.kernel.errors import kernel_errors
from agent.kernel.inside import Resident
from agent.kernel.natbox_layout import MARK_OUT
from agent.kernel.netlink import refusals
from agent.kernel.tally import Tally

WHOLE_MARK = 0xFFFFFFFF


class Connections:
    """Conntrack of the namespace *netns* (None: the caller's). Safe for several threads. Raises CaasError."""

    def __init__(self, *, netns: str | None = None, tally: Tally | None = None) -> None:
        self._tally = tally if tally is not None else Tally()
        # As for an IPRoute (agent.kernel.netlink): the socket belongs to the thread that made it.
        self._thread = Resident(netns, name="conntrack")
        with kernel_errors("open conntrack's netlink socket"):
            self._socket = self._thread.run(_open)

    def close(self) -> None:
        """Close the socket; a second time changes nothing."""
        self._thread.close()
        self._socket.close()

    def end_all(self, vid: int) -> None:
        """End every connection of the VLAN, and no other."""
        self._tally.add()
        with kernel_errors(f"end the connections of VID {vid}"), refusals():
            self._thread.run(lambda: self._socket.flush(mark=MARK_OUT | vid, mark_mask=WHOLE_MARK))

    def count(self, vid: int) -> int:
        """How many connections the VLAN has. Walks the whole table."""
        wanted = MARK_OUT | vid
        with kernel_errors(f"count the connections of VID {vid}"), refusals():
            marks: list[int] = self._thread.run(
                lambda: [each.get_attr("CTA_MARK") for each in self._socket.dump(mark=wanted, mark_mask=WHOLE_MARK)]
            )
        return marks.count(wanted)


def _open() -> NFCTSocket:
    opened = NFCTSocket()
    opened.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
    return opened
