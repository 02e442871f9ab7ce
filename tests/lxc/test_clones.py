"""Clones of containers that run: the same files, another machine; the source goes on as if nothing had been."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.containers.door import LxcDoor
from agent.containers.exec import ExecDoor
from agent.containers.record import container_to_json
from agent.containers.rootfs import Storage
from agent.core.apply import apply
from coordinator.steps import Shell
from coordinator.unique import find_shared, make_unique_step
from proto.errors import CaasError, Code
from proto.model import Container, HostState, Plan
from tests.lxc.insides import DoorShell
from tests.lxc.test_door import cgroups_of, inside, is_gone, pid_of, wait_for
from tests.support.fakes import FakeKernel

Make = Callable[..., Container]

#: What makes a machine itself, and what only has a meaning while it runs.
OWN = {
    "/etc/machine-id": "8d5f0000000000000000000000000001",
    "/var/lib/dbus/machine-id": "8d5f0000000000000000000000000001",
    "/etc/ssh/ssh_host_rsa_key": "secret",
    "/etc/ssh/ssh_host_rsa_key.pub": "ssh-rsa AAAA root@c1",
    "/var/lib/nova/compute_id": "5e1f",
    "/var/lib/nova/instances/7/disk": "disk",
    "/var/lib/systemd/random-seed": "seed",
    "/etc/caas/ready/nova-compute": "/etc/nova/caas-compute.conf",
    "/etc/network/interfaces": "iface eth0 inet static",
    "/run/app.pid": "7",
    "/tmp/left": "x",
}
FILES = {"/etc/nova/caas-compute.conf": "host = c1", "/etc/resolv.conf": "nameserver 192.0.2.1", "/root/file": "kept"}
#: One number after the other, each to eight places: at any moment all have it, or some from the last on the one before.
COUNT = "i=0; while :; do i=$((i+1)); for n in 0 1 2 3 4 5 6 7; do echo $i > /n$n/count; done; done"


def root_of(door: LxcDoor, one: Container) -> Path:
    return Path(f"/proc/{pid_of(door, one)}/root")


def fill(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        (root / name.lstrip("/")).write_text(text)


def run_source(door: LxcDoor, one: Container) -> Path:
    """Make and start it, with files of all kinds in it; its root."""
    door.create(one)
    door.start(one)
    root = root_of(door, one)
    fill(root, {**OWN, **FILES})
    return root


def freezer_state(door: LxcDoor, one: Container) -> str:
    """What the kernel says: v1's file, or v2's put in v1's words."""
    folders = [Path(path) for path in cgroups_of(door) if path.endswith(f"/{one.name}")]
    for folder in folders:
        if (folder / "freezer.state").exists():
            return (folder / "freezer.state").read_text().strip()
    (events,) = [folder / "cgroup.events" for folder in folders if (folder / "cgroup.events").exists()]
    return "FROZEN" if "frozen 1" in events.read_text() else "THAWED"


def describe(root: Path) -> dict[str, object]:
    """Everything of *root* that is not a mount of its own: kind, owner, mode, time, content, attributes, links."""
    found: dict[str, object] = {}
    device = root.stat().st_dev
    names: dict[int, str] = {}
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if os.lstat(os.path.join(folder, name)).st_dev == device]
        for name in sorted((*folders, *files)):
            path = Path(folder, name)
            status = path.lstat()
            if status.st_dev != device:
                continue
            shown = f"/{path.relative_to(root)}"
            content = ""
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            attributes = {
                key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
            }
            when = 0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns
            twin = names.setdefault(status.st_ino, shown) if status.st_nlink > 1 and content else shown
            found[shown] = (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_rdev,
                when,
                content,
                attributes,
                twin,
            )
    return found


