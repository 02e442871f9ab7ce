"""The mark that everything of ours carries: `caas:CLUSTER:OBJECT`.

It stands in a link's ifalias, in nft comments and in a container's configuration. `caas:host:OBJECT` marks what
several clusters share. What has no mark of ours is never changed or removed.
"""

from __future__ import annotations

from dataclasses import dataclass

from proto.errors import invalid

PREFIX = "caas"
HOST = "host"
#: Routes and rules carry this protocol number (rtnetlink(7): RTPROT_STATIC < n; not in rt_protos of iproute2).
ROUTE_PROTOCOL = 0xCA
#: The table that packets from a cluster's own addresses to a tunnel's far end are looked up in, and its rules' place:
#: before the main table (32766), which knows that end by the underlay.
TUNNEL_TABLE = 0xCA01
TUNNEL_RULE_PRIORITY = 0xCA0
#: Bits of a packet's mark: an answer of a forwarded connection. It goes back the way that the question came, and not
#: through a tunnel: the main table is looked up before the rules above.
ANSWER_MARK = 0xCA0000
ANSWER_RULE_PRIORITY = TUNNEL_RULE_PRIORITY - 1


@dataclass(frozen=True, slots=True)
class Mark:
    """Owner of a kernel object or container: the cluster (or "host") and what it is there."""

    cluster: str
    object: str

    def __post_init__(self) -> None:
        if not self.cluster or ":" in self.cluster or not self.object or "\n" in self.object:
            raise invalid(f"mark {self.cluster!r}:{self.object!r}: a cluster without ':' and an object are needed")
        if len(str(self)) > 255:  # IFALIASZ is 256 with the NUL
            raise invalid(f"mark {self}: longer than 255 characters")

    def __str__(self) -> str:
        return f"{PREFIX}:{self.cluster}:{self.object}"


def parse_mark(text: str | None) -> Mark | None:
    """The mark in *text*, or None where it is not ours."""
    if not text or not text.startswith(PREFIX + ":"):
        return None
    cluster, _, rest = text[len(PREFIX) + 1 :].partition(":")
    return Mark(cluster, rest) if cluster and rest else None
