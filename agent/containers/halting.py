"""All containers of a host shut down at once, before the machine does.

They are in cgroups of their own, which systemd knows nothing of: it would send their init SIGTERM, which systemd in a
container takes for a request to reload, and kill everything 90 seconds later.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agent.containers.door import LxcDoor
from proto.errors import CaasError
from proto.model import Container

log = logging.getLogger("caas.containers")


def stop_all(state: Path) -> bool:
    """Stop every running container below *state*; each may take as long as the door allows. False where one stayed."""
    with LxcDoor(state) as door:
        running = [seen.container for seen in door.observe() if seen.pid > 0]

        def stop(container: Container) -> bool:
            try:
                door.stop(container)
            except CaasError as exc:
                log.error("%s: %s", container.name, exc)
                return False
            return True

        with ThreadPoolExecutor(max(1, len(running))) as together:
            stopped = list(together.map(stop, running))
    log.info("%d of %d containers stopped", sum(stopped), len(running))
    return all(stopped)
