"""Talking to a cluster's own API, from inside the container that serves it (see inside/cloud.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from coordinator.nova.goals import PYTHON, File, make_program
from coordinator.steps import Shell
from proto.errors import CaasError, Code

STATUS_SECONDS = 20.0


async def put_files(shell: Shell, files: tuple[File, ...]) -> None:
    """Write *files* where they differ."""
    job: dict[str, Any] = {"files": [file.to_dict() for file in files]}
    job |= {"before": [], "units": [], "wait": [], "after": [], "seconds": 30}
    await shell.run(PYTHON, stdin=make_program("apply", job), timeout=60.0)


async def run_cloud(
    shell: Shell, job: Mapping[str, Any], *, seconds: float, files: tuple[File, ...] = ()
) -> dict[str, Any]:
    """Run one action of inside/cloud.py beside an API and return what it printed.

    FAILED with the API's own answer where that refuses; TIMEOUT after *seconds* and a margin.
    """
    if files:
        await put_files(shell, files)
    argument = {**job, "seconds": seconds}
    done = await shell.run(PYTHON, stdin=make_program("cloud", argument), timeout=seconds + 30)
    try:
        answer = json.loads(done.stdout)
    except ValueError as exc:
        raise CaasError(Code.FAILED, f"{shell.container}: {job['action']} answered nonsense") from exc
    return dict(answer)


async def nova_status(shell: Shell) -> dict[str, Any]:
    """What nova's API says: `{"services": [{binary, host, state, status}], "computes_up": N}`.

    *shell* is that of the container with the role nova-api. FAILED where the API does not answer.
    """
    return await run_cloud(shell, {"action": "status"}, seconds=STATUS_SECONDS)
