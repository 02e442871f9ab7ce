"""Where a daemon can be killed. Its writes are counted as they come, and it ends itself (SIGKILL) before one of them.

What a point is comes from what the daemon does, not from a list: changes of the kernel from the door's own counter,
files from the interpreter's audit events (PEP 578), the journal from SQLite, workers from the pool that asks them. So
a new step is a new point.

A folder that all daemons share says what is wanted. NAME.armed is there while points count, a JSON list of those at
which something happens, at the first of them that is reached: `what` and `nth`, and `tell` where the daemon goes on
there and is not killed (somebody else is). NAME.reached has a line for each point; NAME.killed is that first one.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import sqlite3
import sys
import threading
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any

#: The folder, for the daemons of a lab.
VARIABLE = "CAAS_TEST_POINTS"
#: Where agents take images from, in place of the machine's own; containers are small then, and without nova.
IMAGES = "CAAS_TEST_IMAGES"
#: What has another name in each lab: its folder, and the cgroup of a host's containers, which is in every hierarchy of
#: version 1 besides.
_LAB = re.compile(r"\blabs/[^/]+")
_HOST_CGROUP = re.compile(r"^/sys/fs/cgroup/(.*/)?caas-[0-9a-f]{12}\b")
#: How the points in a step's commands begin.
WITHIN = "a command of "
_OPENED_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = frozenset(
    f"os.{name}"
    for name in (
        *("rename", "remove", "rmdir", "mkdir", "symlink", "link", "truncate"),
        *("chmod", "chown", "setxattr", "removexattr"),
    )
)
#: Frames of these end the way from a write to what asked for it.
_DOORS = ("agent/kernel/door.py", "agent/kernel/natbox_door.py", "agent/kernel/natbox_handover.py")
_PARTS = ("/agent/", "/natbox/")
#: What a door's call is about, among its arguments.
_SUBJECTS = ("thing", "after", "container", "gateway", "wanted", "unwanted")


class Points:
    """The points of the daemon *name*; several processes may share one name."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._mine = threading.local()

    @classmethod
    def from_environment(cls, name: str) -> Points:
        """For a daemon that was started with VARIABLE."""
        return cls(Path(os.environ[VARIABLE]), name)

    @property
    def folder(self) -> Path:
        return self._folder

    def reach(self, what: str) -> None:
        """A point, called *what*: killed here if that was asked for. What this writes itself is no point."""
        if getattr(self._mine, "busy", False):
            return
        self._mine.busy = True
        try:
            self._reach(what.replace("\n", " "))
        finally:
            self._mine.busy = False

    def _reach(self, what: str) -> None:
        armed = self._folder / f"{self._name}.armed"
        if not armed.exists():
            return
        with open(self._folder / f"{self._name}.reached", "a+") as reached:
            fcntl.flock(reached, fcntl.LOCK_EX)
            try:
                wanted = json.loads(armed.read_text())
            except FileNotFoundError:
                return
            reached.seek(0)
            count = reached.read().splitlines().count(what) + 1
            reached.write(f"{what}\n")
            reached.flush()
            found = next((one for one in wanted if (one["what"], one["nth"]) == (what, count)), None)
            if found is None:
                return
            armed.unlink(missing_ok=True)
            self._tell(found)
            if not found.get("tell"):
                os.kill(os.getpid(), signal.SIGKILL)

    def _tell(self, found: dict[str, Any]) -> None:
        """In one go: whoever looks sees all of it."""
        temporary = self._folder / f".{self._name}.killed"
        temporary.write_text(json.dumps(found))
        temporary.rename(self._folder / f"{self._name}.killed")


def watch_kernel(points: Points) -> None:
    """A point before each changing netlink, nft, tc, BPF and sysctl call."""
    from agent.kernel.tally import Tally

    real = Tally.add

    def add(self: Tally, count: int = 1) -> None:
        points.reach(_describe(sys._getframe(1)))
        real(self, count)

    Tally.add = add  # type: ignore[method-assign]


def _describe(frame: FrameType | None) -> str:
    """Who writes to the kernel, and for what: "create bridge lxcbr100: Netlink.change_together"."""
    writer, subject, outermost = "", "", ""
    while frame is not None:
        path = frame.f_code.co_filename
        if any(part in path for part in _PARTS):
            writer, outermost = writer or frame.f_code.co_qualname, frame.f_code.co_name
            if path.endswith(_DOORS):
                subject = f"{frame.f_code.co_name} {_subject(frame)}".strip()
        frame = frame.f_back
    # What is only tried out is done in a thread of its own, which no door's call is in.
    return f"{subject or outermost}: {writer}"


