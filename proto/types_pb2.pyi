from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorDetail(_message.Message):
    __slots__ = ("code", "message", "hint")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    hint: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., hint: _Optional[str] = ...) -> None: ...

class Mark(_message.Message):
    __slots__ = ("cluster", "object")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    object: str
    def __init__(self, cluster: _Optional[str] = ..., object: _Optional[str] = ...) -> None: ...

class Bridge(_message.Message):
    __slots__ = ("name", "mtu", "mark")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    name: str
    mtu: int
    mark: Mark
    def __init__(self, name: _Optional[str] = ..., mtu: _Optional[int] = ..., mark: _Optional[_Union[Mark, _Mapping]] = ...) -> None: ...

class Vlan(_message.Message):
    __slots__ = ("name", "parent", "vid", "mtu", "master", "mark")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    VID_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    MASTER_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    name: str
    parent: str
    vid: int
    mtu: int
    master: str
    mark: Mark
    def __init__(self, name: _Optional[str] = ..., parent: _Optional[str] = ..., vid: _Optional[int] = ..., mtu: _Optional[int] = ..., master: _Optional[str] = ..., mark: _Optional[_Union[Mark, _Mapping]] = ...) -> None: ...

class Ipip(_message.Message):
    __slots__ = ("name", "local", "remote", "mtu", "mark")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    REMOTE_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    name: str
    local: str
    remote: str
    mtu: int
    mark: Mark
    def __init__(self, name: _Optional[str] = ..., local: _Optional[str] = ..., remote: _Optional[str] = ..., mtu: _Optional[int] = ..., mark: _Optional[_Union[Mark, _Mapping]] = ...) -> None: ...

class Vxlan(_message.Message):
    __slots__ = ("name", "local", "mtu", "mark")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    name: str
    local: str
    mtu: int
    mark: Mark
    def __init__(self, name: _Optional[str] = ..., local: _Optional[str] = ..., mtu: _Optional[int] = ..., mark: _Optional[_Union[Mark, _Mapping]] = ...) -> None: ...

class Link(_message.Message):
    __slots__ = ("bridge", "vlan", "ipip", "vxlan")
    BRIDGE_FIELD_NUMBER: _ClassVar[int]
    VLAN_FIELD_NUMBER: _ClassVar[int]
    IPIP_FIELD_NUMBER: _ClassVar[int]
    VXLAN_FIELD_NUMBER: _ClassVar[int]
    bridge: Bridge
    vlan: Vlan
    ipip: Ipip
    vxlan: Vxlan
    def __init__(self, bridge: _Optional[_Union[Bridge, _Mapping]] = ..., vlan: _Optional[_Union[Vlan, _Mapping]] = ..., ipip: _Optional[_Union[Ipip, _Mapping]] = ..., vxlan: _Optional[_Union[Vxlan, _Mapping]] = ...) -> None: ...

class Address(_message.Message):
    __slots__ = ("link", "address")
    LINK_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    link: str
    address: str
    def __init__(self, link: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class Route(_message.Message):
    __slots__ = ("dst", "dev", "via", "src", "table", "encap")
    DST_FIELD_NUMBER: _ClassVar[int]
    DEV_FIELD_NUMBER: _ClassVar[int]
    VIA_FIELD_NUMBER: _ClassVar[int]
    SRC_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    ENCAP_FIELD_NUMBER: _ClassVar[int]
    dst: str
    dev: str
    via: str
    src: str
    table: int
    encap: str
    def __init__(self, dst: _Optional[str] = ..., dev: _Optional[str] = ..., via: _Optional[str] = ..., src: _Optional[str] = ..., table: _Optional[int] = ..., encap: _Optional[str] = ...) -> None: ...

class Rule(_message.Message):
    __slots__ = ("priority", "src", "dst", "table")
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SRC_FIELD_NUMBER: _ClassVar[int]
    DST_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    priority: int
    src: str
    dst: str
    table: int
    def __init__(self, priority: _Optional[int] = ..., src: _Optional[str] = ..., dst: _Optional[str] = ..., table: _Optional[int] = ...) -> None: ...

class Masquerade(_message.Message):
    __slots__ = ("source", "exempt", "mark")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    EXEMPT_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    source: str
    exempt: _containers.RepeatedScalarFieldContainer[str]
    mark: Mark
    def __init__(self, source: _Optional[str] = ..., exempt: _Optional[_Iterable[str]] = ..., mark: _Optional[_Union[Mark, _Mapping]] = ...) -> None: ...

class Forward(_message.Message):
    __slots__ = ("address", "port", "to", "to_port", "mark")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    TO_PORT_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    address: str
    port: int
    to: str
    to_port: int
    mark: Mark
    def __init__(self, address: _Optional[str] = ..., port: _Optional[int] = ..., to: _Optional[str] = ..., to_port: _Optional[int] = ..., mark: _Optional[_Union[Mark, _Mapping]] = ...) -> None: ...

class Nic(_message.Message):
    __slots__ = ("bridge", "port", "mac", "mtu", "address", "gateway")
    BRIDGE_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    bridge: str
    port: str
    mac: str
    mtu: int
    address: str
    gateway: str
    def __init__(self, bridge: _Optional[str] = ..., port: _Optional[str] = ..., mac: _Optional[str] = ..., mtu: _Optional[int] = ..., address: _Optional[str] = ..., gateway: _Optional[str] = ...) -> None: ...

class HostEntry(_message.Message):
    __slots__ = ("address", "names")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    address: str
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, address: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ...) -> None: ...

