"""Which part a NATBox has where there are two, and the file that keeps it over a restart (docs/adr/0012)."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path

from proto.disk import write_whole
from proto.errors import CaasError, Code


class Role(enum.Enum):
    """ALONE: nobody ever said that there are two."""

    ALONE = "alone"
    ACTIVE = "active"
    STANDBY = "standby"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The role, since which change of roles, and the addresses on the uplink that go with it (ACTIVE only)."""

    role: Role = Role.ALONE
    epoch: int = 0
    shared: tuple[IPv4Interface, ...] = ()

    def check_order(self, epoch: int) -> None:
        """STALE where an order of *epoch* is not newer than what is known."""
        if epoch <= self.epoch:
            raise CaasError(
                Code.STALE,
                f"hand-over: epoch {epoch} is not higher than {self.epoch}, since which it is {self.role.value}",
                hint="another coordinator handed it over: `caas natbox status`",
            )


class SavedStanding:
    """The standing in the file *path*."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Standing:
        """ALONE where there is no file. FAILED where it cannot be read: nothing is guessed."""
        try:
            read = json.loads(self._path.read_text())
            return Standing(
                role=Role(read["role"]),
                epoch=int(read["epoch"]),
                shared=tuple(IPv4Interface(address) for address in read["shared"]),
            )
        except FileNotFoundError:
            return Standing()
        except (ValueError, KeyError, TypeError) as exc:
            raise CaasError(
                Code.FAILED,
                f"{self._path}: not a NATBox's standing: {exc}",
                hint="move it away; without it NATBox works alone, so make sure that no other one does",
            ) from exc

    def save(self, standing: Standing) -> None:
        """Replace what is there."""
        shared = [str(address) for address in standing.shared]
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = json.dumps({"role": standing.role.value, "epoch": standing.epoch, "shared": shared}, indent=1)
        write_whole(self._path, text)
