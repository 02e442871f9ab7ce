"""Connections on the wire: every one survives the way there and back; what is too large for the kernel is refused."""

from __future__ import annotations

import pytest
from hypothesis import given

from proto import natbox_pb2 as pb
from proto.connection_wire import connection_from_wire, connection_to_wire
from proto.errors import CaasError, Code
from proto.model import Connection
from tests.support.connections import connections


@given(connections)
def test_a_connection_survives_the_way(connection: Connection) -> None:
    text = connection_to_wire(connection).SerializeToString()
    assert connection_from_wire(pb.Connection.FromString(text)) == connection


@pytest.mark.parametrize(
    "message",
    [
        pb.Connection(protocol=256),
        pb.Connection(protocol=6, original=pb.Flow(source_port=65536)),
        pb.Connection(protocol=6, reply=pb.Flow(destination_port=65536)),
        pb.Connection(protocol=6, tcp_state=256),
        pb.Connection(protocol=6, tcp_state=3, tcp_scales=65536),
        pb.Connection(protocol=6, tcp_state=3, tcp_flags=65536),
    ],
)
def test_what_is_too_large_is_refused(message: pb.Connection) -> None:
    with pytest.raises(CaasError, match="too large") as caught:
        connection_from_wire(message)
    assert caught.value.code is Code.INVALID
