"""Connections as a kernel may track them, for properties."""

from __future__ import annotations

from hypothesis import strategies as st

from proto.model import Connection, Flow, TcpProgress

bytes_ = st.integers(0, 255)
pairs = st.tuples(bytes_, bytes_)
ports = st.integers(0, 65535)
outside = st.integers(1 << 24, 223 << 24)
inner = st.integers(240 << 24 | 1 << 16, (240 << 24 | 4095 << 16) - 1)
#: States that are not over.
progress = st.builds(TcpProgress, state=st.sampled_from((1, 2, 3, 4, 5, 6, 9)), scales=pairs, flags=pairs)


def _make(
    protocol: int, ends: tuple[int, ...], outer: tuple[int, int], tcp: TcpProgress, rest: tuple[int, ...]
) -> Connection:
    """From a container to the world, its source translated."""
    inside, far, near_port, far_port = ends
    address, port = outer
    status, timeout, mark = rest
    if protocol == 1:
        there, back = Flow(inside, far, near_port, 8 << 8), Flow(far, address, port, 0)
    else:
        there, back = Flow(inside, far, near_port, far_port), Flow(far, address, far_port, port)
    return Connection(protocol, there, back, status, timeout, mark, tcp if protocol == 6 else None)


#: Out-bound ones; IPS_CONFIRMED is set, IPS_DYING is not.
connections = st.builds(
    _make,
    st.sampled_from((1, 6, 17, 136)),
    st.tuples(inner, outside, ports, ports),
    st.tuples(outside, ports),
    progress,
    st.tuples(st.integers(0, 255).map(lambda low: low | 8), st.integers(1, 432000), st.integers(0, 2**32 - 1)),
)
