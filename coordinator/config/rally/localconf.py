"""`local_conf` (once `localrc`): DevStack's variables as roles and options of ours, and as lines of local.conf."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.config import tree
from coordinator.config.cluster import API_WORKERS_MAX, CONTROLLER_TOKEN, Devstack
from coordinator.config.json_tree import to_python
from coordinator.config.problem import Place, nearest
from coordinator.config.rally.keys import Keys
from coordinator.config.rally.notes import Notes
from coordinator.config.rally.services import (
    DEFAULT_SERVICES,
    GROUPS,
    IDLE_ENDINGS,
    IDLE_VARIABLES,
    INCLUDED,
    KNOWN_SERVICES,
    POINTERS,
    REFUSED,
    SERVICE_ROLES,
    roles_of,
    why_not_deployed,
)

#: What Rally wrote before anything of the file's, in this order.
BUILT_IN = {
    "DATABASE_PASSWORD": "rally",
    "RABBIT_PASSWORD": "rally",
    "SERVICE_TOKEN": "rally",
    "SERVICE_PASSWORD": "rally",
    "ADMIN_PASSWORD": "admin",
    "RECLONE": "yes",
    "SYSLOG": "yes",
}
HEADER = "[[local|localrc]]"
DEVSTACK_BRANCH = "master"
FAKE = "fake"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """A variable that says where a service of the controller is."""

    key: str
    host: str
    place: Place
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalConf:
    """What one DevstackEngine wants. `virt_driver`, `region` "" and `api_workers` 0 where it does not say."""

    roles: tuple[str, ...]
    pointers: tuple[Pointer, ...]
    region: str
    api_workers: int
    devstack: Devstack | None


class LocalConfReader:
    """Reads the local_conf of the DevstackEngine *engine*; `is_node`: of MultihostEngine's nodes."""

    def __init__(self, engine: Keys, *, is_node: bool) -> None:
        self._engine = engine
        self._notes: Notes = engine.notes
        self._is_node = is_node
        self._path = ""
        self._pointers: list[Pointer] = []
        self._enabled = set(DEFAULT_SERVICES)
        self._removed: set[str] = set()
        self._region = ""
        self._workers = 0
        self._driver: tuple[str, Place, str] | None = None

    def read(self) -> LocalConf:
        entries = self._entries()
        repo = self._engine.text("devstack_repo")
        branch = self._engine.text("devstack_branch")
        for entry in entries:
            self._read_services(entry, quiet=repo is not None)
        roles = roles_of(self._enabled - self._removed)
        for entry in entries:
            if repo is None:
                self._read_variable(entry)
        devstack = None
        if repo is not None:
            devstack = Devstack(
                repo=repo, branch=branch or DEVSTACK_BRANCH, lines=make_lines(entries), is_node=self._is_node
            )
        elif branch is not None:
            message = "it has no effect: services come from packages unless devstack_repo is given too"
            self._notes.warn(self._engine.where("devstack_branch"), self._engine.at("devstack_branch"), message)
        if repo is None and "compute" in roles:
            self._check_driver()
        return LocalConf(
            roles=roles,
            pointers=tuple(self._pointers),
            region=self._region,
            api_workers=self._workers,
            devstack=devstack,
        )

    def _hinder_at(self, place: Place, path: str, message: str, hint: str = "") -> None:
        self._notes.hinder(place, path, message, hint=hint)

    def _entries(self) -> list[tree.Entry]:
        """`local_conf`, or `localrc` where that is not there."""
        used = "local_conf" if self._engine.node("local_conf") is not None else "localrc"
        self._path = self._engine.at(used)
        if used == "local_conf" and self._engine.node("localrc") is not None:
            message = "it has no effect beside local_conf, which is its newer name"
            self._notes.warn(self._engine.where("localrc"), self._engine.at("localrc"), message)
        found = self._engine.child(used)
        return list(found.entries.values()) if found else []

    def _at(self, entry: tree.Entry) -> str:
        return f"{self._path}.{entry.key}"

    def _text(self, entry: tree.Entry) -> str:
        return value_text(entry.node)

    def _read_services(self, entry: tree.Entry, *, quiet: bool) -> None:
        """ENABLED_SERVICES replaces what DevStack turns on, ENABLED_SERVICES+ adds to it; `-x` removes in the end."""
        if entry.key not in ("ENABLED_SERVICES", "ENABLED_SERVICES+"):
            return
        if entry.key == "ENABLED_SERVICES":
            self._enabled, self._removed = set(), set()
        for word in self._text(entry).split(","):
            service = word.strip()
            if not service:
                continue
            if service.startswith("-"):
                self._removed.update(GROUPS.get(service[1:], (service[1:],)))
                known = service[1:] in KNOWN_SERVICES or bool(why_not_deployed(service[1:]))
            else:
                self._enabled.update(GROUPS.get(service, (service,)))
                known = service in SERVICE_ROLES or service in GROUPS or service in INCLUDED
            if not known and not quiet:
                self._tell_service(entry, service)

    def _tell_service(self, entry: tree.Entry, word: str) -> None:
        service = word.removeprefix("-")
        if service in REFUSED:
            self._hinder_at(entry.place, self._at(entry), f"{service}: {REFUSED[service]}")
            return
        why = why_not_deployed(service) or "caas does not know this service"
        near = nearest(service, KNOWN_SERVICES)
        hint = f"did you mean {near!r}?" if near and not why_not_deployed(service) else ""
        self._notes.warn(entry.place, self._at(entry), f"{word} has no effect: {why}", hint=hint)

    def _read_variable(self, entry: tree.Entry) -> None:
        key = entry.key
        match key:
            case "ENABLED_SERVICES" | "ENABLED_SERVICES+":
                return
            case "VIRT_DRIVER":
                self._driver = (self._text(entry), entry.place, self._at(entry))
            case "REGION_NAME":
                self._region = self._text(entry)
            case "API_WORKERS":
                self._read_workers(entry)
            case "DATABASE_TYPE":
                if self._text(entry) != "mysql":
                    self._hinder_at(entry.place, self._at(entry), f"{self._text(entry)}: {REFUSED['postgresql']}")
            case _ if key in POINTERS:
                self._read_pointer(entry, POINTERS[key])
            case _ if key.upper() == "ENABLE_PLUGIN":
                hint = "with devstack_repo, stack.sh would know them"
                self._hinder_at(entry.place, self._at(entry), "packages have no DevStack plugins", hint)
            case _:
                self._notes.warn(entry.place, self._at(entry), f"it has no effect: {_why_idle(key)}")

    def _read_workers(self, entry: tree.Entry) -> None:
        text = self._text(entry)
        if not text.isdecimal() or not 1 <= int(text) <= API_WORKERS_MAX:
            self._notes.wrong(entry.place, self._at(entry), f"{text!r}: it must be within 1..{API_WORKERS_MAX}")
            return
        self._workers = int(text)

    def _read_pointer(self, entry: tree.Entry, port: int | None) -> None:
        host, _, found = self._text(entry).partition(":")
        if port is not None and found not in ("", str(port)):
            self._hinder_at(entry.place, self._at(entry), f"port {found}: the service listens on {port}")
        if host == CONTROLLER_TOKEN and not self._is_node:
            message = f"{CONTROLLER_TOKEN} stands for the controller's address in nodes only"
            self._notes.wrong(entry.place, self._at(entry), message)
            return
        self._pointers.append(Pointer(key=entry.key, host=host, place=entry.place, path=self._at(entry)))

    def _check_driver(self) -> None:
        if self._driver is None:
            message = "no VIRT_DRIVER: DevStack would take libvirt, and the fake driver is used"
            self._notes.warn(self._engine.place, self._path, message)
            return
        driver, place, path = self._driver
        if driver != FAKE:
            hint = f"write {FAKE}"
            self._hinder_at(place, path, f"{driver}: the only compute driver is the fake one", hint)


