"""A process inside a namespace that does one thing for each line it is sent, and answers with a line of JSON.

What it measures is measured in it: its start, and the way the line takes, are nobody's time.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
END_WAIT = 60.0


class Asked:
    """`python -m MODULE WORDS` in *netns*; it must say "ready" first. Its errors go to *log*."""

    def __init__(self, netns: str, module: str, words: Sequence[object], *, log: Path, patience: float = 120) -> None:
        self._module, self._patience, self._log = module, patience, log
        argv = [*enter(netns), sys.executable, "-m", module, *map(str, words)]
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, bufsize=0
            )
        self._rest = b""
        try:
            self._expect("ready")
        except BaseException:
            self.close()
            raise

    def ask(self, word: str) -> Any:
        """What it answers to *word*. AssertionError with its last words where it ends or takes too long."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n".encode())
        return json.loads(self._line())

    def close(self) -> None:
        """End its input and wait for it, then for no longer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(END_WAIT)
        finally:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()

    def _expect(self, wanted: str) -> None:
        if (line := self._line()) != wanted:
            raise AssertionError(f"{self._module}: said {line!r}, not {wanted!r}: {self._last()}")

    def _line(self) -> str:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._rest:
            if not select.select([descriptor], [], [], self._patience)[0]:
                raise AssertionError(f"{self._module}: no answer within {self._patience} s: {self._last()}")
            if not (data := os.read(descriptor, 1 << 20)):
                raise AssertionError(f"{self._module}: it ended: {self._last()}")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def _last(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


def enter(netns: str) -> list[str]:
    """The words that run the command after them in *netns*, and change nothing else."""
    return ["nsenter", f"--net=/run/netns/{netns}"]
