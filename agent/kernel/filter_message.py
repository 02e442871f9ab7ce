"""A tc filter as pyroute2 reads it, with the one attribute that its own class does not know: the BPF program's id.

A subclass of tcmsg would not do: pyroute2 compiles a class's attributes once, and subclasses inherit the result.
"""

from __future__ import annotations

from typing import Any

from pyroute2.netlink import nla, nlmsg
from pyroute2.netlink.rtnl.tcmsg import tcmsg


class BpfOptions(nla):  # type: ignore[misc]
    """TCA_BPF_* of linux/pkt_cls.h, as far as they are read here."""

    nla_map = ((7, "TCA_BPF_NAME", "asciiz"), (11, "TCA_BPF_ID", "uint32"))


class FilterMessage(nlmsg):  # type: ignore[misc]
    """The options are BpfOptions where the kind is `bpf`, and text in hexadecimal elsewhere."""

    prefix = tcmsg.prefix
    fields = tcmsg.fields
    nla_map = ((1, "TCA_KIND", "asciiz"), (2, "TCA_OPTIONS", "get_options"))

    @staticmethod
    def get_options(self: Any, *_: Any, **__: Any) -> Any:  # noqa: PLW0211
        return BpfOptions if self.get_attr("TCA_KIND") == "bpf" else self.hex
