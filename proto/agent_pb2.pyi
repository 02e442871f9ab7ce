from proto import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ProbeRequest(_message.Message):
    __slots__ = ("desired", "cluster")
    DESIRED_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    desired: _types_pb2.ClusterHost
    cluster: str
    def __init__(self, desired: _Optional[_Union[_types_pb2.ClusterHost, _Mapping]] = ..., cluster: _Optional[str] = ...) -> None: ...

class ProbeReply(_message.Message):
    __slots__ = ("host", "version", "kernel", "datapath_vlan", "datapath_ipip", "datapath_vxlan", "lacks", "links", "routes", "memory_available_bytes", "generations", "taken_links", "taken_subnets", "taken_ports", "keyless", "nameservers", "removed", "unconfirmed", "taken_back")
    class HostLink(_message.Message):
        __slots__ = ("name", "kind", "mtu", "up", "addresses")
        NAME_FIELD_NUMBER: _ClassVar[int]
        KIND_FIELD_NUMBER: _ClassVar[int]
        MTU_FIELD_NUMBER: _ClassVar[int]
        UP_FIELD_NUMBER: _ClassVar[int]
        ADDRESSES_FIELD_NUMBER: _ClassVar[int]
        name: str
        kind: str
        mtu: int
        up: bool
        addresses: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., mtu: _Optional[int] = ..., up: bool = ..., addresses: _Optional[_Iterable[str]] = ...) -> None: ...
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
    class UnconfirmedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    HOST_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    DATAPATH_VLAN_FIELD_NUMBER: _ClassVar[int]
    DATAPATH_IPIP_FIELD_NUMBER: _ClassVar[int]
    DATAPATH_VXLAN_FIELD_NUMBER: _ClassVar[int]
    LACKS_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_AVAILABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    TAKEN_LINKS_FIELD_NUMBER: _ClassVar[int]
    TAKEN_SUBNETS_FIELD_NUMBER: _ClassVar[int]
    TAKEN_PORTS_FIELD_NUMBER: _ClassVar[int]
    KEYLESS_FIELD_NUMBER: _ClassVar[int]
    NAMESERVERS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    UNCONFIRMED_FIELD_NUMBER: _ClassVar[int]
    TAKEN_BACK_FIELD_NUMBER: _ClassVar[int]
    host: str
    version: str
    kernel: str
    datapath_vlan: str
    datapath_ipip: str
    datapath_vxlan: str
    lacks: _containers.RepeatedCompositeFieldContainer[_types_pb2.Lack]
    links: _containers.RepeatedCompositeFieldContainer[ProbeReply.HostLink]
    routes: _containers.RepeatedScalarFieldContainer[str]
    memory_available_bytes: int
    generations: _containers.ScalarMap[str, int]
    taken_links: _containers.RepeatedScalarFieldContainer[str]
    taken_subnets: _containers.RepeatedScalarFieldContainer[str]
    taken_ports: _containers.RepeatedScalarFieldContainer[int]
    keyless: str
    nameservers: _containers.RepeatedScalarFieldContainer[str]
    removed: _containers.ScalarMap[str, int]
    unconfirmed: _containers.ScalarMap[str, float]
    taken_back: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, host: _Optional[str] = ..., version: _Optional[str] = ..., kernel: _Optional[str] = ..., datapath_vlan: _Optional[str] = ..., datapath_ipip: _Optional[str] = ..., datapath_vxlan: _Optional[str] = ..., lacks: _Optional[_Iterable[_Union[_types_pb2.Lack, _Mapping]]] = ..., links: _Optional[_Iterable[_Union[ProbeReply.HostLink, _Mapping]]] = ..., routes: _Optional[_Iterable[str]] = ..., memory_available_bytes: _Optional[int] = ..., generations: _Optional[_Mapping[str, int]] = ..., taken_links: _Optional[_Iterable[str]] = ..., taken_subnets: _Optional[_Iterable[str]] = ..., taken_ports: _Optional[_Iterable[int]] = ..., keyless: _Optional[str] = ..., nameservers: _Optional[_Iterable[str]] = ..., removed: _Optional[_Mapping[str, int]] = ..., unconfirmed: _Optional[_Mapping[str, float]] = ..., taken_back: _Optional[_Iterable[str]] = ...) -> None: ...

