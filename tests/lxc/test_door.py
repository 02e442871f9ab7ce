"""The door with real containers: their life, what is left when somebody is killed, and two labs on one machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from agent.containers.config import cgroup_base
from agent.containers.door import LxcDoor
from proto.errors import CaasError, Code
from proto.model import Container, HostEntry
from tests.support.container_contract import ContainerContract, Look

Make = Callable[..., Container]


def pid_of(door: LxcDoor, container: Container) -> int:
    return next((one.pid for one in door.observe() if one.container.name == container.name), -1)


def monitor_of(door: LxcDoor, container: Container) -> int:
    """The process that watches it: the parent of its init, as /proc says."""
    return int(Path(f"/proc/{pid_of(door, container)}/stat").read_text().rpartition(")")[2].split()[1])


def wait_for(what: Callable[[], bool], text: str, deadline: float = 10) -> None:
    end = time.monotonic() + deadline
    while not what():
        assert time.monotonic() < end, text
        time.sleep(0.01)


def cgroups_of(door: LxcDoor) -> list[str]:
    found = subprocess.run(
        ["find", "/sys/fs/cgroup", "-path", f"*/{cgroup_base(door.lxcpath)}*"],
        capture_output=True,
        text=True,
        check=False,  # something may go while it walks
    )
    return found.stdout.splitlines()


def links() -> dict[str, dict[str, object]]:
    shown = subprocess.run(["ip", "-json", "-details", "link"], capture_output=True, text=True, check=True)
    return {link["ifname"]: link for link in json.loads(shown.stdout)}


def is_gone(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def pings(address: str) -> bool:
    return subprocess.run(["ping", "-c1", "-W2", address], capture_output=True, check=False).returncode == 0


def inside(pid: int, *argv: str) -> str:
    """What a command says in the namespaces of *pid*: by nsenter, not by the code under test."""
    done = subprocess.run(["nsenter", "--target", str(pid), "--all", *argv], capture_output=True, text=True, check=True)
    return done.stdout


class TestLxcDoor(ContainerContract):
    @pytest.fixture
    def look(self, door: LxcDoor) -> Look:
        return lambda: snapshot(door.lxcpath)


def test_a_whole_life(door: LxcDoor, container: Make) -> None:
    one = container(roles=("compute",))
    door.create(one)
    assert [(seen.container, seen.pid, seen.memory_bytes) for seen in door.observe()] == [
        (replace(one, running=False), 0, 0)
    ]
    door.start(one)
    (seen,) = door.observe()
    assert seen.container == one
    assert Path(f"/proc/{seen.pid}/comm").read_text().strip() == "init"
    assert seen.memory_bytes > 0
    assert pings("10.9.1.1")
    link = links()["t.c1"]
    assert (link["master"], link["mtu"]) == ("br0", 1450)
    address = inside(seen.pid, "ip", "addr", "show", "eth0")
    for part in ("02:00:00:00:00:01", "10.9.1.1/16 brd 10.9.255.255", "mtu 1450"):
        assert part in address
    assert "default via 10.9.0.1 dev eth0" in inside(seen.pid, "ip", "route")
    assert inside(seen.pid, "hostname").strip() == "c1"
    assert inside(seen.pid, "cat", "/etc/hostname").strip() == "c1"
    assert inside(seen.pid, "cat", "/etc/machine-id") == ""
    assert "10.9.1.1 c1 c1.example" in inside(seen.pid, "cat", "/etc/hosts")
    assert "PYTHON" not in Path(f"/proc/{seen.pid}/environ").read_text()
    door.stop(one)
    assert door.observe()[0].container.running is False
    assert "t.c1" not in links()
    assert [path for path in cgroups_of(door) if "t.c1" in path] == []
    door.delete(one)
    assert door.observe() == ()
    assert cgroups_of(door) == []
    assert not Path(f"/run/lxc/lock{door.lxcpath}").exists()


def test_what_it_wrote_stays_over_a_restart_and_the_image_is_as_it_was(
    door: LxcDoor, container: Make, images: Path
) -> None:
    one = container()
    door.create(one)
    door.start(one)
    inside(pid_of(door, one), "sh", "-c", "echo kept > /root/file")
    door.stop(one)
    door.start(one)
    assert inside(pid_of(door, one), "cat", "/root/file") == "kept\n"
    assert list(images.glob("*/*/rootfs/root/file")) == []


def snapshot(top: Path) -> set[tuple[str, int]]:
    return {(str(path), path.lstat().st_mtime_ns) for path in [top, *top.rglob("*")]}


def test_change_is_seen_at_once_by_what_runs(door: LxcDoor, container: Make) -> None:
    one = container()
    door.create(one)
    door.start(one)
    pid = pid_of(door, one)
    more = replace(one, roles=("api",), hosts=(*one.hosts, HostEntry(address=IPv4Address("10.9.1.2"), names=("c2",))))
    door.change(one, more)
    assert inside(pid, "cat", "/etc/hosts").splitlines()[-1] == "10.9.1.2 c2"
    assert door.observe()[0].container == more
    door.change(more, one)
    assert "c2" not in inside(pid, "cat", "/etc/hosts")
    assert pid_of(door, one) == pid


def test_another_mtu_is_there_after_a_restart(door: LxcDoor, container: Make) -> None:
    one = container()
    narrow = replace(one, nic=replace(one.nic, mtu=1400))
    door.create(one)
    door.start(one)
    door.stop(one)
    door.change(one, narrow)
    door.start(narrow)
    assert links()["t.c1"]["mtu"] == 1400
    assert "mtu 1400" in inside(pid_of(door, one), "ip", "addr", "show", "eth0")
    assert pings("10.9.1.1")


def test_a_failed_start_says_why_and_can_be_repeated(door: LxcDoor, container: Make) -> None:
    one = container()
    wrong = replace(one, nic=replace(one.nic, bridge="nobridge"))
    door.create(wrong)
    with pytest.raises(CaasError, match="nobridge") as failure:
        door.start(wrong)
    assert failure.value.code is Code.FAILED
    assert pid_of(door, wrong) == 0
    subprocess.run(["ip", "link", "add", "nobridge", "type", "bridge"], check=True)
    door.start(wrong)
    assert pid_of(door, wrong) > 0


def test_a_create_that_fails_half_way_leaves_nothing(door: LxcDoor, container: Make, images: Path) -> None:
    one = container()
    (door.lxcpath / ".new-t.c1").mkdir()  # and what a killed worker left is no hindrance
    rootfs = door.images.find("test-busybox").rootfs
    etc, away = rootfs / "etc", rootfs / "etc.away"
    etc.rename(away)
    try:
        with pytest.raises(CaasError):
            door.create(one)
        assert list(door.lxcpath.iterdir()) == []
    finally:
        away.rename(etc)
    door.create(one)
    assert len(door.observe()) == 1


def test_an_image_that_is_nowhere_is_refused(door: LxcDoor, container: Make) -> None:
    with pytest.raises(CaasError, match="neither declared nor built") as failure:
        door.create(container(image="nonesuch"))
    assert failure.value.code is Code.NOT_FOUND


def test_what_is_not_ours_is_neither_seen_nor_touched(door: LxcDoor, container: Make) -> None:
    one = container()
    place = door.lxcpath / one.name
    place.mkdir()
    (place / "config").write_text(f"lxc.uts.name = c1\nlxc.rootfs.path = dir:{place}/rootfs\n")
    door.storage_for(door.images.find(one.image).rootfs)  # tried once, in a folder that goes again
    before = snapshot(door.lxcpath)
    assert door.observe() == ()
    for call in (door.create, door.start, door.stop, door.delete):
        with pytest.raises(CaasError, match="not ours") as failure:
            call(one)
        assert failure.value.code is Code.NOT_OWNED
    assert snapshot(door.lxcpath) == before
    (place / "config").unlink()
    place.rmdir()


def test_an_image_without_an_init_is_refused(open_door: Callable[..., LxcDoor], container: Make, images: Path) -> None:
    door = open_door()
    init = door.images.find("test-busybox").rootfs / "sbin/init"
    one = container()
    door.create(one)
    init.rename(init.with_name("init.away"))
    try:
        with pytest.raises(CaasError, match="has no /sbin/init") as failure:
            door.create(container(2))
        assert failure.value.hint == "caas image build test-busybox"
        with pytest.raises(CaasError, match="has no /sbin/init"):
            door.start(one)
        assert pid_of(door, one) == 0
    finally:
        init.with_name("init.away").rename(init)


def test_an_init_that_does_not_listen_is_killed_in_the_end(open_door: Callable[..., LxcDoor], container: Make) -> None:
    door = open_door(stop_patience=1)
    one = container()
    door.create(one)
    (door.lxcpath / one.name / "delta/upper/deaf").touch()
    door.start(one)
    pid = pid_of(door, one)
    began = time.monotonic()
    door.stop(one)
    assert 0.9 < time.monotonic() - began < 8
    assert is_gone(pid)


def test_an_init_that_misses_the_first_signal_gets_another(open_door: Callable[..., LxcDoor], container: Make) -> None:
    """systemd drops what comes before it listens; a stop soon after a start would wait its whole patience."""
    door = open_door(stop_patience=30)
    one = container()
    door.create(one)
    (door.lxcpath / one.name / "delta/upper/dull").touch()
    door.start(one)
    began = time.monotonic()
    door.stop(one)
    assert 1 < time.monotonic() - began < 20


def test_a_running_one_is_deleted_at_once(open_door: Callable[..., LxcDoor], container: Make) -> None:
    door = open_door(stop_patience=30)
    one = container()
    door.create(one)
    (door.lxcpath / one.name / "delta/upper/deaf").touch()
    door.start(one)
    pid = pid_of(door, one)
    began = time.monotonic()
    door.delete(one)
    assert time.monotonic() - began < 10
    assert is_gone(pid)
    assert cgroups_of(door) == []
    door.delete(one)


def test_the_monitor_killed(door: LxcDoor, container: Make) -> None:
    one = container()
    door.create(one)
    door.start(one)
    pid, monitor = pid_of(door, one), monitor_of(door, one)
    os.kill(monitor, signal.SIGKILL)
    wait_for(lambda: is_gone(pid) and is_gone(monitor), "init survives its monitor")
    assert cgroups_of(door) != [], "nothing is left behind: this test proves nothing"
    assert pid_of(door, one) == 0
    wait_for(lambda: "t.c1" not in links(), "the veth stays")
    door.start(one)  # with its old cgroups there liblxc alone says "File exists"
    assert pings("10.9.1.1")
    os.kill(monitor_of(door, one), signal.SIGKILL)
    door.delete(one)
    assert cgroups_of(door) == []
    assert str(door.lxcpath) not in Path("/proc/self/mountinfo").read_text()


def test_a_worker_killed_while_it_works(open_door: Callable[..., LxcDoor], container: Make) -> None:
    door = open_door(workers=1, stop_patience=3)
    one = container()
    door.create(one)
    (door.lxcpath / one.name / "delta/upper/deaf").touch()
    door.start(one)
    (worker,) = set(door.pool.pids()) - {reader_pid(door)}
    failures: list[BaseException] = []

    def stop() -> None:
        try:
            door.stop(one)
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=stop)
    thread.start()
    wait_for(lambda: worker not in door.pool.pids(), "the worker never began")
    os.kill(worker, signal.SIGKILL)
    thread.join(20)
    assert failures == []
    assert pid_of(door, one) == 0
    (after,) = set(door.pool.pids()) - {reader_pid(door)}
    assert after != worker


def reader_pid(door: LxcDoor) -> int:
    return door.pool._readers.queue[0].process.pid


def test_a_removal_goes_on_where_a_worker_was_killed_in_it(open_door: Callable[..., LxcDoor], container: Make) -> None:
    door = open_door()
    one = container()
    for finish in (door.delete, lambda _: open_door().observe()):  # the same call again, and the next agent
        gone, lock = door.lxcpath / f".gone-{one.name}", Path(f"/run/lxc/lock{door.lxcpath}/.{one.name}")
        door.create(one)
        (door.lxcpath / one.name).rename(gone)  # it came so far
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
        finish(one)
        assert not gone.exists()
        assert not lock.exists()
        assert not door.observe()
        lock.parent.parent.mkdir(parents=True)  # all but the folders above the lock's
        finish(one)
        assert not lock.parent.parent.exists()


def test_idle_workers_killed(door: LxcDoor, container: Make) -> None:
    killed = door.pool.pids()
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    one = container()
    door.create(one)
    door.start(one)
    assert pings("10.9.1.1")
    assert len(door.observe()) == 1


def test_workers_have_never_seen_grpc(door: LxcDoor, container: Make) -> None:
    modules = door.pool.call("modules", timeout=10)
    assert "lxc" not in modules, "loaded before it is needed"
    door.create(container())
    loaded = {name for _ in range(20) for name in door.pool.call("modules", timeout=10)}
    assert {"agent.containers.operations", "lxc"} <= loaded
    assert [name for name in loaded if name.split(".")[0] in ("grpc", "google", "pydantic")] == []
    door.start(container())
    monitor = monitor_of(door, container())
    threads = [path.read_text().strip() for path in Path(f"/proc/{monitor}/task").glob("*/comm")]
    assert len(threads) == 1, threads


def test_a_monitor_and_a_worker_hold_nothing_of_each_other(door: LxcDoor, container: Make) -> None:
    """It would keep the worker's socket open: the worker would never learn that the agent has ended."""
    one = container()
    door.create(one)
    door.start(one)
    in_cgroups = {
        int(pid)
        for path in cgroups_of(door)
        if path.endswith("/cgroup.procs")
        for pid in Path(path).read_text().split()
    }
    assert monitor_of(door, one) in in_cgroups
    assert not in_cgroups & set(door.pool.pids()), "a worker sits in the monitor's cgroup"
    mine = {os.readlink(f"/proc/{pid}/fd/{sys_fd}") for pid in door.pool.pids() for sys_fd in socket_fds(pid)}
    held = {os.readlink(path) for path in Path(f"/proc/{monitor_of(door, one)}/fd").iterdir()}
    assert mine
    assert not mine & held


