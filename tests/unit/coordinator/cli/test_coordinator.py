"""Commands that ask the coordinator: what they send, what they print where, and what they exit with."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from coordinator.cli.client import find_address
from proto import coordinator_pb2 as pb
from proto.errors import CaasError, Code

ROOT = Path(__file__).parents[4]
NOTHING: dict[str, Any] = {"hosts": {}, "natbox": [], "steps": []}
PLAN: dict[str, Any] = {
    "hosts": {"host2": {"actions": [{"verb": "create", "kind": "vlan", "name": "eth1.100", "why": "missing"}]}},
    "natbox": [{"verb": "change", "kind": "gateway", "name": "demo/cluster", "why": "neighbours"}],
    "steps": [{"id": "nova/start:ubuntu012", "needs": ["nova/config:ubuntu012"]}],
}
STATUS: dict[str, Any] = {
    "cluster": "demo",
    "state": "up",
    "generation": 2,
    "hosts": {"host1": {"agent": "up", "datapath": {"vlan": "bpf", "ipip": ""}}},
    "overlay": [{"a": "host1", "b": "host2", "method": "vxlan", "why": "so it is"}],
    "containers": [
        {
            "name": "ubuntu011",
            "host": "host1",
            "address": "192.168.10.50/24",
            "state": "running",
            "pid": 77,
            "roles": ["database", "compute"],
            "memory_bytes": 300 << 20,
        }
    ],
    "nova": {
        "services": [{"binary": "nova-compute", "host": "ubuntu011", "state": "up", "status": "enabled"}],
        "computes_up": 1,
    },
}


def _event(state: pb.Event.State, title: str = "", **more: Any) -> pb.Event:
    return pb.Event(id=title, title=title, state=state, **more)


def _summary(**document: Any) -> pb.Event:
    return pb.Event(state=pb.Event.SUMMARY, document=json.dumps(document))


UP = [
    _event(pb.Event.STARTED, "look", phase="look"),
    _event(pb.Event.DONE, "look", phase="look", seconds=0.4),
    _event(pb.Event.STARTED, "keystone: bootstrap", phase="nova"),
    _event(pb.Event.SKIPPED, "database: start", phase="nova"),
    _event(pb.Event.NOTE, phase="nova", message="one more thing"),
    _event(pb.Event.DONE, "keystone: bootstrap", phase="nova", seconds=12.3),
    _summary(computes_up=1, steps=["x"], writes={"kernel": 3, "containers": 1}, phases={"look": 0.4, "nova": 95.0}),
]


# Where the coordinator is


@pytest.mark.parametrize(
    ("environ", "call", "address"),
    [
        ({}, {}, "/run/caas/coordinator.sock"),
        ({"CAAS_LAB": "lab"}, {}, "/run/caas/coordinator.sock"),
        ({"CAAS_LAB": "two"}, {}, "/run/caas/two/coordinator.sock"),
        ({"CAAS_LAB": "two", "CAAS_COORDINATOR": "unix:/x"}, {}, "unix:/x"),
        ({"CAAS_COORDINATOR": "/x"}, {"lab": "two"}, "/run/caas/two/coordinator.sock"),
        ({"CAAS_COORDINATOR": "/x"}, {"coordinator": "/y"}, "/y"),
        ({"CAAS_LAB": ""}, {}, "/run/caas/coordinator.sock"),
    ],
)
def test_where_the_coordinator_is(environ: dict[str, str], call: dict[str, str], address: str) -> None:
    assert find_address(environ, **call) == address


@pytest.mark.parametrize(
    "name", ["plan FILE", "up FILE", "status", "verify demo", "test demo", "logs demo", "down demo"]
)
def test_no_coordinator_is_a_failure_that_says_where_it_looked(name: str, caas: Any, demo: str) -> None:
    arguments = [demo if word == "FILE" else word for word in name.split()]
    result = caas.run(*arguments, env={"CAAS_COORDINATOR": "/nowhere/s"})
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error: no coordinator: /nowhere/s is not there\nhint: caas lab up" in result.stderr


@pytest.mark.parametrize("command", ["exec", "openstack"])
def test_no_coordinator_is_125_where_a_command_is_run(command: str, caas: Any) -> None:
    result = caas.run(command, "demo", "ubuntu011", "--", "true", env={"CAAS_COORDINATOR": "/nowhere/s"})
    assert result.exit_code == 125


def test_a_socket_that_nobody_listens_on(caas: Any, tmp_path: Path) -> None:
    dead = tmp_path / "dead"
    dead.touch()
    result = caas.run("status", env={"CAAS_COORDINATOR": f"unix:{dead}"})
    assert result.exit_code == 1
    assert f"the coordinator at unix:{dead} does not answer" in result.stderr


@pytest.mark.parametrize(
    ("address", "says"), [("nonsense", "neither a path nor HOST:PORT"), ("10.9.0.1:7445", "a certificate is needed")]
)
def test_an_address_that_is_none(address: str, says: str, caas: Any) -> None:
    result = caas.run("status", "--coordinator", address, env={"CAAS_TLS": None})
    assert result.exit_code == 2
    assert says in result.stderr


def test_coordinator_and_lab_exclude_each_other(caas: Any) -> None:
    assert caas.run("status", "--coordinator", "/x", "--lab", "two").exit_code == 2


# plan


def test_plan_sends_the_file_and_prints_one_document(caas: Any, demo: str) -> None:
    caas.coordinator.documents["Plan"] = PLAN
    result = caas.run("plan", "--json", demo)
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == PLAN
    ((call, request),) = caas.coordinator.calls
    assert call == "Plan"
    assert request.file.content == Path(demo).read_bytes()
    assert (request.file.file_name, request.file.name) == (demo, "demo")


def test_plan_for_people(caas: Any, demo: str) -> None:
    caas.coordinator.documents["Plan"] = PLAN
    assert caas.run("plan", demo).stdout == (
        "host2\n  create vlan eth1.100: missing\nNATBox\n  change gateway demo/cluster: neighbours\n"
        "nova\n  nova/start:ubuntu012  after nova/config:ubuntu012\n"
    )
    caas.coordinator.documents["Plan"] = NOTHING
    assert caas.run("plan", demo).stdout == "nothing to do\n"


@pytest.mark.parametrize(
    ("code", "status"), [(code, 2 if code in (Code.INVALID, Code.REFUSED) else 1) for code in Code]
)
def test_every_code_has_its_exit_status_and_is_told_in_two_lines(code: Code, status: int, caas: Any, demo: str) -> None:
    caas.coordinator.failures["Plan"] = CaasError(code, "host1: it is so", hint="do this")
    result = caas.run("plan", demo)
    assert (result.exit_code, result.stdout) == (status, "")
    expected = "error: host1: it is so\nhint: do this\n"
    if code is not Code.UNREACHABLE:
        assert result.stderr == expected
    else:
        assert result.stderr.startswith("error: ")


def test_a_host_that_does_not_answer_is_named_although_the_coordinator_does(caas: Any, demo: str) -> None:
    caas.coordinator.failures["Plan"] = CaasError(Code.UNREACHABLE, "host2: no answer", hint="is host2 up?")
    result = caas.run("plan", demo)
    assert result.exit_code == 1
    assert result.stderr == "error: host2: no answer\nhint: is host2 up?\n"


# up and down


def test_up_tells_progress_on_standard_error_and_a_summary_on_standard_output(caas: Any, demo: str) -> None:
    caas.coordinator.events["Up"] = UP
    result = caas.run("up", demo, "--remove")
    assert result.exit_code == 0
    assert result.stderr == (
        "== look\n  .... look\n  done look  (0.4 s)\n== nova\n  .... keystone: bootstrap\n  skip database: start\n"
        "  note one more thing\n  done keystone: bootstrap  (12 s)\n"
    )
    assert result.stdout.startswith(
        "demo: done, 1 compute up\n\n  PHASE   TIME\n  look    0.4 s\n  nova    1 min 35 s\n"
    )
    assert "caas status demo" in result.stdout
    assert "caas openstack demo -- server list" in result.stdout
    ((_, request),) = caas.coordinator.calls
    assert (request.remove, request.restart) == (True, False)


LAG = {
    "generation": 2,
    "wanted": 3,
    "why": "host2: no answer within the deadline",
    "since": 1_700_000_000.5,
    "pending": [f"verify/boot:c{number}" for number in range(10)],
    "leaving": False,
}


def test_up_with_a_host_away_ends_well_and_its_last_line_says_who_is_behind(caas: Any, demo: str) -> None:
    summary = _summary(computes_up=1, steps=["x"], writes={}, behind={"host2": LAG})
    caas.coordinator.events["Up"] = [*UP[:-1], summary]
    result = caas.run("up", demo, "--forget", "host3")
    assert result.exit_code == 0
    assert result.stdout.startswith("demo: done, but for host2, 1 compute up\n")
    assert "  host2: generation 2, 3 wanted, since 2023-11-1" in result.stdout
    assert ": host2: no answer within the deadline\n    pending: verify/boot:c0, " in result.stdout
    assert "verify/boot:c7 and 2 more\n" in result.stdout
    last = "demo is degraded: host2 is behind; what is pending is done when it answers, by itself\n"
    assert result.stdout.endswith(last)
    ((_, request),) = caas.coordinator.calls
    assert list(request.forget) == ["host3"]


def test_nothing_to_do_but_for_a_host_that_is_away(caas: Any, demo: str) -> None:
    caas.coordinator.events["Up"] = [_summary(computes_up=None, steps=[], writes={}, behind={"host2": LAG})]
    assert caas.run("up", demo).stdout.startswith("demo: done, but for host2\n")


def test_plan_lists_who_is_away(caas: Any, demo: str) -> None:
    caas.coordinator.documents["Plan"] = {"hosts": {}, "natbox": [], "steps": [], "behind": {"host2": LAG}}
    shown = caas.run("plan", demo).stdout
    assert "behind:\n  host2: generation 2, 3 wanted" in shown
    assert "nothing to do" not in shown


def test_down_with_a_host_away_names_it(caas: Any) -> None:
    gone = {**LAG, "pending": ["remove demo"], "leaving": True}
    caas.coordinator.events["Down"] = [_event(pb.Event.DONE, "host1: remove demo"), _summary(behind={"host2": gone})]
    result = caas.run("down", "demo", "--forget", "host3")
    assert result.exit_code == 0
    assert "host2: generation 2, nothing wanted, since" in result.stdout
    assert "    pending: remove demo\n" in result.stdout
    assert result.stdout.endswith("demo: host2 is behind; what is there is removed when it answers, by itself\n")
    ((_, request),) = caas.coordinator.calls
    assert (request.name, list(request.forget)) == ("demo", ["host3"])


def test_status_says_who_is_behind(caas: Any) -> None:
    document = {"cluster": "demo", "state": "degraded", "generation": 3, "hosts": {}, "containers": [], "nova": {}}
    caas.coordinator.documents["Status"] = {**document, "behind": {"host2": LAG}}
    assert "\nbehind:\n  host2: generation 2, 3 wanted, since " in caas.run("status", "demo").stdout


def test_up_with_nothing_to_do_says_so(caas: Any, demo: str) -> None:
    caas.coordinator.events["Up"] = [_summary(computes_up=2, steps=[], writes={"kernel": 0, "containers": 0})]
    assert caas.run("up", demo).stdout.startswith("demo: nothing to do, 2 computes up (")


def test_up_that_fails_half_way(caas: Any, demo: str) -> None:
    caas.coordinator.events["Up"] = [
        *UP[:3],
        _event(pb.Event.FAILED, "keystone: bootstrap", phase="nova", message="no"),
    ]
    caas.coordinator.failures["Up"] = CaasError(
        Code.FAILED, "ubuntu011: keystone-manage said no", hint="caas logs demo"
    )
    result = caas.run("up", demo)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "  FAIL keystone: bootstrap: no\n" in result.stderr
    assert result.stderr.endswith("error: ubuntu011: keystone-manage said no\nhint: caas logs demo\n")


def test_a_failed_step_is_a_failure_although_the_stream_ends_well(caas: Any, demo: str) -> None:
    caas.coordinator.events["Up"] = [_event(pb.Event.FAILED, "x", message="no")]
    result = caas.run("up", demo)
    assert result.exit_code == 1
    assert "error: failed: x\nhint: mend it, then: caas up" in result.stderr


def test_up_that_would_remove_something_is_refused_with_status_2(caas: Any, demo: str) -> None:
    error = CaasError(Code.REFUSED, "it would:\n  delete container demo.ubuntu012", hint="--remove allows it")
    caas.coordinator.failures["Up"] = error
    result = caas.run("up", demo)
    assert result.exit_code == 2
    assert result.stderr == "error: it would:\n  delete container demo.ubuntu012\nhint: --remove allows it\n"


def test_down(caas: Any) -> None:
    caas.coordinator.events["Down"] = [_event(pb.Event.DONE, "host1: remove demo"), _summary(cluster="demo")]
    result = caas.run("down", "demo")
    assert result.exit_code == 0
    assert result.stdout.startswith("demo: gone, nothing is left")


def test_down_of_an_unknown_name_is_done(caas: Any) -> None:
    caas.coordinator.failures["Down"] = CaasError(Code.NOT_FOUND, "no cluster x")
    assert caas.run("down", "x").exit_code == 0
    caas.coordinator.failures["Down"] = CaasError(Code.UNREACHABLE, "host1: no answer")
    assert caas.run("down", "x").exit_code == 1


# status, verify, test, logs


def test_status(caas: Any) -> None:
    caas.coordinator.documents["Status"] = STATUS
    assert json.loads(caas.run("status", "demo", "--json").stdout) == STATUS
    text = caas.run("status", "demo").stdout
    for words in (
        ["demo:", "up,", "generation", "2"],
        ["host1", "up", "bpf", "-", "-"],
        ["ubuntu011", "host1", "192.168.10.50/24", "running", "77", "300", "MiB", "database", "compute"],
        ["host1", "host2", "vxlan", "so", "it", "is"],
        ["nova-compute", "ubuntu011", "up", "enabled"],
        ["1", "compute", "up"],
    ):
        assert words in [line.split() for line in text.splitlines()]


def test_status_of_all(caas: Any) -> None:
    caas.coordinator.documents["Status"] = {"clusters": [{"cluster": "demo", "state": "up", "generation": 2}]}
    assert caas.run("status").stdout.splitlines()[1].split() == ["demo", "up", "2"]
    caas.coordinator.documents["Status"] = {"clusters": []}
    assert caas.run("status").stdout == "no clusters\n"
    assert json.loads(caas.run("status", "--json").stdout) == {"clusters": []}
    assert [request.name for _, request in caas.coordinator.calls] == ["", "", ""]


def test_verify(caas: Any) -> None:
    well = {"cluster": "demo", "ok": True, "pairs": [{"from": "a", "to": "b", "ok": True}], "computes_up": 1}
    caas.coordinator.events["Verify"] = [_event(pb.Event.DONE, "reach"), _summary(**well)]
    shown = caas.run("verify", "demo")
    assert (shown.exit_code, shown.stdout.splitlines()[:3]) == (0, ["        1  2", "  1  a     .", "  2  b"])
    result = caas.run("verify", "demo", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, well)


def test_verify_that_finds_something(caas: Any) -> None:
    pairs = [{"from": "a", "to": "b", "ok": False, "cause": "no answer"}]
    ill = {"cluster": "demo", "ok": False, "pairs": pairs, "problems": ["a to b: no answer"], "computes_up": 1}
    caas.coordinator.events["Verify"] = [_event(pb.Event.DONE, "reach"), _summary(**ill)]
    result = caas.run("verify", "demo", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (1, ill)
    assert "a to b: no answer" in result.stderr
    assert "  1  a     x" in caas.run("verify", "demo").stdout.splitlines()


def test_test(caas: Any) -> None:
    caas.coordinator.events["Test"] = [_event(pb.Event.DONE, "boot a server on a"), _summary(ok=True)]
    assert caas.run("test", "demo").exit_code == 0
    caas.coordinator.failures["Test"] = CaasError(Code.FAILED, "no server on a")
    assert caas.run("test", "demo").exit_code == 1


def test_logs(caas: Any) -> None:
    entry = {"run": "r", "step": "s", "title": "t", "began": 0.0, "ended": 2.5, "outcome": "failed", "message": "why"}
    later = {**entry, "step": "s2", "ended": None, "outcome": None, "message": ""}
    caas.coordinator.documents["Logs"] = {"entries": [entry, later], "containers": {"ubuntu011": ["a warning"]}}
    lines = caas.run("logs", "demo").stdout.splitlines()
    assert lines[0].split()[2:] == ["failed", "2.5", "s", "s:", "t:", "why"]
    assert lines[1].split()[2:] == ["not", "ended", "-", "s2:", "t"]
    assert lines[2:] == ["", "ubuntu011, its last lines", "  a warning"]
    assert len(caas.run("logs", "demo", "--last", "1").stdout.splitlines()) == 4


def test_status_shows_what_natbox_does_for_the_cluster(caas: Any) -> None:
    counters = {"vid": 100, "network": "cluster", "out_packets": 12, "out_bytes": 1900, "in_packets": 9}
    counters |= {"in_bytes": 812, "connections": 3, "connections_max": 4096, "drops": {"second tag": 1}}
    natbox = {"agent": "up", "counters": [counters], "alarms": ["near a limit"]}
    caas.coordinator.documents["Status"] = {**STATUS, "natbox": natbox}
    lines = caas.run("status", "demo").stdout.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("AT NATBOX"))
    assert [line.split() for line in lines[start : start + 4]] == [
        ["AT", "NATBOX", "VID", "OUT", "BYTES", "IN", "BYTES", "CONNECTIONS", "DROPPED"],
        ["cluster", "100", "12", "1.9", "KiB", "9", "812", "B", "3", "of", "4096", "1"],
        ["near", "a", "limit"],
        ["1", "second", "tag"],
    ]
    caas.coordinator.documents["Status"] = {**STATUS, "natbox": {"agent": "unreachable", "message": "natbox: gone"}}
    assert "\nNATBox: unreachable: natbox: gone\n" in caas.run("status", "demo").stdout


def test_logs_say_what_failed_and_what_to_do(caas: Any) -> None:
    entry = {"run": "r", "step": "nova/api:c1", "title": "nova-api: start", "began": 0.0, "ended": 2.5}
    entry |= {"outcome": "failed", "message": "c1: systemctl ended with 1", "hint": "mend it\nthen go on"}
    caas.coordinator.documents["Logs"] = {
        "entries": [entry],
        "failed": [entry, {**entry, "outcome": None, "message": "", "hint": ""}],
        "containers": {"c1": ["why"]},
        "agents": {"host1": ["an agent's line"], "host2": []},
    }
    assert caas.run("logs", "demo").stdout.splitlines()[1:] == [
        "",
        "failed: nova/api:c1: nova-api: start",
        "  error: c1: systemctl ended with 1",
        "  hint: mend it",
        "  hint: then go on",
        "",
        "not ended: nova/api:c1: nova-api: start",
        "",
        "c1, its last lines",
        "  why",
        "",
        "the agent of host1, its last lines",
        "  an agent's line",
        "",
        "the agent of host2, its last lines",
        "  (none)",
    ]


# exec, openstack, openrc


def _output(**which: Any) -> pb.CoordinatorExecOutput:
    return pb.CoordinatorExecOutput(**which)


def test_exec_streams_and_returns_the_command_s_status(caas: Any) -> None:
    caas.coordinator.outputs = [_output(stdout=b"out\n\xff"), _output(stderr=b"err\n"), _output(status=7)]
    result = caas.run("exec", "demo", "ubuntu011", "--", "sh", "-c", "exit 7", "--help")
    assert (result.exit_code, result.stdout_bytes, result.stderr_bytes) == (7, b"out\n\xff", b"err\n")
    ((_, start),) = caas.coordinator.calls
    assert (start.name, start.container, [*start.argv]) == ("demo", "ubuntu011", ["sh", "-c", "exit 7", "--help"])
    assert not start.openstack


def test_openstack_passes_everything_on(caas: Any) -> None:
    caas.coordinator.outputs = [_output(status=0)]
    assert caas.run("openstack", "demo", "--", "server", "list", "-f", "json", "--help").exit_code == 0
    assert caas.run("openstack", "demo", "server", "list", "-f", "json").exit_code == 0
    (_, one), (_, two) = caas.coordinator.calls
    assert (one.openstack, [*one.argv]) == (True, ["server", "list", "-f", "json", "--help"])
    assert [*two.argv] == ["server", "list", "-f", "json"]


@pytest.mark.parametrize("command", [["exec", "demo", "nobody", "--", "true"], ["openstack", "demo", "--", "server"]])
def test_a_fault_of_ours_is_125(command: list[str], caas: Any) -> None:
    caas.coordinator.failures["Exec"] = CaasError(Code.NOT_FOUND, "no container nobody")
    result = caas.run(*command)
    assert result.exit_code == 125
    assert "error: no container nobody" in result.stderr


def test_a_stream_that_ends_without_a_status_is_125(caas: Any) -> None:
    caas.coordinator.outputs = [_output(stdout=b"x")]
    assert caas.run("exec", "demo", "c", "--", "true").exit_code == 125


def test_openrc(caas: Any, tmp_path: Path) -> None:
    caas.coordinator.documents["Credentials"] = {"text": "export OS_X=1\n", "reachable_from": "10.0.0.0/8"}
    result = caas.run("openrc", "demo")
    assert (result.stdout, result.stderr) == ("export OS_X=1\n", "note: reachable from 10.0.0.0/8\n")
    path = tmp_path / "clouds.yaml"
    path.write_text("old")
    path.chmod(0o644)
    result = caas.run("openrc", "demo", "--clouds-yaml", "--output", str(path))
    assert (result.exit_code, result.stdout) == (0, "")
    assert path.read_text() == "export OS_X=1\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert caas.run("openrc", "demo", "--public").exit_code == 0
    asked = [(request.format, request.public) for _, request in caas.coordinator.calls]
    assert asked == [("openrc", False), ("clouds.yaml", False), ("openrc", True)]
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_openrc_to_a_place_that_cannot_be_written(caas: Any) -> None:
    caas.coordinator.documents["Credentials"] = {"text": "x"}
    assert caas.run("openrc", "demo", "-o", "/no/such/folder/x").exit_code == 2


# As processes: real standard streams, real signals


def _start(caas: Any, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    env = {**os.environ, "CAAS_COORDINATOR": caas.socket, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "coordinator.cli.main", *arguments]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_standard_input_goes_through_whole_and_ends(size: int, caas: Any) -> None:
    caas.coordinator.echo = True
    caas.coordinator.outputs = [_output(status=3)]
    data = os.urandom(size)
    with _start(caas, "exec", "demo", "c", "--", "cat", stdin=subprocess.PIPE) as process:
        out, err = process.communicate(data, timeout=30)
    assert (process.returncode, err) == (3, b"")
    assert out == data


def test_a_command_that_ends_before_its_input_does_not_wait_for_it(caas: Any) -> None:
    caas.coordinator.outputs = [_output(stdout=b"hello"), _output(status=0)]
    with _start(caas, "exec", "demo", "c", "--", "hostname", stdin=subprocess.PIPE) as process:
        assert process.wait(timeout=20) == 0, "it must not wait for the end of a terminal"
        assert process.stdout is not None
        assert process.stdout.read() == b"hello"


def test_an_interrupt_leaves_what_the_same_command_goes_on_from(caas: Any, demo: str) -> None:
    caas.coordinator.hold = threading.Event()
    caas.coordinator.events["Up"] = UP[:1]
    with _start(caas, "up", demo, "--remove") as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        assert first == b"== look\n"
        assert not caas.coordinator.left.is_set()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert caas.coordinator.left.wait(10), "the coordinator was not told"
        caas.coordinator.hold.set()
    assert process.returncode == 130
    assert (
        f"interrupted: what was done stays, what was half-done is undone or done again by: caas up {demo} --remove"
        in (err.decode())
    )
    assert b"Traceback" not in err


def test_output_that_nobody_reads_is_no_traceback(caas: Any) -> None:
    caas.coordinator.documents["Status"] = {
        "clusters": [{"cluster": f"c{n}", "state": "up", "generation": 1} for n in range(20000)]
    }
    with _start(caas, "status") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.wait(timeout=20) == 1
        assert process.stderr.read() == b""


def test_image_list_runs_the_agent_s_module(caas: Any, tmp_path: Path) -> None:
    with _start(caas, "image", "list", "--json", "--images", str(tmp_path)) as process:
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert {image["name"] for image in json.loads(out)["images"]} >= {"nova-controller", "nova-compute"}
    with _start(caas, "image", "build", "--images", str(tmp_path), "no-such-image") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, b"")
    assert b"no-such-image" in err


def test_stdin_of_the_runner_is_taken_for_empty(caas: Any) -> None:
    caas.coordinator.echo = True
    caas.coordinator.outputs = [_output(status=0)]
    assert caas.run("exec", "demo", "c", "--", "cat", input=io.BytesIO(b"")).exit_code == 0


DRIFT = {
    "host": "host1",
    "time": 1_700_000_000.0,
    "kind": "route",
    "name": "10.9.2.0/24",
    "found": "missing",
    "mended": True,
    "by": "ip (pid 7)",
    "hint": "",
}
OBSTACLE = {**DRIFT, "kind": "obstacle", "mended": False, "by": "", "hint": "nft insert rule"}


def test_drift_is_shown_by_status_and_logs(caas: Any) -> None:
    told = [*[DRIFT] * 9, OBSTACLE]
    status = {"cluster": "demo", "state": "up", "generation": 1, "hosts": {}, "containers": [], "drift": told}
    caas.coordinator.documents = {"Status": status, "Logs": {"cluster": "demo", "entries": [], "drift": told}}
    shown = caas.run("status", "demo").stdout
    assert shown.count("host1  route 10.9.2.0/24: missing, by ip (pid 7); mended\n") == 4
    assert shown.endswith("host1  obstacle 10.9.2.0/24: missing; not mended: nft insert rule\n")
    assert caas.run("logs", "demo").stdout.count("route 10.9.2.0/24") == 9
    assert json.loads(caas.run("status", "--json", "demo").stdout)["drift"] == told


def test_status_says_whose_network_waits_or_is_as_before(caas: Any) -> None:
    host = {"agent": "up", "datapath": {}}
    hosts = {"host1": {**host, "taken_back": True}, "host2": {**host, "unconfirmed": 12.4}, "host3": host}
    caas.coordinator.documents["Status"] = {
        "cluster": "demo",
        "state": "failed",
        "generation": 3,
        "hosts": hosts,
        "containers": [],
    }
    lines = [line for line in caas.run("status", "demo").stdout.splitlines() if ": " in line][1:]
    assert lines == [
        "host1: its network is as before the last change, which was not confirmed in time: `caas up` again",
        "host2: takes the last change of its network back in 12 s, unless it is confirmed",
    ]


def test_doctor_names_what_is_wrong_and_its_mend(caas: Any) -> None:
    wrong = {"what": "firewalld runs", "why": "it rejects", "mend": "firewall-cmd --reload"}
    well: dict[str, Any] = {"agent": "up", "findings": []}
    document = {"hosts": {"host1": well, "host2": {"agent": "up", "findings": [wrong]}}, "ok": False}
    caas.coordinator.documents["Doctor"] = document
    done = caas.run("doctor", "demo")
    assert done.exit_code == 1
    assert caas.coordinator.calls[-1][1].name == "demo"
    assert done.stdout == (
        "host1: nothing found\nhost2: firewalld runs\n  why:  it rejects\n  mend: firewall-cmd --reload\n"
    )
    done = caas.run("doctor", "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (1, document)
    caas.coordinator.documents["Doctor"] = {"hosts": {"host1": well}, "ok": True}
    assert caas.run("doctor").exit_code == 0
    away = {"agent": "unreachable", "message": "host1: it does not answer", "findings": []}
    caas.coordinator.documents["Doctor"] = {"hosts": {"host1": away}, "ok": False}
    done = caas.run("doctor")
    assert (done.exit_code, done.stdout) == (1, "host1: its agent does not answer: host1: it does not answer\n")
