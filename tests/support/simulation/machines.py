"""Simulated machines: what is on one survives its processes. A process dies before its n-th write, wherever that is."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Generic, TypeVar

from agent.confirming import Unconfirmed
from agent.core.doors import ForeignLink
from agent.host import Host
from agent.rpc.service import NodeAgent
from agent.saved import unconfirmed_from_wire, unconfirmed_to_wire
from natbox.gatekeeper import Gatekeeper
from natbox.handover import HandOver
from natbox.service import NatBoxService
from natbox.standing import SavedStanding
from proto import agent_pb2, agent_pb2_grpc, natbox_pb2_grpc, types_pb2
from proto.disk import OfCluster
from proto.errors import CaasError, Code
from proto.model import Action, ClusterHost, Container, Cost, Datapath, Gateway, GatewayTable, HostState, Plan
from proto.wire import (
    cluster_host_from_wire,
    cluster_host_to_wire,
    gateway_table_from_wire,
    gateway_table_to_wire,
)
from tests.support.fakes import FakeContainers, FakeKernel, FakeLook
from tests.support.fleet import FakeExec, FakeFleet
from tests.support.natbox_machine import FakeMachine, Segment
from tests.support.simulation.clock import PROCESS, Died
from tests.support.simulation.network import Registry
from tests.unit.natbox.fake_door import FakeDoor

S = TypeVar("S", bound=OfCluster)
#: Links that are nobody's of ours: none may ever be written to.
UNOWNED = ("eth1", "docker0", "lxcbr4000")
#: Kinds of links by which one cluster alone leaves a host.
OWN_WAYS = ("vlan",)


class InlinePool:
    """concurrent.futures.ThreadPoolExecutor without threads: in the order of the calls, at once."""

    def __init__(self, *_: object, **__: object) -> None:
        return None

    def __enter__(self) -> InlinePool:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args))
        except Exception as exc:
            future.set_exception(exc)
        return future


class Machine:
    """A host or NATBox: up or away, its process running or not. `violations` is shared by all."""

    def __init__(self, name: str, random: Random, tell: Callable[[str], None], violations: list[str]) -> None:
        self.name, self.random, self.tell, self.violations = name, random, tell, violations
        self.away = False
        self.handlers: dict[str, Any] | None = None
        self.busy_until = 0.0
        self.is_running = False
        self.lives = 0
        #: Writes left until the process dies, or until one of its writes fails; None: never.
        self.fuse: int | None = None
        self.failing: int | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def latency(self) -> float:
        return self.random.uniform(0.001, 0.05)

    def serve(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) and not isinstance(failure, Died):
            self.violations.append(f"{self.name}: a handler raised {failure!r}")

    def work(self, function: Callable[..., Any], *args: Any) -> Any:
        """In the process's worker thread."""
        if not self.is_running:
            raise Died
        result = function(*args)
        if not self.is_running:
            raise Died  # it came to an end in what had no way to say so
        return result

    def before_write(self, what: str) -> None:
        """Every write of the process to what outlives it, before it has any effect."""
        if not self.is_running:
            raise Died
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                self.tell(f"{self.name}: killed before {what}")
                self.kill()
                raise Died
        if self.failing is not None:
            self.failing -= 1
            if self.failing < 0:
                self.failing = None
                self.tell(f"{self.name}: {what} fails")
                raise CaasError(Code.FAILED, f"{what}: simulated")

    def kill(self) -> None:
        """kill -9 of the process."""
        self.is_running, self.handlers, self.fuse, self.failing = False, None, None, None
        self.lives += 1
        for task in list(self._tasks):
            task.cancel()

    def start(self) -> None:
        """A new process, which makes the machine as saved before it serves."""
        if self.is_running:
            return
        self.is_running = True
        token = PROCESS.set(self)
        try:
            service, register = self.make_service()
        except Died:
            return
        finally:
            PROCESS.reset(token)
        registry = Registry()
        register(service, registry)
        self.handlers = registry.handlers
        self.busy_until = 0.0
        self.tell(f"{self.name}: serves")

    def make_service(self) -> tuple[Any, Callable[[Any, Any], None]]:
        raise NotImplementedError

    def lose_power(self) -> None:
        """What is in the kernel is gone, what is on the disk stays."""
        self.kill()