def socket_fds(pid: int) -> Iterator[str]:
    for path in Path(f"/proc/{pid}/fd").iterdir():
        if os.readlink(path).startswith("socket:"):
            yield path.name


AGENT = """
import sys, time
from pathlib import Path
from agent.containers.door import LxcDoor
from agent.containers.record import container_from_json
import json
door = LxcDoor(Path(sys.argv[1]), images=Path(sys.argv[2]), workers=2)
one = container_from_json(json.loads(sys.argv[3]))
door.create(one); door.start(one)
print(*door.pool.pids(), flush=True)
time.sleep(600)
"""


def test_a_container_survives_the_agent(
    open_door: Callable[..., LxcDoor], container: Make, state: Path, images: Path
) -> None:
    from agent.containers.record import container_to_json

    argv = [sys.executable, "-c", AGENT, str(state), str(images), json.dumps(container_to_json(container()))]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)}
    ) as agent:
        assert agent.stdout is not None
        workers = [int(pid) for pid in agent.stdout.readline().split()]
        agent.kill()
    assert len(workers) == 3
    wait_for(lambda: all(is_gone(pid) for pid in workers), "workers stay when the agent is killed")
    door = open_door()
    (seen,) = door.observe()
    assert seen.container == container()
    assert pings("10.9.1.1")
    door.stop(container())


