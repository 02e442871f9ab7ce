"""How our daemons begin and end: one log format, errors with their hint, SIGTERM and SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from proto.errors import CaasError


def add_common_arguments(parser: argparse.ArgumentParser, *, state: str) -> None:
    """--tls, --state (*state* says what is in it) and --verbose."""
    parser.add_argument("--tls", required=True, type=Path, metavar="DIR", help="ca.pem, cert.pem and key.pem")
    parser.add_argument("--state", required=True, type=Path, metavar="DIR", help=state)
    parser.add_argument("--verbose", action="store_true", help="log every call")


def run_daemon(options: argparse.Namespace, run: Callable[[argparse.Namespace], None]) -> int:
    """Run until a signal. Exit status: 0 ended by one, 1 it could not run, 2 the command line is wrong."""
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    try:
        run(options)
    except CaasError as exc:
        print(f"error: {exc}", file=sys.stderr)
        if exc.hint:
            print(f"hint: {exc.hint}", file=sys.stderr)
        return exc.code.exit_status
    return 0


def end_on_signal() -> asyncio.Event:
    """Set when this process is asked to end. Call it in the running loop."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    return ended
