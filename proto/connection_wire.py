"""Wire <-> model for connections, both directions; a part of proto.wire that only hand-overs need."""

from __future__ import annotations

from proto import natbox_pb2 as pb
from proto.errors import invalid
from proto.model import Connection, Flow, TcpProgress

_SHORT, _BYTE = 0xFFFF, 0xFF


def connection_to_wire(connection: Connection) -> pb.Connection:
    tcp = connection.tcp
    return pb.Connection(
        protocol=connection.protocol,
        original=_flow_to_wire(connection.original),
        reply=_flow_to_wire(connection.reply),
        status=connection.status,
        timeout=connection.timeout,
        mark=connection.mark,
        tcp_state=tcp.state if tcp else 0,
        tcp_scales=_pair_to_wire(tcp.scales) if tcp else 0,
        tcp_flags=_pair_to_wire(tcp.flags) if tcp else 0,
    )


def connection_from_wire(message: pb.Connection) -> Connection:
    """INVALID where a number does not fit its place in the kernel's message."""
    flows = (message.original, message.reply)
    if message.protocol > _BYTE or any(max(flow.source_port, flow.destination_port) > _SHORT for flow in flows):
        raise invalid(f"connection: protocol {message.protocol} or a port is too large")
    if message.tcp_state > _BYTE or max(message.tcp_scales, message.tcp_flags) > _SHORT:
        raise invalid(f"connection: TCP state {message.tcp_state}, its scales or its flags are too large")
    tcp = None
    if message.tcp_state:
        tcp = TcpProgress(message.tcp_state, _pair_from_wire(message.tcp_scales), _pair_from_wire(message.tcp_flags))
    return Connection(
        protocol=message.protocol,
        original=_flow_from_wire(message.original),
        reply=_flow_from_wire(message.reply),
        status=message.status,
        timeout=message.timeout,
        mark=message.mark,
        tcp=tcp,
    )


def _flow_to_wire(flow: Flow) -> pb.Flow:
    return pb.Flow(
        source=flow.source,
        destination=flow.destination,
        source_port=flow.source_port,
        destination_port=flow.destination_port,
    )


def _flow_from_wire(message: pb.Flow) -> Flow:
    return Flow(message.source, message.destination, message.source_port, message.destination_port)


def _pair_to_wire(pair: tuple[int, int]) -> int:
    return pair[0] << 8 | pair[1]


def _pair_from_wire(number: int) -> tuple[int, int]:
    return number >> 8, number & _BYTE