class ObserveRequest(_message.Message):
    __slots__ = ("cluster", "log_lines")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    LOG_LINES_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    log_lines: int
    def __init__(self, cluster: _Optional[str] = ..., log_lines: _Optional[int] = ...) -> None: ...

class ObserveReply(_message.Message):
    __slots__ = ("network", "containers", "generations", "drift", "log")
    class Seen(_message.Message):
        __slots__ = ("container", "pid", "memory_bytes")
        CONTAINER_FIELD_NUMBER: _ClassVar[int]
        PID_FIELD_NUMBER: _ClassVar[int]
        MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
        container: _types_pb2.Container
        pid: int
        memory_bytes: int
        def __init__(self, container: _Optional[_Union[_types_pb2.Container, _Mapping]] = ..., pid: _Optional[int] = ..., memory_bytes: _Optional[int] = ...) -> None: ...
    class GenerationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    network: _types_pb2.HostState
    containers: _containers.RepeatedCompositeFieldContainer[ObserveReply.Seen]
    generations: _containers.ScalarMap[str, int]
    drift: _containers.RepeatedCompositeFieldContainer[Drift]
    log: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, network: _Optional[_Union[_types_pb2.HostState, _Mapping]] = ..., containers: _Optional[_Iterable[_Union[ObserveReply.Seen, _Mapping]]] = ..., generations: _Optional[_Mapping[str, int]] = ..., drift: _Optional[_Iterable[_Union[Drift, _Mapping]]] = ..., log: _Optional[_Iterable[str]] = ...) -> None: ...

class Drift(_message.Message):
    __slots__ = ("time", "cluster", "kind", "name", "found", "mended", "by", "hint")
    TIME_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    MENDED_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    time: float
    cluster: str
    kind: str
    name: str
    found: str
    mended: bool
    by: str
    hint: str
    def __init__(self, time: _Optional[float] = ..., cluster: _Optional[str] = ..., kind: _Optional[str] = ..., name: _Optional[str] = ..., found: _Optional[str] = ..., mended: bool = ..., by: _Optional[str] = ..., hint: _Optional[str] = ...) -> None: ...

class FindPassagesRequest(_message.Message):
    __slots__ = ("local", "nonce", "seconds", "fars")
    class Far(_message.Message):
        __slots__ = ("address", "methods")
        ADDRESS_FIELD_NUMBER: _ClassVar[int]
        METHODS_FIELD_NUMBER: _ClassVar[int]
        address: str
        methods: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, address: _Optional[str] = ..., methods: _Optional[_Iterable[str]] = ...) -> None: ...
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    FARS_FIELD_NUMBER: _ClassVar[int]
    local: str
    nonce: bytes
    seconds: float
    fars: _containers.RepeatedCompositeFieldContainer[FindPassagesRequest.Far]
    def __init__(self, local: _Optional[str] = ..., nonce: _Optional[bytes] = ..., seconds: _Optional[float] = ..., fars: _Optional[_Iterable[_Union[FindPassagesRequest.Far, _Mapping]]] = ...) -> None: ...

class FindPassagesReply(_message.Message):
    __slots__ = ("fars",)
    class Far(_message.Message):
        __slots__ = ("address", "on_link", "heard")
        ADDRESS_FIELD_NUMBER: _ClassVar[int]
        ON_LINK_FIELD_NUMBER: _ClassVar[int]
        HEARD_FIELD_NUMBER: _ClassVar[int]
        address: str
        on_link: bool
        heard: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, address: _Optional[str] = ..., on_link: bool = ..., heard: _Optional[_Iterable[str]] = ...) -> None: ...
    FARS_FIELD_NUMBER: _ClassVar[int]
    fars: _containers.RepeatedCompositeFieldContainer[FindPassagesReply.Far]
    def __init__(self, fars: _Optional[_Iterable[_Union[FindPassagesReply.Far, _Mapping]]] = ...) -> None: ...

