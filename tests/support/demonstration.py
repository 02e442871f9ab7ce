"""The demonstration as a newcomer plays it, and the command line beside it: everything through processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.fingerprint import Fingerprint, take

ROOT = Path(__file__).resolve().parent.parent.parent
CAAS = (sys.executable, "-m", "coordinator.cli.main")


class LabUser:
    """Somebody with a lab of their own, *lab*, at the command line."""

    def __init__(self, lab: str) -> None:
        self.lab = lab
        self.environment = {**os.environ, "CAAS_LAB": lab}
        self.environment.pop("CAAS_COORDINATOR", None)

    def caas(self, *words: str, status: int | None = 0, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run `caas WORDS`; with *status* it must end with that."""
        done = subprocess.run(
            [*CAAS, *words], cwd=ROOT, env=self.environment, input=stdin, capture_output=True, timeout=600, check=False
        )
        if status is not None:
            said = f"{done.stdout.decode()}\n{done.stderr.decode()}"
            assert done.returncode == status, f"caas {' '.join(words)}: {done.returncode}\n{said}"
        return done

    def document(self, *words: str) -> Any:
        """The JSON document that `caas WORDS` prints."""
        return json.loads(self.caas(*words).stdout)

    def openstack(self, cluster: str, *words: str) -> Any:
        """What the stock client says, as JSON."""
        return json.loads(self.caas("openstack", cluster, "--", *words, "-f", "json").stdout)

    def inside(self, cluster: str, container: str, argv: Sequence[str], stdin: bytes = b"") -> bytes:
        """Standard output of a command in a container."""
        return self.caas("exec", cluster, container, "--", *argv, stdin=stdin).stdout

    def namespace(self, machine: str) -> str:
        """The name of a machine's network namespace."""
        return f"{self.lab}-{machine}"

    def down(self) -> None:
        """Everything of the lab, gone."""
        self.caas("lab", "down", "--name", self.lab)


class Demonstration(LabUser):
    """The demonstration in a lab under a name of its own, played once; `before` is the machine as it was."""

    def __init__(self, lab: str) -> None:
        super().__init__(lab)
        self.before: Fingerprint = take()
        self.output = ""

    def play(self) -> None:
        """From nothing to two computes. AssertionError with its last lines where it does not end well."""
        done = subprocess.run(
            [sys.executable, "-m", "coordinator.lab.demo", self.lab],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        self.output = done.stdout
        print(self.output)
        assert done.returncode == 0, "\n".join(self.output.splitlines()[-40:])
