"""What NATBox counts, for Prometheus: read from the kernel at each scrape, so that no restart loses anything."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import MetricsHandler
from prometheus_client.registry import Collector

from natbox.alarms import make_alarms
from natbox.gatekeeper import Gatekeeper
from proto.errors import CaasError, Code
from proto.model import Gateway, GatewayCounters, GatewayTotals

NETWORK = ("cluster", "network", "vid")


class GatekeeperCollector(Collector):
    """The metrics of one NATBox. Names begin with caas_natbox_; bytes, packets and connections are the units."""

    def __init__(self, gatekeeper: Gatekeeper) -> None:
        self._gatekeeper = gatekeeper

    def collect(self) -> Iterator[Metric]:
        """Raises CaasError where the kernel cannot be asked: the scrape fails then."""
        counted, totals = self._gatekeeper.counters()
        yield from _make_traffic(counted)
        yield from _make_drops(counted, totals)
        yield from _make_connections(counted, totals)
        yield GaugeMetricFamily(
            "caas_natbox_alarms", "Limits that are nearly used up", value=len(make_alarms(counted, totals))
        )


class _Server(ThreadingHTTPServer):
    """Does not ask the DNS for its own name, which takes ten seconds where there is none."""

    daemon_threads = True

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]


def serve_metrics(gatekeeper: Gatekeeper, *, address: str, port: int) -> None:
    """Answer scrapes of http://ADDRESS:PORT/metrics in threads, for good. CONFLICT where the port is taken."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(GatekeeperCollector(gatekeeper))
    try:
        server = _Server((address, port), MetricsHandler.factory(registry))
    except OSError as exc:
        raise CaasError(
            Code.CONFLICT, f"--metrics {address}:{port}: {exc.strerror}", hint="give an address of this machine"
        ) from exc
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


def _make_traffic(counted: list[tuple[Gateway, GatewayCounters]]) -> Iterator[Metric]:
    labels = (*NETWORK, "direction")
    packets = CounterMetricFamily("caas_natbox_packets", "Packets that passed", labels=labels)
    octets = CounterMetricFamily("caas_natbox_bytes", "Bytes of IPv4 packets that passed", labels=labels)
    for gateway, counters in counted:
        for family, out, come in (
            (packets, counters.out_packets, counters.in_packets),
            (octets, counters.out_bytes, counters.in_bytes),
        ):
            family.add_metric([*_label(gateway), "out"], out)
            family.add_metric([*_label(gateway), "in"], come)
    yield packets
    yield octets


def _make_drops(counted: list[tuple[Gateway, GatewayCounters]], totals: GatewayTotals) -> Iterator[Metric]:
    drops = CounterMetricFamily(
        "caas_natbox_drops", "Packets of a network that were dropped", labels=(*NETWORK, "reason")
    )
    for gateway, counters in counted:
        for reason, number in counters.drops:
            drops.add_metric([*_label(gateway), reason], number)
    yield drops
    others = CounterMetricFamily(
        "caas_natbox_other_drops", "Packets of no network that were dropped", labels=["reason"]
    )
    for reason, number in totals.drops:
        others.add_metric([reason], number)
    yield others


def _make_connections(counted: list[tuple[Gateway, GatewayCounters]], totals: GatewayTotals) -> Iterator[Metric]:
    now = GaugeMetricFamily("caas_natbox_connections", "Connections of a network that are open", labels=NETWORK)
    most = GaugeMetricFamily("caas_natbox_connections_limit", "Connections a network may have", labels=NETWORK)
    for gateway, counters in counted:
        now.add_metric(_label(gateway), counters.connections)
        most.add_metric(_label(gateway), counters.connections_max)
    yield now
    yield most
    yield GaugeMetricFamily(
        "caas_natbox_table_connections", "Connections in the kernel's table, ours and others", value=totals.connections
    )
    yield GaugeMetricFamily(
        "caas_natbox_table_connections_limit", "Connections that table holds", value=totals.connections_max
    )


def _label(gateway: Gateway) -> list[str]:
    return [gateway.cluster, gateway.network, str(gateway.vid)]