class ApplyRequest(_message.Message):
    __slots__ = ("desired", "dry_run", "confirm_within")
    DESIRED_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    CONFIRM_WITHIN_FIELD_NUMBER: _ClassVar[int]
    desired: _types_pb2.ClusterHost
    dry_run: bool
    confirm_within: float
    def __init__(self, desired: _Optional[_Union[_types_pb2.ClusterHost, _Mapping]] = ..., dry_run: bool = ..., confirm_within: _Optional[float] = ...) -> None: ...

class ConfirmRequest(_message.Message):
    __slots__ = ("cluster", "generation", "hold")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    generation: int
    hold: bool
    def __init__(self, cluster: _Optional[str] = ..., generation: _Optional[int] = ..., hold: bool = ...) -> None: ...

class ConfirmReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Unconfirmed(_message.Message):
    __slots__ = ("cluster", "generation", "within", "before", "boot", "boot_seconds", "wall_seconds")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    WITHIN_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    BOOT_FIELD_NUMBER: _ClassVar[int]
    BOOT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    WALL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    generation: int
    within: float
    before: _types_pb2.ClusterHost
    boot: str
    boot_seconds: float
    wall_seconds: float
    def __init__(self, cluster: _Optional[str] = ..., generation: _Optional[int] = ..., within: _Optional[float] = ..., before: _Optional[_Union[_types_pb2.ClusterHost, _Mapping]] = ..., boot: _Optional[str] = ..., boot_seconds: _Optional[float] = ..., wall_seconds: _Optional[float] = ...) -> None: ...

class DestroyRequest(_message.Message):
    __slots__ = ("cluster", "dry_run", "generation")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    dry_run: bool
    generation: int
    def __init__(self, cluster: _Optional[str] = ..., dry_run: bool = ..., generation: _Optional[int] = ...) -> None: ...

class ExecInput(_message.Message):
    __slots__ = ("start", "stdin", "eof")
    class Start(_message.Message):
        __slots__ = ("cluster", "hostname", "argv", "env")
        class EnvEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: str
            def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
        CLUSTER_FIELD_NUMBER: _ClassVar[int]
        HOSTNAME_FIELD_NUMBER: _ClassVar[int]
        ARGV_FIELD_NUMBER: _ClassVar[int]
        ENV_FIELD_NUMBER: _ClassVar[int]
        cluster: str
        hostname: str
        argv: _containers.RepeatedScalarFieldContainer[str]
        env: _containers.ScalarMap[str, str]
        def __init__(self, cluster: _Optional[str] = ..., hostname: _Optional[str] = ..., argv: _Optional[_Iterable[str]] = ..., env: _Optional[_Mapping[str, str]] = ...) -> None: ...
    START_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    EOF_FIELD_NUMBER: _ClassVar[int]
    start: ExecInput.Start
    stdin: bytes
    eof: bool
    def __init__(self, start: _Optional[_Union[ExecInput.Start, _Mapping]] = ..., stdin: _Optional[bytes] = ..., eof: bool = ...) -> None: ...

class ExecOutput(_message.Message):
    __slots__ = ("stdout", "stderr", "status", "error")
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    stdout: bytes
    stderr: bytes
    status: int
    error: _types_pb2.ErrorDetail
    def __init__(self, stdout: _Optional[bytes] = ..., stderr: _Optional[bytes] = ..., status: _Optional[int] = ..., error: _Optional[_Union[_types_pb2.ErrorDetail, _Mapping]] = ...) -> None: ...

class InspectRequest(_message.Message):
    __slots__ = ("cluster", "containers")
    class One(_message.Message):
        __slots__ = ("hostname", "files", "units", "ports")
        HOSTNAME_FIELD_NUMBER: _ClassVar[int]
        FILES_FIELD_NUMBER: _ClassVar[int]
        UNITS_FIELD_NUMBER: _ClassVar[int]
        PORTS_FIELD_NUMBER: _ClassVar[int]
        hostname: str
        files: _containers.RepeatedScalarFieldContainer[str]
        units: _containers.RepeatedScalarFieldContainer[str]
        ports: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, hostname: _Optional[str] = ..., files: _Optional[_Iterable[str]] = ..., units: _Optional[_Iterable[str]] = ..., ports: _Optional[_Iterable[str]] = ...) -> None: ...
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    containers: _containers.RepeatedCompositeFieldContainer[InspectRequest.One]
    def __init__(self, cluster: _Optional[str] = ..., containers: _Optional[_Iterable[_Union[InspectRequest.One, _Mapping]]] = ...) -> None: ...

