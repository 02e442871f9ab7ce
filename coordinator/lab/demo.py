"""`python -m coordinator.lab.demo [LAB]`: the demonstration of `make demo`, through the command line only.

It starts from nothing (`caas lab down`) and leaves the cluster running. What a ping looks like on the way is read
from raw sockets, and compared with what it must look like: the demonstration fails where it does not.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.lab.places import DEFAULT_LAB, Places
from coordinator.lab.processes import enter
from proto.errors import CaasError, Code

EXAMPLES = Path("examples")
CLUSTER, SECOND = "demo", "ubuntu012"
VID = 100
#: A container's frames arrive in the trunk's switch at its host's port.
TRUNK_PORT = "host2.eth1"
OUTSIDE, OUTSIDE_LINK = "203.0.113.254", "eth0"
SECOND_ADDRESS, NATBOX_ADDRESS = "192.168.10.51", "203.0.113.1"
PINGS = 3
CAPTURE_WAIT = 10.0


@dataclass(frozen=True, slots=True)
class Phase:
    """What was done, and how long it took."""

    title: str
    seconds: float


class Demonstration:
    """Runs the phases one after the other and remembers how long each took."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._caas = (sys.executable, "-m", "coordinator.cli.main")
        self._environment = {**os.environ, "CAAS_COORDINATOR": str(places.socket)}
        self._phases: list[Phase] = []

    def play(self) -> None:
        """All of it. FAILED or UNVERIFIED where something is not as it should be."""
        name = ("--name", self._places.lab)
        with self._phase("An empty machine: whatever an earlier demonstration left is removed"):
            self._run("lab", "down", *name)
        with self._phase("Two hosts, NATBox and the world outside"):
            self._run("lab", "up", *name)
        self._run("lab", "status", *name)
        with self._phase("A cloud with one compute: caas up examples/demo.yaml"):
            self._run("up", str(EXAMPLES / "demo.yaml"))
        _say("Nova's services:")
        self._run("openstack", CLUSTER, "--", "compute", "service", "list")
        with self._phase("One compute more: caas up examples/demo-two-computes.yaml"):
            self._run("up", str(EXAMPLES / "demo-two-computes.yaml"))
        _say("Nova's services now:")
        self._run("openstack", CLUSTER, "--", "compute", "service", "list")
        with self._phase(f"A ping from {SECOND} to the world outside, {OUTSIDE}"):
            self._ping()
        self._summary()

    def _ping(self) -> None:
        with ExitStack() as ended:
            trunk = ended.enter_context(self._capture("trunk", TRUNK_PORT))
            uplink = ended.enter_context(self._capture("outside", OUTSIDE_LINK))
            self._run("exec", CLUSTER, SECOND, "--", "ping", "-n", "-c", str(PINGS), "-i", "0.2", OUTSIDE)
            on_trunk, on_uplink = _requests(trunk), _requests(uplink)
        _say("The same requests, as they were seen on the way:")
        for where, pings in (("trunk", on_trunk), ("uplink", on_uplink)):
            for ping in pings:
                tag = "no tag " if ping["vid"] is None else f"tag {ping['vid']}"
                print(f"  {where:<7} {tag}  {ping['source']} -> {ping['destination']}", flush=True)
        _check_seen("trunk", on_trunk, vid=VID, source=SECOND_ADDRESS)
        _check_seen("uplink", on_uplink, vid=None, source=NATBOX_ADDRESS)

    @contextmanager
    def _capture(self, machine: str, link: str) -> Iterator[subprocess.Popen[bytes]]:
        argv = [*enter(self._places.namespace(machine)), sys.executable, "-m", "coordinator.lab.capture", link]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, bufsize=0)
        try:
            if _read_line(process, CAPTURE_WAIT) != "ready":
                raise CaasError(Code.FAILED, f"capture on {link} of {machine}: it did not start")
            yield process
        finally:
            process.kill()
            process.communicate()

    def _run(self, *words: str) -> None:
        _say(f"$ caas {' '.join(words)}", quiet=True)
        done = subprocess.run([*self._caas, *words], env=self._environment, check=False)
        if done.returncode != 0:
            raise CaasError(
                Code.FAILED,
                f"caas {' '.join(words)} ended with status {done.returncode}",
                hint=f"logs: {self._places.log}; caas logs {CLUSTER}; {_down(self._places.lab)} removes everything",
            )

    @contextmanager
    def _phase(self, title: str) -> Iterator[None]:
        print(f"\n== {len(self._phases) + 1}. {title}", flush=True)
        began = time.monotonic()
        yield
        self._phases.append(Phase(title, time.monotonic() - began))
        print(f"-- {self._phases[-1].seconds:.1f} s", flush=True)

    def _summary(self) -> None:
        print("\n== What it took")
        for phase in self._phases:
            print(f"  {phase.seconds:7.1f} s  {phase.title}")
        lab = self._places.lab
        environment = "" if lab == DEFAULT_LAB else f"\n  export CAAS_COORDINATOR={self._places.socket}"
        print(LOOK_AROUND.format(lab=lab, environment=environment, down=_down(lab)), end="", flush=True)


LOOK_AROUND = """
== The cluster keeps running. To look around (as root):{environment}
  .venv/bin/caas status demo
  .venv/bin/caas openstack demo -- hypervisor list
  .venv/bin/caas exec demo ubuntu012 -- ip address
  .venv/bin/caas lab status --name {lab}
  ip netns exec {lab}-trunk tcpdump -e -n -i host2.eth1
To remove all of it: {down}
"""


def _down(lab: str) -> str:
    return "make demo-down" if lab == DEFAULT_LAB else f".venv/bin/caas lab down --name {lab}"


def _say(line: str, *, quiet: bool = False) -> None:
    print(f"  {line}" if quiet else f"\n{line}", flush=True)


def _read_line(process: subprocess.Popen[bytes], seconds: float) -> str:
    """The next line of *process*, "" where none comes within *seconds*."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], max(0.0, seconds))
    return process.stdout.readline().decode().strip() if ready else ""


def _requests(process: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    """The echo requests to `outside` that a capture has seen arrive; waits for as many as were sent."""
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + CAPTURE_WAIT
    while len(found) < PINGS and (line := _read_line(process, deadline - time.monotonic())):
        ping = json.loads(line)
        if ping["kind"] == "request" and ping["destination"] == OUTSIDE and not ping["outgoing"]:
            found.append(ping)
    return found


def _check_seen(where: str, pings: list[dict[str, Any]], *, vid: int | None, source: str) -> None:
    if [(ping["vid"], ping["source"]) for ping in pings] != [(vid, source)] * PINGS:
        tag = "no tag" if vid is None else f"tag {vid}"
        raise CaasError(Code.UNVERIFIED, f"on the {where}: {PINGS} requests from {source} with {tag} were to be seen")


def main() -> int:
    """Exit status 0 when everything was as it should be, 1 otherwise, 130 when interrupted."""
    try:
        Demonstration(Places(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_LAB)).play()
    except CaasError as exc:
        print(f"error: {exc.message}", file=sys.stderr)
        if exc.hint:
            print(f"hint: {exc.hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; `make demo` begins again, `make demo-down` removes everything", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
