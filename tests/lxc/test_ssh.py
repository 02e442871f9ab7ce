"""Root is let in with the keys of the host, by the stock client; keys follow the host's file while all runs."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.containers.door import LxcDoor
from agent.containers.exec import ExecDoor
from agent.containers.image import IMAGES, ImageStore
from agent.containers.image_build import build_image
from coordinator.nova import Look, make_secrets, make_ssh_steps
from coordinator.steps import Step
from proto.model import Container
from tests.lxc.insides import DoorShell

DEADLINE = 30.0


@pytest.fixture(scope="module", autouse=True)
def base() -> None:
    """The machine's own image, which `make images` builds, too."""
    build_image(ImageStore(IMAGES), "base")


@pytest.fixture
def keys(tmp_path: Path) -> Callable[[str], Path]:
    """Makes key pairs by name; gives the private one."""

    def make(name: str) -> Path:
        path = tmp_path / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)], check=True)
        return path

    return make


@pytest.fixture
def authorized(tmp_path: Path) -> Path:
    return tmp_path / "authorized_keys"


@pytest.fixture
def door(open_door: Callable[..., LxcDoor], authorized: Path) -> LxcDoor:
    return open_door(images=IMAGES, stop_patience=30, authorized_keys=authorized)


@pytest.fixture
def commands(door: LxcDoor, state: Path) -> Iterator[ExecDoor]:
    opened = ExecDoor(state)
    yield opened
    opened.close()


def let_in(authorized: Path, text: str | None) -> None:
    """The host lets in whom *text* says; None: nobody."""
    if text is None:
        authorized.unlink()
    else:
        authorized.write_text(text)


def public(key: Path) -> str:
    return key.with_name(key.name + ".pub").read_text()


def login(key: Path, address: str, *options: str) -> subprocess.CompletedProcess[str]:
    """What the stock client makes of it."""
    common = "BatchMode=yes StrictHostKeyChecking=no UserKnownHostsFile=/dev/null IdentitiesOnly=yes ConnectTimeout=5"
    argv = ["ssh", "-F", "none", *(word for option in common.split() for word in ("-o", option))]
    argv += ["-i", str(key), *options, f"root@{address}", "id -un; hostname"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL)


def host_keys(address: str) -> set[str]:
    """Of the sshd at *address*, once it answers."""
    end = time.monotonic() + DEADLINE
    while True:
        done = subprocess.run(["ssh-keyscan", "-T", "5", address], capture_output=True, text=True, check=False)
        if found := {line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if not line.startswith("#")}:
            return found
        assert time.monotonic() < end, done.stderr
        time.sleep(0.05)


def seen(door: LxcDoor, one: Container) -> Container:
    (found,) = (entry.container for entry in door.observe() if entry.container.name == one.name)
    return found


def make_step(shell: DoorShell) -> Step:
    (step,) = make_ssh_steps(
        {shell.container: Look(shell)}, {shell.container: shell.one.nic.address.ip}, make_secrets()
    )
    return step


async def start(door: LxcDoor, commands: ExecDoor, one: Container) -> DoorShell:
    await asyncio.to_thread(door.create, one)
    await asyncio.to_thread(door.start, one)
    shell = DoorShell(commands, one)
    await shell.booted()
    return shell


