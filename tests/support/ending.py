"""A pytest plug-in: a run that is told to end (`kill`, a closed terminal, a CI service) cleans up as after Ctrl-C.

By default these signals end Python at once: no fixture takes down what it brought up.
"""

from __future__ import annotations

import signal
from types import FrameType

import pytest

SIGNALS = (signal.SIGTERM, signal.SIGHUP)


def pytest_configure(config: pytest.Config) -> None:
    # A shell without job control has what it starts in the background ignore Ctrl-C, and so would all that tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup(1) ignores SIGHUP: that stays
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    """Once: what comes while fixtures take down is ignored, for that is what was asked for."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    pytest.exit(f"ended by {signal.Signals(number).name}", returncode=128 + number)
