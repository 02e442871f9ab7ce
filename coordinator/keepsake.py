"""A cluster's secrets are kept in its API's container, too: a lost journal loses no cluster."""

from __future__ import annotations

import hashlib
import json

from coordinator.nova import Secrets
from coordinator.steps import Completed, Shell
from proto.errors import CaasError, Code

PATH = "/etc/caas/secrets.json"
#: Written whole or not at all, by and for root alone.
_WRITE = 'umask 077 && mkdir -p "${1%/*}" && cat > "$1.new" && mv "$1.new" "$1"'


class KeepSecrets:
    """Step: the secrets are in the container as the journal has them."""

    needs: frozenset[str] = frozenset()
    title = "keep the cluster's secrets beside its API"

    def __init__(self, shell: Shell, secrets: Secrets) -> None:
        self.id = f"cluster/secrets:{shell.container}"
        self._shell = shell
        self._text = json.dumps(secrets.to_dict(), sort_keys=True).encode()

    async def done(self) -> bool:
        seen = await self._shell.run(["sha256sum", PATH], check=False)
        return seen.stdout.split(b" ")[0].decode() == hashlib.sha256(self._text).hexdigest()

    async def run(self) -> None:
        await self._shell.run(["sh", "-c", _WRITE, "sh", PATH], stdin=self._text)

    async def undo(self) -> None:
        await self._shell.run(["rm", "-f", PATH])


async def recall_secrets(shell: Shell) -> Secrets:
    """What KeepSecrets wrote. FAILED where it is not there: the cluster cannot be gone on with."""
    try:
        seen = await shell.run(["cat", PATH], check=False)
    except CaasError as exc:
        if exc.code is not Code.NOT_FOUND:
            raise
        seen = Completed(status=1, stdout=b"", stderr=b"")
    if seen.status != 0:
        raise CaasError(
            Code.FAILED,
            f"the cluster is there, and neither the journal nor {PATH} in {shell.container} has its secrets",
            hint="`caas down FILE` removes it from the hosts of that file; then bring it up again",
        )
    return Secrets.from_dict(json.loads(seen.stdout))