def _subject(frame: FrameType) -> str:
    for name in _SUBJECTS:
        found = frame.f_locals.get(name)
        if found is not None and hasattr(found, "name"):
            return f"{getattr(found, 'kind', '')} {found.name}".strip()
    return ""


def watch_files(points: Points, roots: Sequence[Path]) -> None:
    """A point before each change of a file or folder below *roots*, and of those named from an open folder."""
    below = tuple(f"{root}/" for root in roots)
    words = {f"{root}/": f"{root.name}/" for root in roots}

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            if not isinstance(arguments[2], int) or not arguments[2] & _OPENED_TO_WRITE:
                return
        elif event not in _CHANGES:
            return
        if not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.fsdecode(arguments[0])
        path = _HOST_CGROUP.sub("/sys/fs/cgroup/caas", path)
        if not path.startswith("/"):
            points.reach(f"{event} in an open folder")
        elif path.startswith(below):
            root = next(one for one in below if path.startswith(one))
            points.reach(f"{event} {words[root]}{_LAB.sub('labs/LAB', path.removeprefix(root))}")

    sys.addaudithook(hook)


def watch_pool(points: Points) -> None:
    """A point before a worker is asked to change something, and one when it has."""
    from agent.containers.pool import Pool

    real = Pool.call

    def call(self: Pool, op: str, *, timeout: float, **arguments: Any) -> Any:
        what = f"{op} {arguments.get('name', '')}".strip()
        points.reach(f"a worker is to {what}")
        answer = real(self, op, timeout=timeout, **arguments)
        points.reach(f"a worker did {what}")
        return answer

    Pool.call = call  # type: ignore[method-assign]


def watch_answers(points: Points) -> None:
    """A point when a change is done and its caller not yet told."""
    from proto.transport import changes

    real = changes.finished

    def finished(*arguments: Any) -> Any:
        points.reach("the answer")
        return real(*arguments)

    changes.finished = finished  # type: ignore[assignment]


def watch_journal(points: Points) -> None:
    """A point before each change of a SQLite database: what is begun, what has ended, what is known of a cluster."""
    steps: dict[int, str] = {}

    class Watched(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if sql.split()[0] in ("SELECT", "PRAGMA"):
                return super().execute(sql, *values)
            points.reach(_describe_sql(sql, values[0] if values else (), steps))
            cursor = super().execute(sql, *values)
            if sql.startswith("INSERT INTO entries") and cursor.lastrowid:
                steps[cursor.lastrowid] = values[0][2]
            return cursor

        def executemany(self, sql: str, *values: Any) -> sqlite3.Cursor:
            points.reach(f"journal: {' '.join(sql.split()[:5])}")
            return super().executemany(sql, *values)

    real = sqlite3.connect

    def connect(*arguments: Any, **options: Any) -> Any:
        return real(*arguments, **{"factory": Watched, **options})

    sqlite3.connect = connect


def _describe_sql(sql: str, values: Any, steps: dict[int, str]) -> str:
    if sql.startswith("INSERT INTO entries"):
        return begin_of(values[2])
    if sql.startswith("UPDATE entries"):
        return end_of(steps.get(values[-1], "?"), values[1])
    if sql.startswith("INSERT OR REPLACE INTO clusters"):
        return f"journal: the cluster is {values[1]}"
    return f"journal: {' '.join(sql.split()[:3])}"


def begin_of(step: str) -> str:
    """The point at which *step* is about to be written down as begun."""
    return f"journal: begin {step}"


def end_of(step: str, outcome: str = "done") -> str:
    """The point at which *step* has ended, and that is about to be written down."""
    return f"journal: end {step} {outcome}"


def within(step: str) -> str:
    """The point before a command of *step* in a container, while it is under way."""
    return f"{WITHIN}{step}"


def watch_steps(points: Points) -> None:
    """A point before each command that a step runs in a container after it was begun."""
    from coordinator.fleet import AgentClient
    from coordinator.progress import Progress

    #: Inherited by the tasks that a step starts.
    under_way: ContextVar[str] = ContextVar("under_way", default="")
    real_exec, real_step = AgentClient.exec, Progress.step

    async def execute(self: AgentClient, *arguments: Any, **options: Any) -> int:
        if "/" in under_way.get():  # FAMILY/WHAT:CONTAINER; others only look
            points.reach(within(under_way.get()))
        return await real_exec(self, *arguments, **options)

    def begin(self: Progress, step: str, title: str) -> Any:
        under_way.set(step)
        return real_step(self, step, title)

    AgentClient.exec = execute  # type: ignore[method-assign]
    Progress.step = begin  # type: ignore[method-assign]
