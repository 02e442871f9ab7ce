"""Channels: mTLS to an agent or NATBox, a unix socket or mTLS to the coordinator."""

from __future__ import annotations

import grpc
import grpc.aio

from proto.transport.tls import TlsFiles

#: Seconds. After a failed try to connect gRPC does not try again for as long, 20 % more or less, and calls fail at once
#: with what that try had found: `failures.look` waits it out.
BACKOFF = 0.5
#: Seconds for a connection with its handshake; a busy host, or one far away, needs more than a pause between two tries.
CONNECT_TIMEOUT = 5.0
OPTIONS = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", int(BACKOFF * 1000)),
    # By its name a pause; what gRPC does with it is MIN_CONNECT_TIMEOUT of its doc/connection-backoff.md.
    ("grpc.min_reconnect_backoff_ms", int(CONNECT_TIMEOUT * 1000)),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.enable_http_proxy", 0),
)


def open_channel(address: str, tls: TlsFiles, *, server_name: str, own_connection: bool = False) -> grpc.aio.Channel:
    """A channel to HOST:PORT whose certificate must be valid for *server_name* (a host's name, "natbox").

    gRPC may let channels to one place share a connection (its subchannel pool): not one with *own_connection*.
    """
    own = (("grpc.use_local_subchannel_pool", 1),) if own_connection else ()
    options = (*OPTIONS, ("grpc.ssl_target_name_override", server_name), *own)
    return grpc.aio.secure_channel(address, tls.channel_credentials(), options=options)


def open_unix_channel(path: str) -> grpc.aio.Channel:
    """A channel to the unix socket *path*."""
    return grpc.aio.insecure_channel(f"unix:{path}", options=(*OPTIONS, ("grpc.default_authority", "localhost")))