@pytest.mark.slow
async def test_who_is_let_in(
    door: LxcDoor,
    commands: ExecDoor,
    container: Callable[..., Container],
    keys: Callable[[str], Path],
    authorized: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine, theirs = keys("mine"), keys("theirs")
    let_in(authorized, public(mine))
    one = container(image="base", ssh=True)
    shell = await start(door, commands, one)
    address = str(one.nic.address.ip)
    step = make_step(shell)
    assert await shell.read("systemctl is-active ssh", check=False) == "inactive", "it starts when it is wanted"
    assert "ssh_host" not in await shell.read("ls /etc/ssh"), "the image has no identity"
    assert not await step.done()
    await step.run()
    assert await step.done()
    began = time.perf_counter()
    done = login(mine, address)
    seconds = time.perf_counter() - began
    assert (done.returncode, done.stdout.split()) == (0, ["root", "c1"]), done.stderr
    assert login(theirs, address).returncode == 255
    asked = login(
        theirs, address, "-o", "PreferredAuthentications=password,keyboard-interactive,publickey", "-v"
    ).stderr
    assert "Authentications that can continue: publickey\n" in asked.replace("\r", "")
    # The host's file changes: told by a look, taken over without a restart.
    daemon = await shell.read("systemctl show -p MainPID --value ssh")
    assert seen(door, one) == one
    let_in(authorized, public(theirs))
    assert seen(door, one) == replace(one, ssh=None)
    door.change(seen(door, one), one)
    assert seen(door, one) == one
    assert (login(theirs, address).returncode, login(mine, address).returncode) == (0, 255)
    assert await shell.read("stat -c '%a %U' /root/.ssh/authorized_keys") == "600 root"
    # Somebody lets in somebody else, inside.
    await shell.read("echo ssh-ed25519 AAAA other >> /root/.ssh/authorized_keys")
    assert seen(door, one).ssh is None
    door.change(seen(door, one), one)
    # Nobody is let in any more.
    let_in(authorized, None)
    assert door.keyless() == str(authorized)
    door.change(seen(door, one), one)
    assert seen(door, one) == one
    assert login(theirs, address).returncode == 255
    assert await shell.read("systemctl show -p MainPID --value ssh") == daemon, "nothing was restarted"
    assert await step.done()
    with capsys.disabled():
        print(f"\na login by SSH takes {seconds:.2f} s")


@pytest.mark.slow
async def test_a_clone_is_somebody_else_and_a_stopped_one_gets_its_keys(
    door: LxcDoor,
    commands: ExecDoor,
    container: Callable[..., Container],
    keys: Callable[[str], Path],
    authorized: Path,
) -> None:
    mine = keys("mine")
    let_in(authorized, public(mine))
    one, two = container(1, image="base", ssh=True), container(2, image="base", ssh=True, clone_of="c1")
    three = container(3, image="base", clone_of="c1")
    await make_step(await start(door, commands, one)).run()
    first = host_keys(str(one.nic.address.ip))
    assert {key.split()[0] for key in first} == {"ssh-ed25519", "ecdsa-sha2-nistp256"}
    await asyncio.to_thread(door.stop, one)
    let_in(authorized, public(mine) + public(keys("more")))
    assert seen(door, one).ssh is None
    door.change(seen(door, one), replace(one, running=False))
    assert seen(door, one) == replace(one, running=False)
    shells = [await start(door, commands, clone) for clone in (two, three)]
    await asyncio.to_thread(door.start, one)
    second = host_keys(str(two.nic.address.ip))
    assert not first & second
    assert host_keys(str(one.nic.address.ip)) == first, "its own stay"
    assert await make_step(shells[0]).done(), "it came up by itself"
    assert login(mine, str(two.nic.address.ip)).returncode == 0
    assert login(mine, str(three.nic.address.ip)).returncode == 255, "nobody asked for SSH there"
    assert not seen(door, three).ssh


@pytest.mark.slow
async def test_keys_of_a_running_container_are_not_written_through_its_links(
    door: LxcDoor, commands: ExecDoor, container: Callable[..., Container], authorized: Path, tmp_path: Path
) -> None:
    let_in(authorized, "ssh-ed25519 AAAA host\n")
    one = container(image="base", ssh=True)
    shell = await start(door, commands, one)
    outside = tmp_path / "outside"
    outside.mkdir()
    await shell.read(f"rm -r /root/.ssh; mkdir -p {outside}; ln -s {outside} /root/.ssh")
    with pytest.raises(Exception, match=r"t\.c1: /root/\.ssh/authorized_keys"):
        door.change(seen(door, one), one)
    assert not list(outside.iterdir())
