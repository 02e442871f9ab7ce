"""stack.sh of a small repository of ours in a real container: it writes down what it was given."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from agent.containers.door import LxcDoor
from agent.containers.exec import ExecDoor
from agent.containers.image import IMAGES, ImageStore
from agent.containers.image_build import build_image
from coordinator.devstack.steps import StackStep, StartStep
from proto.errors import CaasError, Code
from proto.model import Container
from tests.lxc.insides import DoorShell

LOCAL_CONF = "[[local|localrc]]\nADMIN_PASSWORD=admin\nX=$DEST/ä \nENABLED_SERVICES+=,-n-cpu\n"
#: What stack.sh is: it appends one JSON object for each run, and behaves as files in /srv say.
STACK = r"""#!/usr/bin/python3
import hashlib, json, os, pathlib, pwd, subprocess, sys, time
given = {
    "user": pwd.getpwuid(os.getuid()).pw_name, "uid": os.getuid(), "groups": os.getgroups(), "gid": os.getgid(),
    "cwd": os.getcwd(), "argv": sys.argv, "env": dict(os.environ), "umask": os.umask(0o22),
    "local_conf": pathlib.Path(sys.argv[0]).with_name("local.conf").read_bytes().hex(), "stdin": sys.stdin.read(),
    "owner": pathlib.Path(sys.argv[0]).with_name("local.conf").owner(),
    "sudo": subprocess.run(["sudo", "-n", "id", "-un"], capture_output=True, text=True).stdout.strip(),
    "version": "VERSION",
}
with open("/home/rally/given", "a") as file:
    file.write(json.dumps(given) + "\n")
print("stacking", flush=True)
while os.path.exists("/srv/slow"):
    time.sleep(0.05)
if os.path.exists("/srv/fail"):
    sys.exit("no luck today")