class Disk(Generic[S]):
    """proto.disk.Saved in memory: each write happens whole or not at all."""

    def __init__(self, machine: Machine, to_wire: Callable[[S], Any], from_wire: Callable[[Any], S], kind: Any) -> None:
        self._machine, self._to_wire, self._from_wire, self._kind = machine, to_wire, from_wire, kind
        self.files: dict[str, bytes] = {}
        self.removed: dict[str, int] = {}
        self.unconfirmed: Disk[Unconfirmed]
        #: The highest generation whose change ended well; and that of the last removal which did.
        self.reached: dict[str, int] = {}
        self.gone: dict[str, int] = {}

    def load(self) -> dict[str, S]:
        return {name: self._from_wire(self._kind.FromString(data)) for name, data in self.files.items()}

    def save(self, state: S) -> None:
        self._machine.before_write(f"save {state.cluster}")
        generation = state.generation  # type: ignore[attr-defined]
        if generation < self.reached.get(state.cluster, 0):
            reached = self.reached[state.cluster]
            self._machine.violations.append(
                f"{self._machine.name}: {state.cluster} goes back from generation {reached} to {generation}"
            )
        if generation <= self.gone.get(state.cluster, 0) and not _is_empty(state):
            self._machine.violations.append(
                f"{self._machine.name}: {state.cluster} comes back at generation {generation}, "
                f"after its removal at {self.gone[state.cluster]}"
            )
        self.files[state.cluster] = self._to_wire(state).SerializeToString(deterministic=True)

    def forget(self, cluster: str) -> None:
        self._machine.before_write(f"forget {cluster}")
        self.files.pop(cluster, None)

    def note_removal(self, cluster: str, generation: int) -> None:
        """It ended well."""
        self.reached[cluster] = max(self.reached.get(cluster, 0), generation)
        self.gone[cluster] = max(self.gone.get(cluster, 0), generation)

    def load_removed(self) -> dict[str, int]:
        return dict(self.removed)

    def save_removed(self, removed: Mapping[str, int]) -> None:
        self._machine.before_write("save removals")
        self.removed = dict(removed)


def _is_empty(state: Any) -> bool:
    return not (state.gateways if isinstance(state, GatewayTable) else state.state.links or state.state.containers)


class WatchedHost(Host):
    """Tells the disk which generations were reached, and the doors for whom it works."""

    machine: HostMachine

    def apply(self, desired: ClusterHost, **options: Any) -> Cost:
        cost = super().apply(desired, **options)
        self.machine.disk.reached[desired.cluster] = desired.generation
        after, self.machine.after_apply = self.machine.after_apply, None
        if after is not None:
            after()
        return cost

    def destroy(self, cluster: str, **options: Any) -> Cost:
        cost = super().destroy(cluster, **options)
        if not options["dry_run"]:
            self.machine.disk.note_removal(cluster, options["generation"])
            self.machine.confirmed.pop(cluster, None)
        return cost

    def confirm(self, cluster: str, generation: int, *, hold: bool) -> None:
        super().confirm(cluster, generation, hold=hold)
        if not hold:
            links = self.machine.disk.load()[cluster].state.links
            self.machine.confirmed[cluster] = {link.name for link in links if link.kind in OWN_WAYS}

    def _save_taken_back(self, cluster: str) -> bool:
        done = super()._save_taken_back(cluster)
        if done:
            self.machine.tell(f"{self.machine.name}: takes {cluster} back")
        return done

    def _apply(self, desired: ClusterHost, on_plan: Callable[[Plan], None], on_done: Callable[[Action], None]) -> Cost:
        self.machine.working_for = desired.cluster
        return super()._apply(desired, on_plan, on_done)


