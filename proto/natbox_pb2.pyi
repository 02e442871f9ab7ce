from proto import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NatBoxProbeRequest(_message.Message):
    __slots__ = ("desired",)
    DESIRED_FIELD_NUMBER: _ClassVar[int]
    desired: _types_pb2.GatewayTable
    def __init__(self, desired: _Optional[_Union[_types_pb2.GatewayTable, _Mapping]] = ...) -> None: ...

class NatBoxProbeReply(_message.Message):
    __slots__ = ("version", "kernel", "trunk", "uplink", "lacks", "uplink_addresses", "trunk_mtu", "generations", "removed")
    class GenerationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class RemovedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    TRUNK_FIELD_NUMBER: _ClassVar[int]
    UPLINK_FIELD_NUMBER: _ClassVar[int]
    LACKS_FIELD_NUMBER: _ClassVar[int]
    UPLINK_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    TRUNK_MTU_FIELD_NUMBER: _ClassVar[int]
    GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    version: str
    kernel: str
    trunk: str
    uplink: str
    lacks: _containers.RepeatedCompositeFieldContainer[_types_pb2.Lack]
    uplink_addresses: _containers.RepeatedScalarFieldContainer[str]
    trunk_mtu: int
    generations: _containers.ScalarMap[str, int]
    removed: _containers.ScalarMap[str, int]
    def __init__(self, version: _Optional[str] = ..., kernel: _Optional[str] = ..., trunk: _Optional[str] = ..., uplink: _Optional[str] = ..., lacks: _Optional[_Iterable[_Union[_types_pb2.Lack, _Mapping]]] = ..., uplink_addresses: _Optional[_Iterable[str]] = ..., trunk_mtu: _Optional[int] = ..., generations: _Optional[_Mapping[str, int]] = ..., removed: _Optional[_Mapping[str, int]] = ...) -> None: ...

class NatBoxObserveRequest(_message.Message):
    __slots__ = ("cluster",)
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    def __init__(self, cluster: _Optional[str] = ...) -> None: ...

class NatBoxObserveReply(_message.Message):
    __slots__ = ("tables",)
    TABLES_FIELD_NUMBER: _ClassVar[int]
    tables: _containers.RepeatedCompositeFieldContainer[_types_pb2.GatewayTable]
    def __init__(self, tables: _Optional[_Iterable[_Union[_types_pb2.GatewayTable, _Mapping]]] = ...) -> None: ...

class NatBoxApplyRequest(_message.Message):
    __slots__ = ("desired", "dry_run")
    DESIRED_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    desired: _types_pb2.GatewayTable
    dry_run: bool
    def __init__(self, desired: _Optional[_Union[_types_pb2.GatewayTable, _Mapping]] = ..., dry_run: bool = ...) -> None: ...

class NatBoxCountersRequest(_message.Message):
    __slots__ = ("cluster",)
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    def __init__(self, cluster: _Optional[str] = ...) -> None: ...

class NatBoxCountersReply(_message.Message):
    __slots__ = ("counters", "trunk_drops", "connections", "connections_max", "alarms")
    class PerVid(_message.Message):
        __slots__ = ("vid", "out_packets", "out_bytes", "in_packets", "in_bytes", "drops", "cluster", "network", "connections", "connections_max")
        class DropsEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: int
            def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
        VID_FIELD_NUMBER: _ClassVar[int]
        OUT_PACKETS_FIELD_NUMBER: _ClassVar[int]
        OUT_BYTES_FIELD_NUMBER: _ClassVar[int]
        IN_PACKETS_FIELD_NUMBER: _ClassVar[int]
        IN_BYTES_FIELD_NUMBER: _ClassVar[int]
        DROPS_FIELD_NUMBER: _ClassVar[int]
        CLUSTER_FIELD_NUMBER: _ClassVar[int]
        NETWORK_FIELD_NUMBER: _ClassVar[int]
        CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
        CONNECTIONS_MAX_FIELD_NUMBER: _ClassVar[int]
        vid: int
        out_packets: int
        out_bytes: int
        in_packets: int
        in_bytes: int
        drops: _containers.ScalarMap[str, int]
        cluster: str
        network: str
        connections: int
        connections_max: int
        def __init__(self, vid: _Optional[int] = ..., out_packets: _Optional[int] = ..., out_bytes: _Optional[int] = ..., in_packets: _Optional[int] = ..., in_bytes: _Optional[int] = ..., drops: _Optional[_Mapping[str, int]] = ..., cluster: _Optional[str] = ..., network: _Optional[str] = ..., connections: _Optional[int] = ..., connections_max: _Optional[int] = ...) -> None: ...
    class TrunkDropsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    TRUNK_DROPS_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_MAX_FIELD_NUMBER: _ClassVar[int]
    ALARMS_FIELD_NUMBER: _ClassVar[int]
    counters: _containers.RepeatedCompositeFieldContainer[NatBoxCountersReply.PerVid]
    trunk_drops: _containers.ScalarMap[str, int]
    connections: int
    connections_max: int
    alarms: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, counters: _Optional[_Iterable[_Union[NatBoxCountersReply.PerVid, _Mapping]]] = ..., trunk_drops: _Optional[_Mapping[str, int]] = ..., connections: _Optional[int] = ..., connections_max: _Optional[int] = ..., alarms: _Optional[_Iterable[str]] = ...) -> None: ...

