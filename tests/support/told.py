"""What the kernel tells of changes in a network namespace meanwhile: heard by iproute2's and nft's monitors.

Read into the names that plans have for things, so that both can be compared. Each thing counts as often as it is told.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections import Counter
from ipaddress import IPv4Network
from pathlib import Path

#: Of rtnetlink and of rules: what the agent gives its own.
_OURS = " proto 202"
_LINK = re.compile(r"^\[LINK\](?P<gone>Deleted )?(?P<index>\d+): (?P<name>[^:@]+)[@:]")
_ADDRESS = re.compile(r"^\[ADDR\](?P<gone>Deleted )?\d+: (?P<link>\S+)\s+inet (?P<address>\S+) ")
_ROUTE = re.compile(r"^\[ROUTE\](?P<gone>Deleted )?(?P<dst>[\d./]+) (?P<rest>.*)$")
_RULE = re.compile(
    r"^\[RULE\](?P<gone>Deleted )?(?P<priority>\d+):\s+from (?P<src>\S+)( to (?P<dst>\S+))?(?P<rest>.*)$"
)
_NFT = re.compile(r"^(?P<verb>add|delete) rule ip caas (?P<rest>.*)$")
#: The monitors say nothing when they have begun to listen, and nothing marks the end of what they were told: seconds.
_BEGIN, _END = 0.5, 0.5


class Told:
    """Listens in the namespace *netns* from its making on, until `end`."""

    def __init__(self, netns: str) -> None:
        self._enter = ["nsenter", f"--net=/run/netns/{netns}"]
        self._monitors = [self._start("ip", "-o", "monitor", "all"), self._start("nft", "monitor")]
        self._before = self._links()
        self.text = ""
        time.sleep(_BEGIN)

    def _start(self, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self._enter, *argv], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1
        )

    def _links(self) -> set[int]:
        done = subprocess.run([*self._enter, "ip", "-o", "link"], capture_output=True, text=True, check=True)
        return {int(line.split(":")[0]) for line in done.stdout.splitlines()}

    def end(self) -> None:
        """Listen no more."""
        time.sleep(_END)
        for monitor in self._monitors:
            monitor.terminate()
            self.text += monitor.communicate()[0]

    def made_links(self) -> Counter[str]:
        """How many new links had each name, renamed ones under their last. One that had gone again counts, too."""
        names: dict[int, str] = {}
        for found in self._find(_LINK):
            if not found["gone"] and int(found["index"]) not in self._before:
                names[int(found["index"])] = found["name"]
        return Counter(names.values())

    def made_addresses(self) -> Counter[str]:
        """As plans call them: "10.0.0.1/24 on br0"."""
        return Counter(f"{one['address']} on {one['link']}" for one in self._find(_ADDRESS) if not one["gone"])

    def made_routes(self) -> Counter[str]:
        """Those of ours, as plans call them: "10.0.0.0/24 dev tun0 table 254"."""
        found: Counter[str] = Counter()
        for one in self._find(_ROUTE):
            if not one["gone"] and _OURS in one["rest"]:
                words = one["rest"].split()
                told = {word: words[words.index(word) + 1] for word in ("dev", "table") if word in words}
                found[f"{IPv4Network(one['dst'])} dev {told['dev']} table {told.get('table', '254')}"] += 1
        return found

    def made_rules(self) -> Counter[str]:
        """Those of ours, as plans call them."""
        found: Counter[str] = Counter()
        for one in self._find(_RULE):
            if not one["gone"] and _OURS in one["rest"]:
                ends = [str(IPv4Network(end)) if end and end != "all" else "all" for end in (one["src"], one["dst"])]
                table = one["rest"].split()[one["rest"].split().index("lookup") + 1]
                found[f"{one['priority']}: from {ends[0]} to {ends[1]} lookup {table}"] += 1
        return found

    def made_masquerades(self) -> set[str]:
        """The sources that packets are translated for, as plans call them; each may take several rules."""
        rules = [one["rest"] for one in self._find(_NFT) if one["verb"] == "add" and "masquerade" in one["rest"]]
        return {str(IPv4Network(rule.split("ip saddr ")[1].split()[0])) for rule in rules}

    def removed(self) -> list[str]:
        """Lines about IPv4 addresses, routes and rules of ours, and rules of nft, that went.

        Not about links: the end of a pair that goes into a container is told as one that went. Nor about what the
        kernel itself makes and removes, IPv6's addresses and neighbours.
        """
        return [
            *(found[0] for found in self._find(_ADDRESS) if found["gone"]),
            *(found[0] for found in self._find(_ROUTE) if found["gone"] and _OURS in found["rest"]),
            *(found[0] for found in self._find(_RULE) if found["gone"]),
            *(found[0] for found in self._find(_NFT) if found["verb"] == "delete"),
        ]

    def _find(self, pattern: re.Pattern[str]) -> list[re.Match[str]]:
        return [found for line in self.text.splitlines() if (found := pattern.match(line))]


def containers_of(state: Path) -> set[str]:
    """The containers whose files are in an agent's *state* folder."""
    folder = state / "containers"
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.is_dir() else set()