def test_two_labs_on_one_machine(
    open_door: Callable[..., LxcDoor], container: Make, images: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The same names in two states: each sees its own, and deleting one leaves the other running."""
    door, one = open_door(), container()
    other_state = tmp_path_factory.mktemp("other")
    with LxcDoor(other_state, images=images, workers=1, stop_patience=5) as other:
        twin = replace(one, nic=replace(one.nic, port="twin"))
        try:
            for where, what in ((door, one), (other, twin)):
                where.create(what)
                where.start(what)
            pid = pid_of(other, twin)
            door.delete(one)
            assert door.observe() == ()
            assert pid_of(other, twin) == pid
            assert Path(f"/proc/{pid}").exists()
        finally:
            other.delete(twin)


def test_two_at_once_on_one_container(door: LxcDoor, container: Make) -> None:
    one = container()
    door.create(one)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: door.start(one), range(8)))
        assert pid_of(door, one) > 0
        list(threads.map(lambda _: door.stop(one), range(8)))
        assert pid_of(door, one) == 0
        list(threads.map(lambda _: door.delete(one), range(8)))
    assert door.observe() == ()


def test_start_and_stop_again_and_again(door: LxcDoor, container: Make) -> None:
    one = container()
    door.create(one)
    for _ in range(5):
        door.start(one)
        door.stop(one)
    assert [path for path in cgroups_of(door) if "t.c1" in path] == []


def test_sixty_four(door: LxcDoor, container: Make, capsys: pytest.CaptureFixture[str]) -> None:
    many = [container(number) for number in range(1, 65)]
    seconds = {}
    with ThreadPoolExecutor(16) as threads:
        for verb in ("create", "start", "observe", "stop", "delete"):
            began = time.perf_counter()
            if verb == "observe":
                door.observe()
                began = time.perf_counter()
                assert all(seen.pid for seen in door.observe())
            else:
                list(threads.map(getattr(door, verb), many))
            seconds[verb] = time.perf_counter() - began
            if verb == "start":
                assert pings("10.9.1.64")
    with capsys.disabled():
        print("\n64 containers:", ", ".join(f"{verb} {value:.2f} s" for verb, value in seconds.items()))
    assert door.observe() == ()


def ksm_of(pid: int) -> tuple[str, bool]:
    """Whether the kernel may merge its pages, and whether its addresses are fixed, in the kernel's own words."""
    stat = dict(line.split(maxsplit=1) for line in Path(f"/proc/{pid}/ksm_stat").read_text().splitlines())
    return stat["ksm_merge_any:"], int(Path(f"/proc/{pid}/personality").read_text(), 16) == ADDR_NO_RANDOMIZE


ADDR_NO_RANDOMIZE = 0x0040000  # personality(2)
MERGES, DOES_NOT = ("yes", True), ("no", False)


@pytest.mark.skipif("ksm_merge_any" not in Path("/proc/self/ksm_stat").read_text(), reason="the kernel does not tell")
def test_only_dense_containers_have_their_pages_merged(open_door: Callable[..., LxcDoor], container: Make) -> None:
    door = open_door(workers=1)  # the same process starts both
    dense, plain = container(1, merge=True), container(2)
    for one in (dense, plain):
        door.create(one)
        door.start(one)
    pids = {seen.container.name: seen.pid for seen in door.observe()}
    assert [ksm_of(pids[one.name]) for one in (dense, plain)] == [MERGES, DOES_NOT]
    said = inside(pids[dense.name], "cat", "/proc/1/ksm_stat")
    assert "ksm_merge_any: yes" in said
    assert {seen.container.name: seen.container.merge for seen in door.observe()} == {
        dense.name: True,
        plain.name: False,
    }
    for one in (dense, plain):  # the other way round, at the next start
        door.stop(one)
        door.change(one, replace(one, merge=not one.merge))
        door.start(one)
    pids = {seen.container.name: seen.pid for seen in door.observe()}
    assert [ksm_of(pids[one.name]) for one in (dense, plain)] == [DOES_NOT, MERGES]


@pytest.mark.skipif("ksm_merge_any" not in Path("/proc/self/ksm_stat").read_text(), reason="the kernel does not tell")
def test_a_dense_container_that_was_started_otherwise_is_seen_as_it_is(door: LxcDoor, container: Make) -> None:
    one = container()
    door.create(one)
    door.start(one)
    door.change(one, replace(one, merge=True))
    assert [seen.container.merge for seen in door.observe()] == [False]
