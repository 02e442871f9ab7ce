"""`python -m tests.support.killing.look`: the network namespace that it runs in, as JSON; section -> lines.

What differs from one run to the next though nobody did anything (numbers, addresses that the kernel chooses, IPv6's
own) is left out. Shares no code with what it judges: iproute2, nft, tc and /proc.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LINK = ("ifname", "mtu", "master", "ifalias", "operstate", "flags")
_CHOSEN = {"id", "prog", "tag", "jited", "ifindex", "handle", "cookie"}
_SYSCTLS = ("ipv4/conf", "ipv6/conf", "ipv4/ip_forward", "bridge")
#: Written by whoever is neighbour to whom, or made of random.
_OWN_WILL = ("stable_secret",)


def take() -> dict[str, list[str]]:
    """All sections."""
    links = _json("ip", "-details", "-json", "link")
    return {
        "links": [_text(_link(one)) for one in links],
        "qdiscs": [f"{one['dev']} {one['kind']} {one.get('parent', '')}" for one in _json("tc", "-json", "qdisc")],
        "filters": [line for one in links for line in _filters(one["ifname"])],
        "addresses": list(_addresses()),
        "routes": [_text(one) for one in _json("ip", "-4", "-json", "route", "show", "table", "all")],
        "rules": [_text(one) for one in _json("ip", "-json", "rule")],
        "neighbours": [_text(one) for one in _json("ip", "-4", "-json", "neigh", "show", "nud", "permanent")],
        "nft": _run("nft", "--stateless", "list", "ruleset").splitlines(),
        "sysctls": list(_sysctls()),
    }


def _link(one: dict[str, Any]) -> dict[str, Any]:
    info = one.get("linkinfo", {})
    data = info.get("info_data", {})
    kept = {name: one[name] for name in _LINK if name in one}
    kept["flags"] = sorted(one["flags"])
    kept |= {name: data[name] for name in ("id", "protocol", "local", "remote", "port") if name in data}
    return {**kept, "kind": info.get("info_kind", ""), "port": info.get("info_slave_kind", "")}


def _filters(link: str) -> Iterator[str]:
    for hook in ("ingress", "egress"):
        for one in _json("tc", "-json", "filter", "show", "dev", link, hook):
            yield f"{link} {hook} {_text(one)}"


def _addresses() -> Iterator[str]:
    for link in _json("ip", "-4", "-json", "address"):
        for one in link["addr_info"]:
            kept = {name: one[name] for name in ("local", "prefixlen", "scope", "protocol") if name in one}
            yield _text({"link": link["ifname"], **kept})


def _sysctls() -> Iterator[str]:
    for name in _SYSCTLS:
        root = Path("/proc/sys/net", name)
        paths = [root] if root.is_file() else [Path(folder, one) for folder, _, found in os.walk(root) for one in found]
        for path in paths:
            if path.name not in _OWN_WILL:
                try:
                    yield f"{path.relative_to('/proc/sys/net')}={path.read_text().strip()}"
                except OSError:
                    continue  # it may only be written, or its link has gone


def _json(*argv: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(_run(*argv) or "[]")
    return found


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}: {done.stderr}")
    return done.stdout


def _text(value: Any) -> str:
    return json.dumps(_without_chosen(value), sort_keys=True)


def _without_chosen(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_chosen(inner) for name, inner in value.items() if name not in _CHOSEN}
    if isinstance(value, list):
        return [_without_chosen(inner) for inner in value]
    return value


if __name__ == "__main__":
    json.dump(take(), sys.stdout)
