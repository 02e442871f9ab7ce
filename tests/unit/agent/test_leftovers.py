"""What a removal leaves in files, mounts and cgroups is named; and an agent says so with the end of the removal."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import agent.leftovers as module
from agent.host import Host
from agent.kernel.leftovers import NetworkLeftovers
from agent.leftovers import Leftovers
from agent.saved import SavedStates
from proto.errors import CaasError, Code
from proto.model import Cost
from tests.support.fakes import FakeContainers, FakeKernel, FakeLeftovers
from tests.support.scenarios import BESIDE, DEMO
from tests.support.things import TRUNK


@pytest.fixture
def clock() -> Iterator[float]:
    return iter(float(second) for second in range(0, 1000, 10))


@pytest.fixture
def leftovers(tmp_path: Path, clock: Iterator[float], monkeypatch: pytest.MonkeyPatch) -> Leftovers:
    """Of an agent whose machine is *tmp_path*."""
    monkeypatch.setattr(module, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(module, "LOCKS", tmp_path / "lock")
    monkeypatch.setattr(module, "MOUNTINFO", tmp_path / "mountinfo")
    monkeypatch.setattr(NetworkLeftovers, "find", lambda self, cluster: [])
    monkeypatch.setattr(NetworkLeftovers, "list_settings", lambda self: {"eth1": []})
    (tmp_path / "mountinfo").write_text("22 1 0:20 / /sys rw - sysfs sysfs rw\n")
    for folder in ("cgroup/memory", "cgroup/unified", "state/desired", "state/containers/demo2.c1"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "state/desired/demo2.json").touch()
    return Leftovers(tmp_path / "state", clock=clock.__next__)


def base(root: Path) -> str:
    return f"caas-{hashlib.sha256(str(root / 'state/containers').encode()).hexdigest()[:12]}"


def make(root: Path, what: str) -> str:
    """Leave something behind; how it is to be told."""
    lxcpath = root / "state/containers"
    match what:
        case "saved state":
            (root / "state/desired/demo.json").touch()
            return f"file {root}/state/desired/demo.json"
        case "container" | "half a container" | "half-removed container":
            prefix = {"container": "", "half a container": ".new-", "half-removed container": ".gone-"}[what]
            (lxcpath / f"{prefix}demo.c1").mkdir()
            return f"folder {lxcpath}/{prefix}demo.c1"
        case "lock":
            path = root / "lock" / str(lxcpath).lstrip("/") / ".demo.c1"
            path.parent.mkdir(parents=True)
            path.touch()
            return f"file {path}"
        case "mount":
            (root / "mountinfo").write_text(f"30 22 0:40 / {lxcpath}/demo.c1/mnt rw - overlay overlay rw\n")
            return f"mount {lxcpath}/demo.c1/mnt"
        case _:
            path = root / "cgroup/memory" / base(root) / "demo.c1"
            path.mkdir(parents=True)
            return f"cgroup {path}"


KINDS = ("saved state", "container", "half a container", "half-removed container", "lock", "mount", "cgroup")


def test_another_clusters_things_are_not_told(leftovers: Leftovers, tmp_path: Path) -> None:
    (tmp_path / "cgroup/memory" / base(tmp_path) / "demo2.c1").mkdir(parents=True)
    assert leftovers.find("demo", is_last=False) == ()


@pytest.mark.parametrize("what", KINDS)
def test_what_is_left_is_named(leftovers: Leftovers, tmp_path: Path, what: str) -> None:
    told = make(tmp_path, what)
    assert leftovers.find("demo", is_last=False) == (told,)


def test_our_own_cgroup_goes_with_the_last_cluster(leftovers: Leftovers, tmp_path: Path) -> None:
    (tmp_path / "cgroup/unified" / base(tmp_path)).mkdir()
    assert leftovers.find("demo", is_last=False) == ()
    assert leftovers.find("demo", is_last=True) == (f"cgroup {tmp_path}/cgroup/unified/{base(tmp_path)}",)


def test_what_goes_in_a_moment_is_waited_for(
    leftovers: Leftovers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "lock")
    slow = Leftovers(tmp_path / "state")
    path = next((tmp_path / "lock").rglob(".demo.c1"))
    monkeypatch.setattr("agent.leftovers.time.sleep", lambda _: path.unlink(missing_ok=True))
    assert slow.find("demo", is_last=False) == ()


def test_a_look_that_fails_is_told_and_is_no_empty_answer(
    leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: NetworkLeftovers, cluster: str) -> list[str]:
        raise CaasError(Code.FAILED, "nft: No such file or directory")

    monkeypatch.setattr(NetworkLeftovers, "find", fail)
    assert leftovers.find("demo", is_last=True) == ("it cannot be looked at: nft: No such file or directory",)


def destroy(host: Host, cluster: str) -> Cost:
    return host.destroy(cluster, dry_run=False, on_plan=lambda _: None, on_done=lambda _: None)


def test_an_agent_looks_before_its_first_cluster_and_after_each_removal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    looks = FakeLeftovers()
    kernel = FakeKernel(foreign=[TRUNK])
    host = Host("host1", kernel, FakeContainers(), SavedStates(tmp_path), leftovers=looks)
    for desired in (DEMO, BESIDE):
        host.apply(desired, on_plan=lambda _: None, on_done=lambda _: None)
    assert looks.calls == ["remember"]
    assert destroy(host, "demo").left == ()
    looks.left = ("link x (caas:blue:x)",)
    with caplog.at_level(logging.ERROR):
        assert destroy(host, "blue").left == ("link x (caas:blue:x)",)
    assert "blue: left after its removal: link x (caas:blue:x)" in caplog.text
    assert looks.calls[1:] == ["find demo", "find blue last"]
