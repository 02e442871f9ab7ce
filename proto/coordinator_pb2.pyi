from proto import natbox_pb2 as _natbox_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FileRequest(_message.Message):
    __slots__ = ("content", "file_name", "name", "distributions")
    class DistributionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    FILE_NAME_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DISTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    file_name: str
    name: str
    distributions: _containers.ScalarMap[str, str]
    def __init__(self, content: _Optional[bytes] = ..., file_name: _Optional[str] = ..., name: _Optional[str] = ..., distributions: _Optional[_Mapping[str, str]] = ...) -> None: ...

class UpRequest(_message.Message):
    __slots__ = ("file", "remove", "restart", "forget")
    FILE_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    RESTART_FIELD_NUMBER: _ClassVar[int]
    FORGET_FIELD_NUMBER: _ClassVar[int]
    file: FileRequest
    remove: bool
    restart: bool
    forget: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, file: _Optional[_Union[FileRequest, _Mapping]] = ..., remove: bool = ..., restart: bool = ..., forget: _Optional[_Iterable[str]] = ...) -> None: ...

class NameRequest(_message.Message):
    __slots__ = ("name", "file", "forget")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    FORGET_FIELD_NUMBER: _ClassVar[int]
    name: str
    file: FileRequest
    forget: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., file: _Optional[_Union[FileRequest, _Mapping]] = ..., forget: _Optional[_Iterable[str]] = ...) -> None: ...

class HandOverRequest(_message.Message):
    __slots__ = ("to",)
    TO_FIELD_NUMBER: _ClassVar[int]
    to: str
    def __init__(self, to: _Optional[str] = ...) -> None: ...

class CredentialsRequest(_message.Message):
    __slots__ = ("name", "format", "public")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_FIELD_NUMBER: _ClassVar[int]
    name: str
    format: str
    public: bool
    def __init__(self, name: _Optional[str] = ..., format: _Optional[str] = ..., public: bool = ...) -> None: ...

class NatBoxStatusRequest(_message.Message):
    __slots__ = ("natbox",)
    NATBOX_FIELD_NUMBER: _ClassVar[int]
    natbox: str
    def __init__(self, natbox: _Optional[str] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("natbox", "packet")
    NATBOX_FIELD_NUMBER: _ClassVar[int]
    PACKET_FIELD_NUMBER: _ClassVar[int]
    natbox: str
    packet: _natbox_pb2.NatBoxExplainRequest
    def __init__(self, natbox: _Optional[str] = ..., packet: _Optional[_Union[_natbox_pb2.NatBoxExplainRequest, _Mapping]] = ...) -> None: ...

class Document(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: str
    def __init__(self, json: _Optional[str] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("id", "title", "state", "seconds", "message", "phase", "document")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Event.State]
        PENDING: _ClassVar[Event.State]
        STARTED: _ClassVar[Event.State]
        DONE: _ClassVar[Event.State]
        SKIPPED: _ClassVar[Event.State]
        FAILED: _ClassVar[Event.State]
        NOTE: _ClassVar[Event.State]
        SUMMARY: _ClassVar[Event.State]
    STATE_UNSPECIFIED: Event.State
    PENDING: Event.State
    STARTED: Event.State
    DONE: Event.State
    SKIPPED: Event.State
    FAILED: Event.State
    NOTE: Event.State
    SUMMARY: Event.State
    ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    id: str
    title: str
    state: Event.State
    seconds: float
    message: str
    phase: str
    document: str
    def __init__(self, id: _Optional[str] = ..., title: _Optional[str] = ..., state: _Optional[_Union[Event.State, str]] = ..., seconds: _Optional[float] = ..., message: _Optional[str] = ..., phase: _Optional[str] = ..., document: _Optional[str] = ...) -> None: ...

class CoordinatorExecInput(_message.Message):
    __slots__ = ("start", "stdin", "eof")
    class Start(_message.Message):
        __slots__ = ("name", "container", "argv", "openstack")
        NAME_FIELD_NUMBER: _ClassVar[int]
        CONTAINER_FIELD_NUMBER: _ClassVar[int]
        ARGV_FIELD_NUMBER: _ClassVar[int]
        OPENSTACK_FIELD_NUMBER: _ClassVar[int]
        name: str
        container: str
        argv: _containers.RepeatedScalarFieldContainer[str]
        openstack: bool
        def __init__(self, name: _Optional[str] = ..., container: _Optional[str] = ..., argv: _Optional[_Iterable[str]] = ..., openstack: bool = ...) -> None: ...
    START_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    EOF_FIELD_NUMBER: _ClassVar[int]
    start: CoordinatorExecInput.Start
    stdin: bytes
    eof: bool
    def __init__(self, start: _Optional[_Union[CoordinatorExecInput.Start, _Mapping]] = ..., stdin: _Optional[bytes] = ..., eof: bool = ...) -> None: ...

class CoordinatorExecOutput(_message.Message):
    __slots__ = ("stdout", "stderr", "status")
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    stdout: bytes
    stderr: bytes
    status: int
    def __init__(self, stdout: _Optional[bytes] = ..., stderr: _Optional[bytes] = ..., status: _Optional[int] = ...) -> None: ...
