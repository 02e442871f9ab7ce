"""A pytest plug-in: `--beside FOLDER` runs the tests in FOLDER in another process, and tells how they ended.

That one gets the CPUs when nobody else wants them (sched(7), SCHED_IDLE): what is tested on this machine's kernel is
not slowed down. The run has failed where it did.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import pytest

_AS_IT_PLEASES = ("chrt", "--idle", "0", "setpriv", "--pdeathsig", "INT")
#: Seconds that it may still take when the others are done: it then has the machine for itself.
PATIENCE = 900


class Beside:
    """The other run."""

    def __init__(self, folders: list[str]) -> None:
        self._output = os.fdopen(os.memfd_create("beside"), "w+")
        self.title = " ".join(folders)
        options = ("-p", "no:cacheprovider", "--durations=10", "--durations-min=2")
        argv = [*_AS_IT_PLEASES, sys.executable, "-m", "pytest", *options, *folders]
        self._run = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output)

    def wait(self) -> int:
        """Its exit status; it has the CPUs like anyone else from now on."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.sched_setscheduler(self._run.pid, os.SCHED_OTHER, os.sched_param(0))
        try:
            return self._run.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.end()
            return pytest.ExitCode.INTERRUPTED

    def end(self) -> None:
        """As Ctrl-C would: its fixtures take down what they brought up."""
        if self._run.poll() is None:
            self._run.send_signal(signal.SIGINT)
            try:
                self._run.wait(60)
            except subprocess.TimeoutExpired:
                self._run.kill()

    def said(self) -> str:
        self._output.seek(0)
        return self._output.read()


_beside = pytest.StashKey[Beside]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--beside", action="append", default=[], metavar="FOLDER", help="tests to run meanwhile")


def pytest_sessionstart(session: pytest.Session) -> None:
    if folders := session.config.getoption("--beside"):
        session.config.stash[_beside] = Beside(folders)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    beside = session.config.stash.get(_beside, None)
    if beside is None:
        return
    if session.exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        beside.end()
    elif beside.wait() != 0:
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if (beside := terminalreporter.config.stash.get(_beside, None)) is not None:
        terminalreporter.section(f"beside: {beside.title}")
        terminalreporter.write(beside.said())


def pytest_unconfigure(config: pytest.Config) -> None:
    if (beside := config.stash.get(_beside, None)) is not None:
        beside.end()
