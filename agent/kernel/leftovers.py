"""What in a network namespace is still ours when it should be gone. Looks only.

Asked of iproute2, tc and nft, which share nothing with what makes and removes those things: what has missed something
when removing it would miss it here, too. What others have made or changed meanwhile carries no mark of ours, and is
not told.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

from agent.kernel.inside import run_inside
from proto.errors import CaasError, Code
from proto.marks import ANSWER_RULE_PRIORITY, HOST, PREFIX, ROUTE_PROTOCOL, TUNNEL_RULE_PRIORITY

_SECONDS = 20.0
_HOOKS = ("ingress", "egress")
#: NATBox's table and filters, which are another daemon's on the same machine.
_NATBOX, _NATBOX_FILTER = "caas_natbox", "caas:host:natbox"
Object = Mapping[str, Any]


class NetworkLeftovers:
    """Of the caller's network namespace, or of *netns*."""

    def __init__(self, *, netns: str | None = None) -> None:
        self._netns = netns

    def find(self, cluster: str) -> list[str]:
        """What carries the mark of *cluster*, or, where that is "", of any cluster and of what they share.

        FAILED where it cannot be looked.
        """
        mark = f"{PREFIX}:{cluster}:" if cluster else f"{PREFIX}:"
        links = self._ask("ip", "-json", "link")
        found = [
            f"link {link['ifname']} ({link['ifalias']})"
            for link in links
            if str(link.get("ifalias", "")).startswith(mark)
        ]
        found += self._find_in_nft(mark, whole=not cluster)
        if not cluster:
            found += self._find_numbered()
            foreign = [link for link in links if not str(link.get("ifalias", "")).startswith(f"{PREFIX}:")]
            filters = [each for link in foreign for each in self._find_filters(link["ifname"])]
            found += [each for each in filters if _NATBOX_FILTER not in each]
        return found

    def find_of_natbox(self) -> list[str]:
        """What there is of the path that all clusters share at NATBox: its table, and its filters on any link."""
        tables = [each["table"] for each in self._ask("nft", "--json", "list", "tables") if "table" in each]
        found = [f"nft table {each['family']} {each['name']}" for each in tables if each["name"] == _NATBOX]
        filters = [each for link in self._ask("ip", "-json", "link") for each in self._find_filters(link["ifname"])]
        return [*found, *(each for each in filters if _NATBOX_FILTER in each)]

    def list_settings(self) -> dict[str, list[str]]:
        """Of each link that is nobody's of ours, what we may have set on it and nothing marks: promiscuity, a qdisc."""
        qdiscs = self._ask("tc", "-json", "qdisc", "show")
        found: dict[str, list[str]] = {}
        for link in self._ask("ip", "-json", "link"):
            name, alias = link["ifname"], str(link.get("ifalias", ""))
            if alias.startswith(f"{PREFIX}:") or any(_NATBOX_FILTER in each for each in self._find_filters(name)):
                continue
            has_clsact = any(each["kind"] == "clsact" and each.get("dev") == name for each in qdiscs)
            found[name] = ["is promiscuous"] * ("PROMISC" in link["flags"]) + ["has a clsact qdisc"] * has_clsact
        return found

    def _find_in_nft(self, mark: str, *, whole: bool) -> Iterator[str]:
        for listed in self._ask("nft", "--json", "--stateless", "list", "ruleset"):
            for kind, each in listed.items():
                if not isinstance(each, dict) or _NATBOX in (each.get("table"), each.get("name")):
                    continue
                place = " ".join(str(each[key]) for key in ("family", "table", "chain", "name") if key in each)
                comment = next((text for text in _comments(each) if text.startswith(mark)), "")
                if comment or (whole and kind == "table" and str(each["name"]).startswith(PREFIX)):
                    yield f"nft {kind} {place} ({comment or 'ours by its name'})"

    def _find_numbered(self) -> Iterator[str]:
        """Addresses, routes and rules: ours by their protocol's number, and rules also by their place."""
        for link in self._ask("ip", "-json", "address"):
            for each in link["addr_info"]:
                if _is_ours(each):
                    yield f"address {each['local']}/{each['prefixlen']} on {link['ifname']}"
        for each in self._ask("ip", "-json", "route", "show", "table", "all"):
            if _is_ours(each):
                yield f"route {each['dst']} in table {each.get('table', 'main')}"
        for each in self._ask("ip", "-details", "-json", "rule"):
            if _is_ours(each) or each["priority"] in (ANSWER_RULE_PRIORITY, TUNNEL_RULE_PRIORITY):
                yield f"rule {each['priority']}: from {each['src']} lookup {each.get('table', '?')}"

    def _find_filters(self, link: str) -> Iterator[str]:
        for hook in _HOOKS:
            for each in self._ask("tc", "-json", "filter", "show", "dev", link, hook):
                name = str(each.get("options", {}).get("bpf_name", ""))
                if name.startswith(f"{PREFIX}:{HOST}:"):
                    yield f"tc filter {name} at the {hook} of {link}"

    def _ask(self, *argv: str) -> list[Object]:
        def run() -> subprocess.CompletedProcess[str]:
            return subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=False)

        try:
            done = run_inside(self._netns, run)
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise CaasError(Code.FAILED, f"{' '.join(argv)}: {exc}", hint="install iproute2 and nftables") from exc
        if done.returncode != 0:
            raise CaasError(Code.FAILED, f"{' '.join(argv)}: {done.stderr.strip() or f'status {done.returncode}'}")
        answer = json.loads(done.stdout or "[]")
        listed: list[Object] = answer["nftables"] if isinstance(answer, dict) else answer
        return listed


def _is_ours(each: Object) -> bool:
    return str(each.get("protocol", "")) in (str(ROUTE_PROTOCOL), hex(ROUTE_PROTOCOL))


def _comments(value: Any) -> Iterator[str]:
    """Every comment in what nft lists: of rules, sets, and the elements of sets."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "comment":
                yield str(inner)
            else:
                yield from _comments(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _comments(inner)