class InspectReply(_message.Message):
    __slots__ = ("report",)
    REPORT_FIELD_NUMBER: _ClassVar[int]
    report: str
    def __init__(self, report: _Optional[str] = ...) -> None: ...

class BurstRequest(_message.Message):
    __slots__ = ("cluster", "askers", "settle", "seconds")
    class Asker(_message.Message):
        __slots__ = ("hostname", "address", "mtu", "targets", "askers")
        HOSTNAME_FIELD_NUMBER: _ClassVar[int]
        ADDRESS_FIELD_NUMBER: _ClassVar[int]
        MTU_FIELD_NUMBER: _ClassVar[int]
        TARGETS_FIELD_NUMBER: _ClassVar[int]
        ASKERS_FIELD_NUMBER: _ClassVar[int]
        hostname: str
        address: str
        mtu: int
        targets: _containers.RepeatedScalarFieldContainer[str]
        askers: int
        def __init__(self, hostname: _Optional[str] = ..., address: _Optional[str] = ..., mtu: _Optional[int] = ..., targets: _Optional[_Iterable[str]] = ..., askers: _Optional[int] = ...) -> None: ...
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    ASKERS_FIELD_NUMBER: _ClassVar[int]
    SETTLE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    askers: _containers.RepeatedCompositeFieldContainer[BurstRequest.Asker]
    settle: float
    seconds: float
    def __init__(self, cluster: _Optional[str] = ..., askers: _Optional[_Iterable[_Union[BurstRequest.Asker, _Mapping]]] = ..., settle: _Optional[float] = ..., seconds: _Optional[float] = ...) -> None: ...

class BurstReply(_message.Message):
    __slots__ = ("report", "tunnel_drops")
    class TunnelDropsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    REPORT_FIELD_NUMBER: _ClassVar[int]
    TUNNEL_DROPS_FIELD_NUMBER: _ClassVar[int]
    report: str
    tunnel_drops: _containers.ScalarMap[str, int]
    def __init__(self, report: _Optional[str] = ..., tunnel_drops: _Optional[_Mapping[str, int]] = ...) -> None: ...

class DoctorRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DoctorReply(_message.Message):
    __slots__ = ("complaints",)
    class Complaint(_message.Message):
        __slots__ = ("what", "why", "mend")
        WHAT_FIELD_NUMBER: _ClassVar[int]
        WHY_FIELD_NUMBER: _ClassVar[int]
        MEND_FIELD_NUMBER: _ClassVar[int]
        what: str
        why: str
        mend: str
        def __init__(self, what: _Optional[str] = ..., why: _Optional[str] = ..., mend: _Optional[str] = ...) -> None: ...
    COMPLAINTS_FIELD_NUMBER: _ClassVar[int]
    complaints: _containers.RepeatedCompositeFieldContainer[DoctorReply.Complaint]
    def __init__(self, complaints: _Optional[_Iterable[_Union[DoctorReply.Complaint, _Mapping]]] = ...) -> None: ...

class ExamineRequest(_message.Message):
    __slots__ = ("cluster",)
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    def __init__(self, cluster: _Optional[str] = ...) -> None: ...

class ExamineReply(_message.Message):
    __slots__ = ("findings",)
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    def __init__(self, findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("cause", "object", "text", "hint", "near", "far", "crossing", "sure")
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    NEAR_FIELD_NUMBER: _ClassVar[int]
    FAR_FIELD_NUMBER: _ClassVar[int]
    CROSSING_FIELD_NUMBER: _ClassVar[int]
    SURE_FIELD_NUMBER: _ClassVar[int]
    cause: str
    object: str
    text: str
    hint: str
    near: _containers.RepeatedScalarFieldContainer[str]
    far: _containers.RepeatedScalarFieldContainer[str]
    crossing: bool
    sure: bool
    def __init__(self, cause: _Optional[str] = ..., object: _Optional[str] = ..., text: _Optional[str] = ..., hint: _Optional[str] = ..., near: _Optional[_Iterable[str]] = ..., far: _Optional[_Iterable[str]] = ..., crossing: bool = ..., sure: bool = ...) -> None: ...