@pytest.mark.parametrize("storage", [Storage.OVERLAY, Storage.COPY])
def test_the_files_and_not_the_identity(open_door: Callable[..., LxcDoor], container: Make, storage: Storage) -> None:
    door = open_door(storage=storage)
    source, clone = container(roles=("compute",)), container(2, clone_of="c1", roles=("compute",))
    root = run_source(door, source)
    (root / "etc/inittab").unlink()
    pid, before = pid_of(door, source), describe(root)
    door.create(clone)
    assert describe(root) == before, "the source was touched"
    assert (pid_of(door, source), freezer_state(door, source)) == (pid, "THAWED")
    door.start(clone)
    seen = {one.container for one in door.observe()}
    assert seen == {source, clone}
    copy = root_of(door, clone)
    assert {name: (copy / name[1:]).read_text() for name in FILES} == FILES
    left = [name for name in OWN if (copy / name[1:]).exists() and (copy / name[1:]).read_text() == OWN[name]]
    assert left == []
    assert not (copy / "etc/inittab").exists(), "what was removed from the image is there again"
    assert (copy / "etc/hostname").read_text() == "c2\n"
    assert inside(pid_of(door, clone), "cat", "/etc/machine-id") == ""
    (copy / "root/file").write_text("changed")
    assert (root / "root/file").read_text() == "kept"
    door.delete(source)
    assert (copy / "root/file").read_text() == "changed"
    door.stop(clone)
    door.start(clone)
    assert (root_of(door, clone) / "root/file").read_text() == "changed"
    assert [path.name for path in door.lxcpath.iterdir()] == ["t.c2"]


def test_every_kind_of_file(door: LxcDoor, container: Make) -> None:
    """Whiteouts, opaque folders, hard links, holes, nodes, attributes: the clone shows what the source does."""
    source, clone = container(), container(2, clone_of="c1")
    root = run_source(door, source)
    shutil.rmtree(root / "home")
    shutil.rmtree(root / "mnt")
    (root / "mnt").mkdir(mode=0o2775)  # opaque: nothing of the image's shows through
    (root / "etc/rc").rename(root / "etc/rc2")
    (root / "root/one").write_text("linked")
    os.link(root / "root/one", root / "root/two")
    with (root / "root/holes").open("wb") as file:
        file.truncate(2**26)
        file.seek(2**25)
        file.write(b"x")
    (root / "root/holes").chmod(0o4711)
    os.mknod(root / "root/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(root / "root/fifo")
    os.symlink("/nowhere", root / "root/link")
    os.setxattr(root / "root/file", "user.caas", b"kept")
    capability = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw+ep, capabilities(7)
    os.setxattr(root / "root/file", "security.capability", capability)
    os.chown(root / "root/file", 7, 8)
    os.utime(root / "root/file", (1, 1))
    door.create(clone)
    door.start(clone)
    wanted, found = describe(root), describe(root_of(door, clone))
    differing = {name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)}
    cleaned = {str(parent) for name in OWN for parent in [Path(name), *Path(name).parents]}
    assert differing - cleaned - {"/etc/hostname"} == set()
    assert {"/root/two", "/root/null", "/root/fifo", "/root/link"} < found.keys()
    assert (root_of(door, clone) / "root/holes").stat().st_blocks * 512 < 2**20
    upper = door.lxcpath / clone.name / "delta/upper"
    assert os.getxattr(upper / "mnt", "trusted.overlay.opaque") == b"y", "this test proves nothing"
    assert stat.S_ISCHR((upper / "home").lstat().st_mode), "this test proves nothing"


def test_a_copy_is_of_one_moment(door: LxcDoor, container: Make) -> None:
    """Its source writes as fast as it can, all over what is copied."""
    source = container()
    root = run_source(door, source)
    for place in range(8):
        fill(root, {f"/n{place}/{number}": "x" for number in range(60)})
    # Not nsenter, which leaves a process in the cgroup that it came from.
    counting = subprocess.Popen(["lxc-attach", "-P", door.lxcpath, "-n", source.name, "--", "sh", "-c", COUNT])
    try:
        wait_for((root / "n7/count").exists, "it does not count")
        for clone in (container(2, clone_of="c1"), container(3, clone_of="c1")):
            door.create(clone)
            upper = door.lxcpath / clone.name / "delta/upper"
            texts = [(upper / f"n{place}/count").read_text() for place in range(8)]
            numbers = [int(text) for text in texts if text]
            assert len(numbers) >= 7, "more than one file is just being written"
            assert numbers == sorted(numbers, reverse=True)
            assert numbers[0] - numbers[-1] <= 1
        seen = (root / "n0/count").read_text()
        wait_for(lambda: (root / "n0/count").read_text() not in ("", seen), "it counts no more")
    finally:
        counting.kill()
        counting.wait()


