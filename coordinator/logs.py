"""`caas logs`: the journal, and, where the last run failed, what the containers and agents of its failed steps say."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from coordinator.fleet import Fleet
from coordinator.journal import Entry, Journal
from coordinator.known import Known
from coordinator.status import describe_drift
from proto import agent_pb2
from proto.errors import CaasError

LOG_LINES = 30
_SECONDS = 20.0
#: What systemd's journal has as a warning or worse, and the last words of each unit that does not come up; in a
#: container without systemd the last lines of its logs.
_SCRIPT = """
if command -v journalctl > /dev/null; then
    journalctl --no-pager -q -p warning -n "$1" -o short
    # Between two tries systemd calls a unit activating.
    for unit in $(systemctl list-units --state=failed,activating --plain --no-legend | cut -d ' ' -f 1); do
        echo "-- $unit does not run; its last lines:"
        journalctl --no-pager -q -n "$1" -o short -u "$unit"
    done
else
    for file in /var/log/*.log; do
        [ ! -r "$file" ] || { echo "-- $file"; tail -n "$1" "$file"; }
    done
fi
"""


async def logs(fleet: Fleet, journal: Journal, name: str) -> dict[str, Any]:
    """The document of `caas logs`.

    `failed` are the entries of the last run that did not end well, `containers` and `agents` the last lines of those
    that they are about, by name; `drift` is what others changed.
    """
    known = Known.find(fleet, journal, name)
    entries = journal.entries(name)
    failed = _failed(entries)
    containers = _containers_of(failed, known)
    hosts = _hosts_of(failed, known, containers)
    asked = await asyncio.gather(*(_ask(known, host) for host in known.file.hosts))
    answers: Mapping[str, agent_pb2.ObserveReply | str] = dict(zip(known.file.hosts, asked, strict=True))
    texts = await asyncio.gather(*(_last_lines(known, container) for container in containers))
    return {
        "cluster": name,
        "entries": [asdict(entry) for entry in entries],
        "failed": [asdict(entry) for entry in failed],
        "containers": dict(zip(containers, texts, strict=True)),
        "agents": {host: _lines_of(answers[host]) for host in hosts},
        "drift": sorted(
            (
                describe_drift(host, event)
                for host, answer in answers.items()
                if not isinstance(answer, str)
                for event in answer.drift
            ),
            key=lambda event: float(event["time"]),
        ),
    }


def _failed(entries: Sequence[Entry]) -> list[Entry]:
    """Of the last run: what failed, was interrupted, or had not ended when the coordinator died."""
    return [entry for entry in entries if entry.run == entries[-1].run and entry.outcome not in ("done", "put off")]


def _containers_of(failed: Sequence[Entry], known: Known) -> list[str]:
    """A step's id ends in its container's name."""
    names = {entry.step.rpartition(":")[2] for entry in failed}
    return [container for container in known.file.containers if container in names]


def _hosts_of(failed: Sequence[Entry], known: Known, containers: Sequence[str]) -> list[str]:
    """Those of the containers, and those whose change failed: apply:HOST, destroy:HOST."""
    named = {word for entry in failed for word in entry.step.split(":")[1:]}
    named |= {known.file.containers[container].host for container in containers}
    return [host for host in known.file.hosts if host in named]


async def _ask(known: Known, host: str) -> agent_pb2.ObserveReply | str:
    """What its agent says, or why it says nothing."""
    try:
        return await known.agent(host).observe(known.file.name, log_lines=LOG_LINES)
    except CaasError as exc:
        return str(exc)


def _lines_of(answer: agent_pb2.ObserveReply | str) -> Sequence[str]:
    return [answer] if isinstance(answer, str) else list(answer.log)


async def _last_lines(known: Known, container: str) -> Sequence[str]:
    try:
        done = await known.shell(container).run(
            ["sh", "-c", _SCRIPT, "sh", str(LOG_LINES)], timeout=_SECONDS, check=False
        )
    except CaasError as exc:
        return [str(exc)]
    return (done.stdout or done.stderr).decode(errors="replace").splitlines()
