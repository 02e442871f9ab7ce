"""The door to liblxc: ContainerDoor (agent/core/doors.py) over worker processes.

Make it before gRPC is imported. Its calls come from any thread; two on one container wait for each other.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.containers.config import check_path
from agent.containers.image import IMAGES, ImageStore
from agent.containers.image_declaration import DECLARATIONS
from agent.containers.keys import AUTHORIZED_KEYS, read_host_keys
from agent.containers.lacks import find_lacks
from agent.containers.pool import Pool
from agent.containers.programs import Spawn, spawn_interpreter
from agent.containers.record import Record, container_from_json, container_to_json, read_record, record_to_json
from agent.containers.rootfs import Storage
from agent.containers.seeds import Seeds
from agent.core.doors import Inspection, Lack, ObservedContainer
from proto.errors import CaasError, Code
from proto.model import Container
from proto.names import make_lxc_name

log = logging.getLogger(__name__)
STOP_PATIENCE = 30.0
_START_TIMEOUT = 60.0
_LOOK_TIMEOUT = 20.0
#: Dozens of containers, of which a few do not answer.
_INSPECT_TIMEOUT = 60.0
#: A plain copy of a large image on a slow disk.
_CREATE_TIMEOUT = 600.0


class LxcDoor:
    """The containers below *state*/containers, made from images in *images*.

    *storage* forces how root file systems are made; otherwise the best that works is probed once for each image.
    *stop_patience* is how long a container may take to shut down before it is killed, in seconds. *authorized_keys*
    is the host's own file of those that containers with `ssh` let in. *spawn* starts the worker processes.
    """

    def __init__(
        self,
        state: Path,
        *,
        images: Path = IMAGES,
        declarations: Path = DECLARATIONS,
        workers: int | None = None,
        storage: Storage | None = None,
        stop_patience: float = STOP_PATIENCE,
        authorized_keys: Path = AUTHORIZED_KEYS,
        spawn: Spawn = spawn_interpreter,
    ) -> None:
        self.lxcpath = check_path(state.absolute() / "containers")
        self.images = ImageStore(check_path(images.absolute()), declarations)
        self._stop_patience = stop_patience
        self._storage = storage
        self._authorized_keys = authorized_keys
        self._probed: dict[Path, Storage] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._locks_lock = threading.Lock()
        self._seeds = Seeds(self._take_seed, self._drop_seed)
        self.lxcpath.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._pool = Pool(self.lxcpath, size=workers, spawn=spawn)
        self._pool.call("tidy", timeout=_CREATE_TIMEOUT)
        self._tidied = self._pool.writes

    @property
    def writes(self) -> int:
        """Changing LXC calls and file writes since the door was opened."""
        return self._pool.writes - self._tidied

    @property
    def pool(self) -> Pool:
        return self._pool

    def close(self) -> None:
        """End the workers. The containers go on."""
        self._pool.close()

    def __enter__(self) -> LxcDoor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with self._locks_lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            yield

    def keyless(self) -> str:
        """The host's file of SSH keys where it is not there or empty, so that nobody is let in; else ""."""
        return "" if read_host_keys(self._authorized_keys) else str(self._authorized_keys)

    def observe(self) -> Sequence[ObservedContainer]:
        """Every container that carries our mark. Writes nothing."""
        return tuple(
            ObservedContainer(
                container=container_from_json(row["container"]), pid=row["pid"], memory_bytes=row["memory_bytes"]
            )
            for row in self._pool.look("observe", timeout=_LOOK_TIMEOUT, keys=read_host_keys(self._authorized_keys))
        )

    def inspect(self, questions: Sequence[Inspection]) -> Mapping[str, Any]:
        """What running containers show of themselves, by name (agent/containers/inspecting.py). Writes nothing."""
        answer: dict[str, Any] = self._pool.look(
            "inspect", timeout=_INSPECT_TIMEOUT, questions=[asdict(question) for question in questions]
        )
        return answer

    def create(self, container: Container) -> None:
        """Make it, not started. NOT_FOUND without its image, CONFLICT where it exists, NO_ROOM on a full disk.

        A clone gets what its source has now, less what makes that a machine of its own. Clones of one source that are
        made at the same time are made from one look at it. NOT_FOUND without the source.
        """
        with self._locked(container.name), contextlib.ExitStack() as until_done:
            record = self._make_record(container)
            seed = until_done.enter_context(self._seeds.held(_source_of(container))) if container.clone_of else ""
            keys, data = read_host_keys(self._authorized_keys), record_to_json(record)
            self._pool.call("create", timeout=_CREATE_TIMEOUT, name=container.name, record=data, keys=keys, seed=seed)

    def _take_seed(self, source: str, seed: str) -> None:
        with self._locked(source):
            seconds = self._pool.call("take_seed", timeout=_CREATE_TIMEOUT, name=source, seed=seed)
        log.info("container %s: read for its clones, frozen for %.0f ms", source, seconds * 1000)

    def _drop_seed(self, source: str, seed: str) -> None:
        """Best effort: what stays is removed when the door is opened again."""
        try:
            self._pool.call("drop_seed", timeout=_CREATE_TIMEOUT, name=source, seed=seed)
        except CaasError as exc:
            log.warning("%s stays until the next start: %s", seed, exc)

    def _make_record(self, container: Container) -> Record:
        if container.clone_of:
            return self._clone_record(container)
        build = self.images.find(container.image)
        return Record(
            container=container,
            digest=build.digest,
            image_rootfs=build.rootfs,
            storage=self.storage_for(build.rootfs),
            halt_signal=build.halt_signal,
            systemd=build.systemd,
        )

    def _clone_record(self, container: Container) -> Record:
        """A clone has the image build of its source, also where the image has been built anew since."""
        name = _source_of(container)
        try:
            source = read_record(self.lxcpath / name)
        except FileNotFoundError:
            raise CaasError(
                Code.NOT_FOUND, f"container {container.name}: there is no container {name} to clone here"
            ) from None
        if source.container.image != container.image:
            raise CaasError(
                Code.CONFLICT,
                f"container {container.name}: its image is {container.image}, that of {name} {source.container.image}",
            )
        return Record(
            container=container,
            digest=source.digest,
            image_rootfs=source.image_rootfs,
            storage=source.storage,
            halt_signal=source.halt_signal,
            systemd=source.systemd,
        )

    def storage_for(self, image_rootfs: Path) -> Storage:
        """How a container from *image_rootfs* gets its root file system here (probed by trying, remembered)."""
        if self._storage is not None:
            return self._storage
        if image_rootfs not in self._probed:
            found = self._pool.look("storage", timeout=_LOOK_TIMEOUT, image_rootfs=str(image_rootfs))
            self._probed[image_rootfs] = Storage(found)
            log.info("root file systems in %s: %s", self.lxcpath, Storage(found).words)
        return self._probed[image_rootfs]

    def change(self, before: Container, after: Container) -> None:
        """Take over hosts, roles and SSH keys, live; its port where it does not run. INVALID for anything else."""
        if before.name != after.name:
            raise CaasError(Code.INVALID, f"container {before.name}: it cannot become {after.name}")
        with self._locked(after.name):
            wanted, keys = container_to_json(after), read_host_keys(self._authorized_keys)
            self._pool.call("change", timeout=_LOOK_TIMEOUT, name=after.name, container=wanted, keys=keys)

    def delete(self, container: Container) -> None:
        """Kill it if it runs, remove its files, mounts and cgroups. Already gone is success; NOT_OWNED."""
        with self._locked(container.name):
            self._pool.call("delete", timeout=_CREATE_TIMEOUT, name=container.name)

    def start(self, container: Container) -> None:
        """Start it unless it runs. REFUSED or NOT_FOUND where its root file system is unset or absent."""
        with self._locked(container.name):
            self._pool.call("start", timeout=_START_TIMEOUT, name=container.name)

    def stop(self, container: Container) -> None:
        """Shut it down, kill it after the door's patience. Already stopped is success; NOT_FOUND."""
        with self._locked(container.name):
            timeout = self._stop_patience + _START_TIMEOUT
            self._pool.call("stop", timeout=timeout, name=container.name, patience=self._stop_patience)

    def lacks(self, desired: Sequence[Container]) -> Sequence[Lack]:
        """What making and starting *desired* would need and is not there."""

        def observe() -> Sequence[ObservedContainer]:
            self._pool.look("version", timeout=_LOOK_TIMEOUT)  # UNSUPPORTED without liblxc, also with no container yet
            return self.observe()

        return find_lacks(self.lxcpath, self.images, desired, observe, self.storage_for)


def _source_of(container: Container) -> str:
    return make_lxc_name(container.cluster, container.clone_of)