def test_no_link_of_the_source_leads_to_the_hosts_own_files(door: LxcDoor, container: Make, tmp_path: Path) -> None:
    """In the source /var/lib/nova leads to a folder that it does not have. The host has one of that name."""
    hosts = tmp_path / "hosts-own"
    fill(hosts, {"compute_id": "host", "instances/1/disk": "host", "log/syslog": "host", "machine-id": "host"})
    before = describe(hosts)
    source, clone = container(), container(2, clone_of="c1")
    root = run_source(door, source)
    shutil.rmtree(root / "var/lib/nova")
    shutil.rmtree(root / "var/log")
    (root / "var/lib/nova").symlink_to(hosts)
    (root / "var/log").symlink_to(hosts / "log")
    door.create(clone)
    assert describe(hosts) == before
    door.stop(source)
    shutil.rmtree(door.lxcpath / source.name / "delta/upper/etc")
    (door.lxcpath / source.name / "delta/upper/etc").symlink_to(hosts)
    with pytest.raises(CaasError, match="etc"):
        door.create(container(3, clone_of="c1"))
    assert describe(hosts) == before
    assert sorted(path.name for path in door.lxcpath.iterdir()) == ["t.c1", "t.c2"]


def test_many_clones_are_one_look(door: LxcDoor, container: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    source = container()
    run_source(door, source)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(door.create, [container(number, clone_of="c1") for number in range(2, 26)]))
    assert len([record for record in caplog.records if "read for its clones" in record.message]) == 1
    assert len(door.observe()) == 25


def test_what_is_refused(door: LxcDoor, container: Make) -> None:
    with pytest.raises(CaasError, match=r"no container t\.c1 to clone") as failure:
        door.create(container(2, clone_of="c1"))
    assert failure.value.code is Code.NOT_FOUND
    door.create(container())
    with pytest.raises(CaasError, match="its image is other") as failure:
        door.create(container(2, clone_of="c1", image="other"))
    assert failure.value.code is Code.CONFLICT
    assert [path.name for path in door.lxcpath.iterdir()] == ["t.c1"]


def apply_to(door: LxcDoor, *wanted: Container) -> Plan:
    state = HostState(containers=wanted)
    return apply(
        FakeKernel(), door, "t", state, others=HostState(), on_plan=lambda plan: None, on_done=lambda action: None
    )


def test_applied_twice_and_without_its_source(door: LxcDoor, container: Make) -> None:
    source, clones = container(), [container(number, clone_of="c1") for number in (2, 3)]
    apply_to(door, source)
    (root_of(door, source) / "root/file").write_text("kept")
    apply_to(door, source, *clones)
    for clone in clones:
        assert (root_of(door, clone) / "root/file").read_text() == "kept"
    writes, seen = door.writes, {one.container: one.pid for one in door.observe()}
    assert set(seen) == {source, *clones}
    assert apply_to(door, source, *clones) == ()
    assert door.writes == writes
    apply_to(door, *clones)
    assert {one.container: one.pid for one in door.observe()} == {clone: seen[clone] for clone in clones}
    assert apply_to(door, *clones) == ()
    with pytest.raises(CaasError, match=r"there is no t\.c1 on this host") as failure:
        apply_to(door, *clones, container(4, clone_of="c1"))
    assert failure.value.code is Code.NOT_FOUND