class SimulatedClock:
    """agent.confirming.Clock: the loop's time. What is to be called later dies with the process that asked for it."""

    def __init__(self, machine: HostMachine) -> None:
        self._machine, self._boot, self._life = machine, f"boot {machine.boots}", machine.lives

    def boot(self) -> str:
        return self._boot

    def boot_seconds(self) -> float:
        return asyncio.get_running_loop().time()

    def wall_seconds(self) -> float:
        return asyncio.get_running_loop().time()

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(seconds, self._run, function)

    def _run(self, function: Callable[[], None]) -> None:
        machine = self._machine
        if machine.lives != self._life:
            return
        token = PROCESS.set(machine)
        try:
            machine.work(function)
        except Died:
            return
        except Exception as exc:
            machine.violations.append(f"{machine.name}: what was due raised {exc!r}")
        finally:
            PROCESS.reset(token)


class SimulatedKernel(FakeKernel):
    """A kernel that a process writes to until it dies."""

    def __init__(self, machine: HostMachine) -> None:
        links = [ForeignLink(name=name, kind="veth", mtu=1500, up=True) for name in UNOWNED]
        super().__init__(foreign=links)
        self.machine = machine
        self.able = Datapath(vlan="kernel", ipip="kernel", vxlan="kernel")

    @contextmanager
    def write(self, verb: str, name: str) -> Iterator[None]:
        self.machine.before_write(f"{verb} {name}")
        if name in UNOWNED:
            self.machine.violations.append(f"{self.machine.name}: {verb} {name}, which is not ours")
        with super().write(verb, name):
            yield

    def create(self, thing: Any) -> None:
        self.machine.check_owner("create", thing)
        super().create(thing)

    def change(self, before: Any, after: Any) -> None:
        self.machine.check_owner("change", before)
        super().change(before, after)

    def delete(self, thing: Any) -> None:
        self.machine.check_owner("delete", thing)
        super().delete(thing)


class SimulatedContainers(FakeContainers):
    """An LXC that a process writes to until it dies. What was in a container goes with it."""

    def __init__(self, machine: HostMachine) -> None:
        super().__init__(kernel=machine.kernel)
        self.machine = machine

    @contextmanager
    def write(self, verb: str, name: str) -> Iterator[None]:
        self.machine.before_write(f"{verb} {name}")
        if name.partition(".")[0] != self.machine.working_for:
            self.machine.violations.append(f"{self.machine.name}: {verb} {name} for {self.machine.working_for}")
        with super().write(verb, name):
            yield

    def delete(self, container: Container) -> None:
        super().delete(container)
        self.machine.inside.forget(container.name)


class Inside:
    """What is in all containers of all clusters, nova included."""

    def __init__(self, world: Callable[[], FakeFleet]) -> None:
        self._make = world
        self._clusters: dict[str, FakeFleet] = {}

    def of(self, cluster: str) -> FakeFleet:
        return self._clusters.setdefault(cluster, self._make())

    def forget(self, name: str) -> None:
        cluster, _, hostname = name.partition(".")
        world = self.of(cluster)
        if hostname == "c0":  # the database is there
            del self._clusters[cluster]
            return
        world.inside.pop(hostname, None)
        world.nova.computes_up.discard(hostname)
        for key in [key for key in world.kept if key.startswith(f"{hostname}:")]:
            del world.kept[key]


class SimulatedExec:
    """ExecDoor of one host."""

    def __init__(self, machine: HostMachine) -> None:
        self._machine = machine

    async def spawn(self, name: str, argv: Any, *, env: Any) -> Any:
        world = self._machine.inside.of(name.partition(".")[0])
        return await FakeExec(self._machine.containers, world).spawn(name, argv, env=env)


