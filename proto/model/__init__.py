"""The vocabulary: frozen types without I/O. Construction validates; an object that exists is valid."""

from proto.model.container import Container, HostEntry, Nic
from proto.model.gateway import Gateway, GatewayCounters, GatewayPath, GatewayTable, Neighbour
from proto.model.host import ClusterHost, Datapath, HostState
from proto.model.network import (
    IPIP_OVERHEAD,
    KIND_BRIDGE,
    KIND_IPIP,
    KIND_VLAN,
    Address,
    Bridge,
    Forward,
    Ipip,
    Link,
    Masquerade,
    Route,
    Rule,
    Vlan,
    check_mtu,
    check_vid,
)
from proto.model.plan import Action, Cost, Plan, Thing, Verb, kind_of, name_of

__all__ = [
    "IPIP_OVERHEAD",
    "KIND_BRIDGE",
    "KIND_IPIP",
    "KIND_VLAN",
    "Action",
    "Address",
    "Bridge",
    "ClusterHost",
    "Container",
    "Cost",
    "Datapath",
    "Forward",
    "Gateway",
    "GatewayCounters",
    "GatewayPath",
    "GatewayTable",
    "HostEntry",
    "HostState",
    "Ipip",
    "Link",
    "Masquerade",
    "Neighbour",
    "Nic",
    "Plan",
    "Route",
    "Rule",
    "Thing",
    "Verb",
    "Vlan",
    "check_mtu",
    "check_vid",
    "kind_of",
    "name_of",
]