AGENT = """
import json, sys
from pathlib import Path
from agent.containers.door import LxcDoor
from agent.containers.record import container_from_json
door = LxcDoor(Path(sys.argv[1]), images=Path(sys.argv[2]), workers=2)
print(*door.pool.pids(), flush=True)
door.create(container_from_json(json.loads(sys.argv[3])))
print("made", flush=True)
"""


@pytest.mark.parametrize("moment", [".frozen-t.c1", ".seed-t.c1*/delta/upper/root", ".new-t.c2/delta/upper/root"])
def test_killed_half_way(
    open_door: Callable[..., LxcDoor], container: Make, state: Path, images: Path, moment: str
) -> None:
    """The agent and its workers, while the source is frozen, or read, or the clone half there: the next start mends."""
    source, clone = container(), container(2, clone_of="c1")
    door = open_door()
    root = run_source(door, source)
    for number in range(1500):
        (root / f"root/{number}").write_text("x")
    (root / "root/last").write_text("kept")
    argv = [sys.executable, "-c", AGENT, str(state), str(images), json.dumps(container_to_json(clone))]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as agent:
        assert agent.stdout is not None
        workers = [int(pid) for pid in agent.stdout.readline().split()]
        wait_for(lambda: any(door.lxcpath.glob(moment)), f"{moment} never came")
        for pid in (agent.pid, *workers):
            os.kill(pid, signal.SIGKILL)
        assert agent.stdout.read() == "", "it came too late: this test proves nothing"
    wait_for(lambda: all(is_gone(pid) for pid in workers), "workers stay")
    left = [path.name for path in door.lxcpath.iterdir()]
    assert "t.c2" not in left
    assert left != ["t.c1"], "nothing was half-made: this test proves nothing"
    assert ".frozen-t.c1" not in left or freezer_state(door, source) != "THAWED"
    again = open_door()
    assert freezer_state(again, source) == "THAWED"
    assert [path.name for path in again.lxcpath.iterdir()] == ["t.c1"]
    apply_to(again, source, clone)
    assert (root_of(again, clone) / "root/last").read_text() == "kept"


def test_a_worker_killed_while_the_source_is_frozen(open_door: Callable[..., LxcDoor], container: Make) -> None:
    """The call is made again by another one, and the source runs afterwards."""
    door = open_door(workers=1)
    source, clone = container(), container(2, clone_of="c1")
    root = run_source(door, source)
    for number in range(1500):
        (root / f"root/{number}").write_text("x")
    (worker,) = set(door.pool.pids()) - {door.pool._readers.queue[0].process.pid}
    with ThreadPoolExecutor(1) as threads:
        making = threads.submit(door.create, clone)
        wait_for(lambda: any(door.lxcpath.glob(".frozen-*")), "it was never frozen")
        os.kill(worker, signal.SIGKILL)
        making.result(30)
    assert freezer_state(door, source) == "THAWED"
    assert sorted(path.name for path in door.lxcpath.iterdir()) == ["t.c1", "t.c2"]


async def test_clones_are_unique_and_twins_are_found(door: LxcDoor, container: Make, exec_door: ExecDoor) -> None:
    source = container()
    run_source(door, source)
    every = [source, *(container(number, clone_of="c1") for number in (2, 3))]
    for clone in every[1:]:
        door.create(clone)
        door.start(clone)
    shells: dict[str, Shell] = {one.hostname: DoorShell(exec_door, one) for one in every}
    assert await find_shared(shells) == ()
    for clone in every[1:]:
        (root_of(door, clone) / "etc/machine-id").unlink()
        fill(
            root_of(door, clone),
            {"/etc/machine-id": "2222\n", "/var/lib/nova/compute_id": OWN["/var/lib/nova/compute_id"]},
        )
    assert {(one.kind, one.value, one.containers) for one in await find_shared(shells)} == {
        ("machine-id", "2222", ("c2", "c3")),
        ("nova compute_id", "5e1f", ("c1", "c2", "c3")),
    }
    with pytest.raises(CaasError, match="c2, c3 have the same machine-id"):
        await make_unique_step(shells).run()