class NatBoxExplainRequest(_message.Message):
    __slots__ = ("from_uplink", "vid", "source", "destination", "protocol", "source_port", "destination_port", "source_mac")
    FROM_UPLINK_FIELD_NUMBER: _ClassVar[int]
    VID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SOURCE_PORT_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_PORT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_MAC_FIELD_NUMBER: _ClassVar[int]
    from_uplink: bool
    vid: int
    source: str
    destination: str
    protocol: str
    source_port: int
    destination_port: int
    source_mac: str
    def __init__(self, from_uplink: bool = ..., vid: _Optional[int] = ..., source: _Optional[str] = ..., destination: _Optional[str] = ..., protocol: _Optional[str] = ..., source_port: _Optional[int] = ..., destination_port: _Optional[int] = ..., source_mac: _Optional[str] = ...) -> None: ...

class NatBoxExplainReply(_message.Message):
    __slots__ = ("verdict", "reason", "cluster", "network", "steps")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    verdict: str
    reason: str
    cluster: str
    network: str
    steps: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, verdict: _Optional[str] = ..., reason: _Optional[str] = ..., cluster: _Optional[str] = ..., network: _Optional[str] = ..., steps: _Optional[_Iterable[str]] = ...) -> None: ...

class NatBoxDestroyRequest(_message.Message):
    __slots__ = ("cluster", "dry_run", "generation")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    dry_run: bool
    generation: int
    def __init__(self, cluster: _Optional[str] = ..., dry_run: bool = ..., generation: _Optional[int] = ...) -> None: ...

class NatBoxStandingRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NatBoxStandingReply(_message.Message):
    __slots__ = ("role", "epoch", "shared", "unfit", "generations")
    class GenerationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ROLE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    UNFIT_FIELD_NUMBER: _ClassVar[int]
    GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    role: str
    epoch: int
    shared: _containers.RepeatedScalarFieldContainer[str]
    unfit: _containers.RepeatedScalarFieldContainer[str]
    generations: _containers.ScalarMap[str, int]
    def __init__(self, role: _Optional[str] = ..., epoch: _Optional[int] = ..., shared: _Optional[_Iterable[str]] = ..., unfit: _Optional[_Iterable[str]] = ..., generations: _Optional[_Mapping[str, int]] = ...) -> None: ...

class NatBoxStepDownRequest(_message.Message):
    __slots__ = ("epoch",)
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    def __init__(self, epoch: _Optional[int] = ...) -> None: ...

class NatBoxTakeOverRequest(_message.Message):
    __slots__ = ("start", "connections")
    class Start(_message.Message):
        __slots__ = ("epoch", "shared", "unless_alive")
        EPOCH_FIELD_NUMBER: _ClassVar[int]
        SHARED_FIELD_NUMBER: _ClassVar[int]
        UNLESS_ALIVE_FIELD_NUMBER: _ClassVar[int]
        epoch: int
        shared: _containers.RepeatedScalarFieldContainer[str]
        unless_alive: bool
        def __init__(self, epoch: _Optional[int] = ..., shared: _Optional[_Iterable[str]] = ..., unless_alive: bool = ...) -> None: ...
    START_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    start: NatBoxTakeOverRequest.Start
    connections: NatBoxConnections
    def __init__(self, start: _Optional[_Union[NatBoxTakeOverRequest.Start, _Mapping]] = ..., connections: _Optional[_Union[NatBoxConnections, _Mapping]] = ...) -> None: ...

class NatBoxTakeOverReply(_message.Message):
    __slots__ = ("connections", "refused", "seconds")
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    connections: int
    refused: int
    seconds: float
    def __init__(self, connections: _Optional[int] = ..., refused: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class NatBoxConnections(_message.Message):
    __slots__ = ("connections",)
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    connections: _containers.RepeatedCompositeFieldContainer[Connection]
    def __init__(self, connections: _Optional[_Iterable[_Union[Connection, _Mapping]]] = ...) -> None: ...

class Flow(_message.Message):
    __slots__ = ("source", "destination", "source_port", "destination_port")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_PORT_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_PORT_FIELD_NUMBER: _ClassVar[int]
    source: int
    destination: int
    source_port: int
    destination_port: int
    def __init__(self, source: _Optional[int] = ..., destination: _Optional[int] = ..., source_port: _Optional[int] = ..., destination_port: _Optional[int] = ...) -> None: ...

class Connection(_message.Message):
    __slots__ = ("protocol", "original", "reply", "status", "timeout", "mark", "tcp_state", "tcp_scales", "tcp_flags")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    TCP_STATE_FIELD_NUMBER: _ClassVar[int]
    TCP_SCALES_FIELD_NUMBER: _ClassVar[int]
    TCP_FLAGS_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    original: Flow
    reply: Flow
    status: int
    timeout: int
    mark: int
    tcp_state: int
    tcp_scales: int
    tcp_flags: int
    def __init__(self, protocol: _Optional[int] = ..., original: _Optional[_Union[Flow, _Mapping]] = ..., reply: _Optional[_Union[Flow, _Mapping]] = ..., status: _Optional[int] = ..., timeout: _Optional[int] = ..., mark: _Optional[int] = ..., tcp_state: _Optional[int] = ..., tcp_scales: _Optional[int] = ..., tcp_flags: _Optional[int] = ...) -> None: ...
