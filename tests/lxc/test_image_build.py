"""Building images for real: nothing half-made, two builds at once, nothing secret. No network is needed."""

from __future__ import annotations

import itertools
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.containers.image import ImageStore
from agent.containers.image_build import build_image
from proto.errors import CaasError, Code

SLOW = "touch /root/started\nmount -t tmpfs tmpfs /mnt\nsleep {0}0 &\nsleep {0}1\n"
_serial = itertools.count()


def quiet(_: str) -> None: ...


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    (tmp_path / "declared").mkdir()
    return ImageStore(tmp_path / "images", tmp_path / "declared")


def declare(store: ImageStore, text: str = "", **scripts: str) -> None:
    names = ", ".join(f"{name}.sh" for name in scripts)
    run = f"run: [{names}]\n" if scripts else ""
    (store.declarations / "box.yaml").write_text(f"name: box\nbuilder: busybox\n{run}{text}")
    for name, script in scripts.items():
        (store.declarations / f"{name}.sh").write_text(script)


def command(store: ImageStore, *arguments: str) -> list[str]:
    where = ["--images", str(store.images), "--declarations", str(store.declarations)]
    return [sys.executable, "-m", "agent.containers.images_cli", *arguments, *where]


def run_cli(store: ImageStore, *arguments: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    return subprocess.run(command(store, *arguments), capture_output=True, text=True, cwd=root, check=False)


def running(*argv: str) -> bool:
    wanted = "\0".join(argv).encode() + b"\0"
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes() == wanted:
                return True
        except OSError:
            continue
    return False


def wait_until(what: object, text: str, deadline: float = 15) -> None:
    end = time.monotonic() + deadline
    while not what():  # type: ignore[operator]
        assert time.monotonic() < end, text
        time.sleep(0.02)


def test_what_is_declared_is_in_it(store: ImageStore) -> None:
    (store.declarations / "beside.conf").write_text("from beside\n")
    declare(
        store,
        "files:\n"
        "  /etc/inline: inline\n"
        "  /opt/a/b.conf: {source: beside.conf, mode: '0640', owner: 'nobody:nogroup'}\n"
        "halt_signal: SIGUSR2\n",
        one="id -u > /root/id; hostname > /root/name; ip -o link > /root/links; echo a > /root/order",
        two="echo b >> /root/order; test -x /usr/sbin/policy-rc.d; test -d /proc/1; echo x > /tmp/x",
    )
    result = build_image(store, "box", say=quiet)
    assert result.made
    root = result.build.rootfs
    assert (root / "etc/inline").read_text() == "inline"
    owned = (root / "opt/a/b.conf").stat()
    assert (stat.S_IMODE(owned.st_mode), owned.st_uid, owned.st_gid) == (0o640, 65534, 65534)
    assert (root / "root/id").read_text() == "0\n"
    assert (root / "root/name").read_text() == "localhost\n"
    assert "lo" in (root / "root/links").read_text()
    assert len((root / "root/links").read_text().splitlines()) == 1, "scripts see a network"
    assert (root / "root/order").read_text() == "a\nb\n"
    assert not (root / "usr/sbin/policy-rc.d").exists()
    assert list((root / "tmp").iterdir()) == []
    manifest = json.loads((result.build.path / "manifest.json").read_text())
    assert manifest["digest"] == result.build.path.name == store.wanted_digest("box")
    assert (manifest["halt_signal"], manifest["systemd"]) == ("SIGUSR2", False)
    assert manifest["packages"]["busybox-static"].startswith("v1.")
    assert manifest["size_bytes"] > 1_000_000


def test_nothing_changed_is_no_work_and_a_change_is_a_build_beside(store: ImageStore) -> None:
    declare(store)
    first = build_image(store, "box", say=quiet)
    before = {path: path.lstat().st_mtime_ns for path in store.images.rglob("*")}
    began = time.perf_counter()
    again = build_image(store, "box", say=quiet)
    assert time.perf_counter() - began < 0.5
    assert (first.made, again.made, again.build) == (True, False, first.build)
    assert {path: path.lstat().st_mtime_ns for path in store.images.rglob("*")} == before
    declare(store, "files: {/etc/new: text}\n")
    with pytest.raises(CaasError, match="its declaration changed since it was built"):
        store.find("box")
    second = build_image(store, "box", say=quiet)
    assert second.made
    assert store.find("box") == second.build
    assert store.builds("box") == (second.build, first.build)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_cut_off(store: ImageStore, number: signal.Signals) -> None:
    seconds = f"{os.getpid()}{next(_serial)}"  # nobody else's
    declare(store, slow=SLOW.format(seconds))
    root = Path(__file__).parents[2]
    with subprocess.Popen(command(store, "build", "box"), cwd=root, stderr=subprocess.DEVNULL) as builder:
        try:
            wait_until(lambda: running("sleep", seconds + "1"), "the script never ran")
            (temporary,) = (store.images / "box").glob(".building-*")
            assert (temporary / "rootfs/root/started").exists()
            builder.send_signal(number)
            builder.wait(15)
        finally:
            builder.kill()
    wait_until(lambda: not any(running("sleep", seconds + end) for end in "01"), "what it started lives on")
    assert str(store.images) not in Path("/proc/self/mountinfo").read_text()
    assert store.builds("box") == ()
    declare(store, slow="true")
    assert build_image(store, "box", say=quiet).made
    names = {path.name for path in (store.images / "box").iterdir()}
    assert names == {".lock", "build.log", store.wanted_digest("box")}, "something half-made is left"


def test_two_at_once_exclude_each_other(store: ImageStore) -> None:
    declare(store, slow="sleep 1; date +%s%N > /root/when")
    root = Path(__file__).parents[2]
    builders = [
        subprocess.Popen(command(store, "build", "box", "--json"), cwd=root, stdout=-1, stderr=-1, text=True)
        for _ in range(3)
    ]
    answers = [builder.communicate(timeout=60) for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0, 0], answers
    assert sorted(json.loads(out)["images"][0]["made"] for out, _ in answers) == [False, False, True]
    assert sum("waiting for another build" in errors for _, errors in answers) == 2
    assert len(store.builds("box")) == 1


def test_a_script_that_fails_shows_its_last_lines(store: ImageStore) -> None:
    declare(store, bad="echo before; echo the reason >&2; false; echo never")
    with pytest.raises(CaasError, match="the reason") as failure:
        build_image(store, "box", say=quiet)
    assert "never" not in failure.value.message
    assert str(store.images / "box/build.log") in failure.value.hint
    assert {path.name for path in (store.images / "box").iterdir()} == {".lock", "build.log"}


@pytest.mark.parametrize(
    ("script", "part"),
    [
        ("mkdir -p /etc/app; echo '-----BEGIN PRIVATE KEY-----' > /etc/app/key", "/etc/app/key"),
        ("mkdir -p /root/.ssh; echo x > /root/.ssh/id_rsa", "/root/.ssh/id_rsa"),
        ("rm /sbin/init", "no /sbin/init"),
    ],
)
def test_what_must_not_become_an_image(store: ImageStore, script: str, part: str) -> None:
    declare(store, bad=script)
    with pytest.raises(CaasError, match=part) as failure:
        build_image(store, "box", say=quiet)
    assert failure.value.code in (Code.FAILED, Code.NOT_FOUND)
    assert store.builds("box") == ()


def test_what_appears_by_itself_is_cleaned(store: ImageStore) -> None:
    declare(store, make="mkdir -p /etc/ssh; echo x > /etc/ssh/ssh_host_rsa_key; echo 8d5f > /etc/machine-id")
    root = build_image(store, "box", say=quiet).build.rootfs
    assert not (root / "etc/ssh/ssh_host_rsa_key").exists()
    assert (root / "etc/machine-id").read_text() == ""


def test_files_do_not_leave_the_image(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    declare(store, "files: {/link/file: text}\n")
    text = (store.declarations / "box.yaml").read_text()
    assert "/link/file" in text
    # The builder makes no link, so the file lands in a folder of the image, never on the machine.
    root = build_image(store, "box", say=quiet).build.rootfs
    assert (root / "link/file").read_text() == "text"
    assert not Path("/link").exists()


def test_an_owner_that_the_image_does_not_know(store: ImageStore) -> None:
    declare(store, "files: {/etc/a: {content: x, owner: mysql}}\n")
    with pytest.raises(CaasError, match="no user or group mysql"):
        build_image(store, "box", say=quiet)


def test_the_command_line(store: ImageStore) -> None:
    declare(store)
    listed = json.loads(run_cli(store, "list", "--json").stdout)["images"]
    assert [(row["name"], row["built"]) for row in listed] == [("box", False)]
    built = run_cli(store, "build", "box", "--json")
    assert (built.returncode, json.loads(built.stdout)["images"][0]["made"]) == (0, True)
    assert "built in" in built.stderr
    again = run_cli(store, "build", "box")
    assert again.stdout.endswith("unchanged\n")
    declare(store, "files: {/etc/new: text}\n")
    rows = json.loads(run_cli(store, "list", "--json").stdout)["images"]
    assert [(row["built"], row["current"]) for row in rows] == [(False, True), (True, False)]
    assert "not built" in run_cli(store, "list").stdout
    unknown = run_cli(store, "build", "bex")
    assert unknown.returncode == 1
    assert "hint: declared images: box" in unknown.stderr
    (store.declarations / "box.yaml").write_text("name: box\nbilder: busybox\n")
    wrong = run_cli(store, "build", "box")
    assert wrong.returncode == 2
    assert "did you mean 'builder'?" in wrong.stderr
