"""Wire <-> model for findings, both directions; a part of proto.wire that only `Examine` needs."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Network

from proto import agent_pb2 as pb
from proto.model import Cause, Finding


def finding_to_wire(finding: Finding) -> pb.Finding:
    return pb.Finding(
        cause=finding.cause.value,
        object=finding.object,
        text=finding.text,
        hint=finding.hint,
        near=finding.near,
        far=[str(network) for network in finding.far],
        crossing=finding.crossing,
        sure=finding.sure,
    )


def finding_from_wire(message: pb.Finding) -> Finding:
    """A cause that is not known here is a newer agent's: UNKNOWN, and its text says it."""
    cause = Cause.UNKNOWN
    with contextlib.suppress(ValueError):
        cause = Cause(message.cause)
    return Finding(
        cause=cause,
        object=message.object,
        text=message.text,
        hint=message.hint,
        near=tuple(message.near),
        far=tuple(map(IPv4Network, message.far)),
        crossing=message.crossing,
        sure=message.sure,
    )