class Container(_message.Message):
    __slots__ = ("cluster", "hostname", "image", "nic", "hosts", "roles", "clone_of", "running", "ssh", "merge")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    NIC_FIELD_NUMBER: _ClassVar[int]
    HOSTS_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    CLONE_OF_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    SSH_FIELD_NUMBER: _ClassVar[int]
    MERGE_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    hostname: str
    image: str
    nic: Nic
    hosts: _containers.RepeatedCompositeFieldContainer[HostEntry]
    roles: _containers.RepeatedScalarFieldContainer[str]
    clone_of: str
    running: bool
    ssh: bool
    merge: bool
    def __init__(self, cluster: _Optional[str] = ..., hostname: _Optional[str] = ..., image: _Optional[str] = ..., nic: _Optional[_Union[Nic, _Mapping]] = ..., hosts: _Optional[_Iterable[_Union[HostEntry, _Mapping]]] = ..., roles: _Optional[_Iterable[str]] = ..., clone_of: _Optional[str] = ..., running: bool = ..., ssh: bool = ..., merge: bool = ...) -> None: ...

class HostState(_message.Message):
    __slots__ = ("links", "addresses", "routes", "rules", "masquerades", "containers", "forwards")
    LINKS_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    MASQUERADES_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    FORWARDS_FIELD_NUMBER: _ClassVar[int]
    links: _containers.RepeatedCompositeFieldContainer[Link]
    addresses: _containers.RepeatedCompositeFieldContainer[Address]
    routes: _containers.RepeatedCompositeFieldContainer[Route]
    rules: _containers.RepeatedCompositeFieldContainer[Rule]
    masquerades: _containers.RepeatedCompositeFieldContainer[Masquerade]
    containers: _containers.RepeatedCompositeFieldContainer[Container]
    forwards: _containers.RepeatedCompositeFieldContainer[Forward]
    def __init__(self, links: _Optional[_Iterable[_Union[Link, _Mapping]]] = ..., addresses: _Optional[_Iterable[_Union[Address, _Mapping]]] = ..., routes: _Optional[_Iterable[_Union[Route, _Mapping]]] = ..., rules: _Optional[_Iterable[_Union[Rule, _Mapping]]] = ..., masquerades: _Optional[_Iterable[_Union[Masquerade, _Mapping]]] = ..., containers: _Optional[_Iterable[_Union[Container, _Mapping]]] = ..., forwards: _Optional[_Iterable[_Union[Forward, _Mapping]]] = ...) -> None: ...

class ClusterHost(_message.Message):
    __slots__ = ("cluster", "host", "generation", "state", "taken_back")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TAKEN_BACK_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    host: str
    generation: int
    state: HostState
    taken_back: bool
    def __init__(self, cluster: _Optional[str] = ..., host: _Optional[str] = ..., generation: _Optional[int] = ..., state: _Optional[_Union[HostState, _Mapping]] = ..., taken_back: bool = ...) -> None: ...

class Neighbour(_message.Message):
    __slots__ = ("address", "mac")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    address: str
    mac: str
    def __init__(self, address: _Optional[str] = ..., mac: _Optional[str] = ...) -> None: ...