"""
MAKE_REPO = r"""
set -e
git init -q -b master /srv/devstack; cd /srv/devstack
git config user.email a@example.net; git config user.name a
cat > stack.sh; chmod +x stack.sh; git add stack.sh; git commit -q -m one
git checkout -q -b stable/x; sed -i s/VERSION/branch/ stack.sh; git commit -q -a -m two; git checkout -q master
"""
#: A nova as stack.sh leaves one, in place of one: a program that stays, and its configuration.
NOVA = r"""
mkdir -p /etc/nova; printf '[DEFAULT]\nmy_ip = 10.9.1.1\n[x]\ny = z\n' > /etc/nova/nova.conf
printf '#!/bin/sh\nwhile :; do sleep 1; done\n' > /usr/local/bin/nova-compute; chmod 755 /usr/local/bin/nova-compute
"""


@pytest.fixture
def door(open_door: Callable[..., LxcDoor]) -> LxcDoor:
    build_image(ImageStore(IMAGES), "base")
    return open_door(images=IMAGES, stop_patience=30)


@pytest.fixture
def commands(door: LxcDoor, state: Path) -> Iterator[ExecDoor]:
    opened = ExecDoor(state)
    yield opened
    opened.close()


async def start(door: LxcDoor, commands: ExecDoor, one: Container) -> DoorShell:
    await asyncio.to_thread(door.start, one)
    shell = DoorShell(commands, one)
    await shell.booted()
    return shell


@pytest.fixture
async def shell(door: LxcDoor, commands: ExecDoor, container: Callable[..., Container]) -> DoorShell:
    """A container with our repository in it."""
    one = container(image="base")
    await asyncio.to_thread(door.create, one)
    found = await start(door, commands, one)
    await found.run(["sh", "-c", MAKE_REPO], stdin=STACK.encode())
    return found


def make_step(shell: DoorShell, **changes: Any) -> StackStep:
    step = StackStep(
        id="devstack/stack:c1",
        title="",
        needs=frozenset(),
        shell=shell,
        repo="file:///srv/devstack",
        branch="master",
        local_conf=LOCAL_CONF,
        nameservers=("10.9.0.1",),
    )
    return replace(step, **changes)


async def given(shell: DoorShell) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await shell.read("cat /home/rally/given || :")).splitlines()]


@pytest.mark.slow
async def test_stack_sh_is_given_what_rally_gave_it(shell: DoorShell) -> None:
    step = make_step(shell)
    assert not await step.done()
    await step.run()
    assert await step.done()
    (one,) = await given(shell)
    assert bytes.fromhex(one["local_conf"]).decode() == LOCAL_CONF
    assert (one["user"], one["owner"], one["cwd"]) == ("rally", "rally", "/home/rally")
    assert one["argv"] == ["/home/rally/devstack/stack.sh"]
    assert one["groups"] == [one["gid"]], "root's groups are not rally's"
    assert one["sudo"] == "root"
    assert (one["stdin"], one["umask"]) == ("", 0o22)
    assert one["env"] == {
        "HOME": "/home/rally",
        "USER": "rally",
        "LOGNAME": "rally",
        "SHELL": "/bin/bash",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        **{key: value for key, value in one["env"].items() if key == "LC_CTYPE"},  # Python's own (PEP 538)
    }
    assert await shell.read("cat /var/log/caas/stack.sh.log") == "stacking"
    assert await shell.read("cat /etc/resolv.conf") == "nameserver 10.9.0.1"
    assert await shell.read("visudo -c -q && stat -c %a /etc/sudoers.d/rally") == "440"


@pytest.mark.slow
async def test_it_runs_again_for_another_local_conf_and_for_what_the_branch_has_become(shell: DoorShell) -> None:
    await make_step(shell).run()
    other = make_step(shell, local_conf=LOCAL_CONF + "A=B\n", nameservers=())
    assert not await other.done()
    await shell.read("cd /srv/devstack && sed -i s/VERSION/newer/ stack.sh && git commit -q -a -m three")
    assert await make_step(shell).done(), "a branch that has moved is no reason to run for an hour"
    await other.run()
    assert await other.done()
    assert not await make_step(shell).done()
    branch = make_step(shell, branch="stable/x")
    await branch.run()
    assert await branch.done()
    runs = await given(shell)
    assert [run["version"] for run in runs] == ["VERSION", "newer", "branch"]
    assert bytes.fromhex(runs[1]["local_conf"]).decode() == LOCAL_CONF + "A=B\n"
    await shell.read("git clone -q /srv/devstack /srv/moved")
    moved = make_step(shell, repo="file:///srv/moved")
    await moved.run()
    assert await shell.read("git -C /home/rally/devstack -c safe.directory=* remote get-url origin") == moved.repo


@pytest.mark.slow
async def test_what_fails_is_told_and_tried_again(shell: DoorShell) -> None:
    step = make_step(shell)
    await step.run()
    await shell.read("touch /srv/fail")
    other = make_step(shell, local_conf="B=C\n")
    with pytest.raises(CaasError, match=r"(?s)stack\.sh ended with 1.*/var/log/caas/stack\.sh\.log.*no luck today"):
        await other.run()
    assert not await other.done()
    assert not await step.done(), "what a failed run has left is not what ran well before"
    await shell.read("rm /srv/fail")
    await other.run()
    assert await other.done()
    with pytest.raises(CaasError, match=r"(?s)git clone.*nowhere"):
        await make_step(shell, repo="file:///srv/nowhere").run()


@pytest.mark.slow
async def test_one_that_is_cut_off_ends_and_the_next_goes_on(shell: DoorShell) -> None:
    await shell.read("touch /srv/slow")
    step = make_step(shell)
    running = asyncio.create_task(step.run())
    end = time.monotonic() + 60
    while not await given(shell):
        assert time.monotonic() < end, "stack.sh did not begin"
        assert not running.done()
        await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    while await shell.read("pgrep -f [d]evstack/stack.sh", check=False):
        assert time.monotonic() < end, "stack.sh goes on without anybody who waits for it"
        await asyncio.sleep(0.05)
    assert not await step.done()
    await shell.read("rm /srv/slow")
    await step.run()
    assert await step.done()
    assert len(await given(shell)) == 2


@pytest.mark.slow
async def test_a_clone_gets_its_own_address_and_runs_no_stack(
    shell: DoorShell, door: LxcDoor, commands: ExecDoor, container: Callable[..., Container]
) -> None:
    await make_step(shell).run()
    start_step = StartStep(
        id="devstack/start:c1", title="", needs=frozenset(), shell=shell, address=IPv4Address("10.9.1.1")
    )
    assert await start_step.done(), "stack.sh has left no nova"
    await shell.read(NOVA)
    await asyncio.to_thread(door.stop, shell.one)
    two = container(2, image="base", clone_of="c1")
    await asyncio.to_thread(door.create, two)
    for number, one in ((1, shell.one), (2, two)):
        inside = await start(door, commands, one)
        step = replace(start_step, shell=inside, address=one.nic.address.ip)
        assert not await step.done()
        await step.run()
        assert await step.done()
        wanted = f"[DEFAULT]\nmy_ip = 10.9.1.{number}\n[x]\ny = z"
        assert await inside.read("cat /etc/nova/nova.conf") == wanted
        assert await inside.read("ps -o user= -p $(pgrep -f ^/bin/sh./usr/local/bin/nova-compute)") == "rally"
        assert len(await given(inside)) == 1
        assert await make_step(inside).done()


async def test_nothing_is_done_where_the_container_is_away(
    door: LxcDoor, commands: ExecDoor, container: Callable[..., Container]
) -> None:
    with pytest.raises(CaasError) as caught:
        await make_step(DoorShell(commands, container(image="base"))).done()
    assert caught.value.code is Code.NOT_FOUND