def value_text(node: tree.Node) -> str:
    """A value as Rally wrote it: strings as they are, all else as Python prints it."""
    return node.text if isinstance(node, tree.Scalar) and not node.plain else str(to_python(node))


def make_lines(entries: list[tree.Entry]) -> tuple[str, ...]:
    """The lines of local.conf: Rally's own variables, then the file's, each as KEY=VALUE.

    A variable of the file that Rally has too keeps Rally's place. A key that ends in + so becomes KEY+=VALUE.
    ENABLE_PLUGIN, in any case, is a line for each plugin.
    """
    values: dict[str, tree.Node | str] = dict(BUILT_IN)
    values |= {entry.key: entry.node for entry in entries}
    lines = [HEADER]
    for key, value in values.items():
        if isinstance(value, str):
            lines.append(f"{key}={value}")
        elif key.upper() == "ENABLE_PLUGIN":
            plugins = value.items if isinstance(value, tree.Sequence) else [value]
            lines += [f"enable_plugin {value_text(one)}" for one in plugins if isinstance(one, tree.Scalar)]
        else:
            lines.append(f"{key}={value_text(value)}")
    return tuple(lines)


def _why_idle(key: str) -> str:
    name = key.removesuffix("+")
    if name in IDLE_VARIABLES:
        return IDLE_VARIABLES[name]
    for ending, why in IDLE_ENDINGS.items():
        if name.endswith(ending):
            return why
    return "caas has nothing like it"