class Gateway(_message.Message):
    __slots__ = ("cluster", "network", "vid", "gateway", "neighbours", "external", "publications", "own_addresses", "limits")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    VID_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_FIELD_NUMBER: _ClassVar[int]
    PUBLICATIONS_FIELD_NUMBER: _ClassVar[int]
    OWN_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    network: str
    vid: int
    gateway: str
    neighbours: _containers.RepeatedCompositeFieldContainer[Neighbour]
    external: str
    publications: _containers.RepeatedCompositeFieldContainer[Publication]
    own_addresses: _containers.RepeatedCompositeFieldContainer[OwnAddress]
    limits: Limits
    def __init__(self, cluster: _Optional[str] = ..., network: _Optional[str] = ..., vid: _Optional[int] = ..., gateway: _Optional[str] = ..., neighbours: _Optional[_Iterable[_Union[Neighbour, _Mapping]]] = ..., external: _Optional[str] = ..., publications: _Optional[_Iterable[_Union[Publication, _Mapping]]] = ..., own_addresses: _Optional[_Iterable[_Union[OwnAddress, _Mapping]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class Publication(_message.Message):
    __slots__ = ("protocol", "port", "to", "to_port")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    TO_PORT_FIELD_NUMBER: _ClassVar[int]
    protocol: str
    port: int
    to: str
    to_port: int
    def __init__(self, protocol: _Optional[str] = ..., port: _Optional[int] = ..., to: _Optional[str] = ..., to_port: _Optional[int] = ...) -> None: ...

class OwnAddress(_message.Message):
    __slots__ = ("external", "address")
    EXTERNAL_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    external: str
    address: str
    def __init__(self, external: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("connections", "connections_per_second")
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    connections: int
    connections_per_second: int
    def __init__(self, connections: _Optional[int] = ..., connections_per_second: _Optional[int] = ...) -> None: ...

class GatewayTable(_message.Message):
    __slots__ = ("cluster", "generation", "gateways")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    GATEWAYS_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    generation: int
    gateways: _containers.RepeatedCompositeFieldContainer[Gateway]
    def __init__(self, cluster: _Optional[str] = ..., generation: _Optional[int] = ..., gateways: _Optional[_Iterable[_Union[Gateway, _Mapping]]] = ...) -> None: ...

class Action(_message.Message):
    __slots__ = ("verb", "kind", "name", "why")
    VERB_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    verb: str
    kind: str
    name: str
    why: str
    def __init__(self, verb: _Optional[str] = ..., kind: _Optional[str] = ..., name: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class Lack(_message.Message):
    __slots__ = ("what", "mend")
    WHAT_FIELD_NUMBER: _ClassVar[int]
    MEND_FIELD_NUMBER: _ClassVar[int]
    what: str
    mend: str
    def __init__(self, what: _Optional[str] = ..., mend: _Optional[str] = ...) -> None: ...

class ApplyEvent(_message.Message):
    __slots__ = ("planned", "finished", "result")
    class Planned(_message.Message):
        __slots__ = ("actions",)
        ACTIONS_FIELD_NUMBER: _ClassVar[int]
        actions: _containers.RepeatedCompositeFieldContainer[Action]
        def __init__(self, actions: _Optional[_Iterable[_Union[Action, _Mapping]]] = ...) -> None: ...
    class Finished(_message.Message):
        __slots__ = ("index", "seconds")
        INDEX_FIELD_NUMBER: _ClassVar[int]
        SECONDS_FIELD_NUMBER: _ClassVar[int]
        index: int
        seconds: float
        def __init__(self, index: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...
    class Result(_message.Message):
        __slots__ = ("generation", "kernel_writes", "container_writes", "left")
        GENERATION_FIELD_NUMBER: _ClassVar[int]
        KERNEL_WRITES_FIELD_NUMBER: _ClassVar[int]
        CONTAINER_WRITES_FIELD_NUMBER: _ClassVar[int]
        LEFT_FIELD_NUMBER: _ClassVar[int]
        generation: int
        kernel_writes: int
        container_writes: int
        left: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, generation: _Optional[int] = ..., kernel_writes: _Optional[int] = ..., container_writes: _Optional[int] = ..., left: _Optional[_Iterable[str]] = ...) -> None: ...
    PLANNED_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    planned: ApplyEvent.Planned
    finished: ApplyEvent.Finished
    result: ApplyEvent.Result
    def __init__(self, planned: _Optional[_Union[ApplyEvent.Planned, _Mapping]] = ..., finished: _Optional[_Union[ApplyEvent.Finished, _Mapping]] = ..., result: _Optional[_Union[ApplyEvent.Result, _Mapping]] = ...) -> None: ...
