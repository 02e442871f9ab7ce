"""`caas-certificates`: a CA in a folder, and certificates of it for hosts' agents, NATBox and the coordinator.

For hosts that are set up by hand: the CA's key stays where this runs, each bearer's folder goes to its host.
"""

from __future__ import annotations

import argparse
import ipaddress
import sys
from pathlib import Path

from coordinator.lab.certificates import Authority, Bearer
from proto.errors import CaasError

BEARERS = "coordinator, natbox, or agent:HOST"


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 it is there, 1 it could not be made, 2 the call is wrong."""
    parser = argparse.ArgumentParser(
        prog="caas-certificates",
        description="Makes a CA (in DIR/ca) and a certificate for each bearer (in DIR/BEARER). Valid ones are kept.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="keep it to yourself")
    parser.add_argument("bearers", nargs="+", metavar="BEARER[@ADDRESS]", help=BEARERS)
    options = parser.parse_args(argv)
    try:
        bearers = [parse_bearer(text) for text in options.bearers]
    except ValueError as exc:
        parser.error(str(exc))
    try:
        authority = Authority(options.folder / "ca", "hosts")
        for bearer in bearers:
            made = authority.issue(bearer, options.folder / bearer.hostname)
            print(f"{options.folder / bearer.hostname}: {bearer.uri}, {'made' if made else 'kept'}")
    except (CaasError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


def parse_bearer(text: str) -> Bearer:
    """`agent:host1@192.168.2.25`. ValueError says what is wrong."""
    who, _, address = text.partition("@")
    kind, colon, host = who.partition(":")
    if kind not in ("coordinator", "natbox", "agent") or (kind == "agent") != bool(host) or (colon and not host):
        raise ValueError(f"{text}: {BEARERS} is needed")
    if "/" in host or host.startswith(".") or host in ("ca", "coordinator", "natbox"):
        raise ValueError(f"{text}: {host} cannot be a host here")
    where = ipaddress.IPv4Address(address) if address else None
    return Bearer(uri=f"caas:{who}", hostname=host or kind, address=where)


if __name__ == "__main__":
    sys.exit(main())