class HostMachine(Machine):
    """A physical host and its agent."""

    def __init__(self, *args: Any, inside: Inside) -> None:
        super().__init__(*args)
        self.inside = inside
        self.working_for = ""
        self.kernel = SimulatedKernel(self)
        self.containers = SimulatedContainers(self)
        self.disk = Disk[ClusterHost](self, cluster_host_to_wire, cluster_host_from_wire, types_pb2.ClusterHost)
        self.disk.unconfirmed = Disk[Unconfirmed](
            self, unconfirmed_to_wire, unconfirmed_from_wire, agent_pb2.Unconfirmed
        )
        self.boots = 0
        #: Of each cluster, the links of its own out of the host that were confirmed last.
        self.confirmed: dict[str, set[str]] = {}
        #: What happens when the next change is done, before anybody is told.
        self.after_apply: Callable[[], None] | None = None

    def make_service(self) -> tuple[Any, Callable[[Any, Any], None]]:
        host = WatchedHost(
            self.name,
            self.kernel,
            self.containers,
            self.disk,  # type: ignore[arg-type]
            clock=SimulatedClock(self),
        )
        host.machine = self
        host.restore()
        service = NodeAgent(host, SimulatedExec(self), FakeLook())
        return service, agent_pb2_grpc.add_NodeAgentServicer_to_server

    def lose_power(self) -> None:
        self.tell(f"{self.name}: power lost")
        self.kill()
        self.boots += 1
        self.kernel.things.clear()
        for name, container in self.containers.containers.items():
            self.containers.containers[name] = replace(container, running=False)
            self.kernel.remove_port(container.nic)

    def state(self) -> HostState:
        return self.kernel.observe().state

    def check_owner(self, verb: str, thing: Any) -> None:
        """A change for one cluster touches nothing of another: what has no mark is on a link that has one."""
        link = getattr(thing, "link", "") or getattr(thing, "dev", "")
        holder = next((one for one in self.state().links if one.name == link), thing)
        owner = holder.mark.cluster if hasattr(holder, "mark") else "host"
        if owner not in (self.working_for, "host"):
            self.violations.append(f"{self.name}: {verb} {thing.name} of {owner} for {self.working_for}")


class SimulatedGateways(FakeDoor):
    """NATBox's kernel, written to until the process dies."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._machine = machine

    def _write(self, verb: str, name: str) -> None:
        self._machine.before_write(f"{verb} {name}")
        super()._write(verb, name)

    def create(self, gateway: Gateway) -> None:
        seen = self.vlans.get(gateway.vid)
        if seen and seen.gateway.cluster != gateway.cluster:
            self._machine.violations.append(f"natbox: VID {gateway.vid} is {seen.gateway.name}'s and {gateway.name}'s")
        super().create(gateway)


class WatchedGatekeeper(Gatekeeper):
    """Tells the disk which generations were reached."""

    machine: GatewayMachine

    def apply(self, desired: GatewayTable, **callbacks: Any) -> Cost:
        cost = super().apply(desired, **callbacks)
        self.machine.disk.reached[desired.cluster] = desired.generation
        return cost

    def destroy(self, cluster: str, **options: Any) -> Cost:
        cost = super().destroy(cluster, **options)
        if not options["dry_run"]:
            self.machine.disk.note_removal(cluster, options["generation"])
        return cost


class GatewayMachine(Machine):
    """NATBox's machine."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.door = SimulatedGateways(self)
        self.disk = Disk[GatewayTable](self, gateway_table_to_wire, gateway_table_from_wire, types_pb2_table())

    def make_service(self) -> tuple[Any, Callable[[Any, Any], None]]:
        keeper = WatchedGatekeeper(self.door, self.disk)  # type: ignore[arg-type]
        keeper.machine = self
        keeper.restore()
        alone = HandOver(FakeMachine(Segment()), SavedStanding(Path("never-written")))
        return NatBoxService(keeper, alone), natbox_pb2_grpc.add_NatBoxServicer_to_server

    def lose_power(self) -> None:
        self.tell("natbox: power lost")
        self.kill()
        self.door.vlans.clear()
        self.door.laid = False


@functools.cache
def types_pb2_table() -> Any:
    return type(gateway_table_to_wire(GatewayTable(cluster="x", generation=1)))
