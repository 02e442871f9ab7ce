"""What a cluster file has the world outside see, and how much of NATBox it may use: `publish` and `limits`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from coordinator.config import tree
from coordinator.config.cluster import Path, PublishedApi, PublishedPort
from coordinator.config.fields import Fields
from coordinator.config.problem import Place
from coordinator.nova.urls import PUBLIC_APIS
from proto.model import Limits
from proto.model.gateway import LIMIT_MAX, PORT_MAX, PROTOCOLS

API = "api"
#: Of one element of `publish` that is no word, and of `limits`.
PUBLISH_KEYS = (("port", "to"), ("protocol",))
API_KEYS = ((API,), ())
LIMITS_KEYS = ((), ("connections", "connections_per_second"))
_TO = re.compile(r"([^:\s]+):([0-9]{1,5})")
WANTED = "api, {api: PORT}, or {port: PORT, to: CONTAINER:PORT}"


def read_publish(top: Fields, places: dict[Path, Place]) -> tuple[tuple[PublishedPort, ...], PublishedApi | None]:
    """The ports and the API that the key `publish` of *top* names; where they stand is added to *places*.

    One element may stand for a list of itself. What cannot be read is reported and left out.
    """
    node = top.node("publish")
    if node is None:
        return (), None
    items = node.items if isinstance(node, tree.Sequence) else [node]
    if not items:
        top.wrong("publish", "the list is empty", hint=f"{WANTED} is needed, or nothing at all")
    ports: list[PublishedPort] = []
    api: PublishedApi | None = None
    for index, item in enumerate(items):
        path = f"publish[{index}]" if isinstance(node, tree.Sequence) else "publish"
        places[(path,)] = item.place
        found = _read_item(item, path, top, places)
        if isinstance(found, PublishedPort):
            ports.append(found)
        elif found is not None:
            if api is not None:
                message = f"the API is published already (line {places[api.path].line})"
                top.report.add(item.place, path, message, hint="keep one of them")
            api = api or found
    return tuple(ports), api


def _read_item(
    item: tree.Node, path: str, top: Fields, places: dict[Path, Place]
) -> PublishedPort | PublishedApi | None:
    if isinstance(item, tree.Scalar) and item.text == API:
        return PublishedApi(path=(path,))
    if not isinstance(item, tree.Mapping):
        top.report.add(item.place, path, f"found {tree.describe(item)}", hint=f"{WANTED} is needed")
        return None
    required, optional = API_KEYS if API in item.entries else PUBLISH_KEYS
    fields = Fields(item, path, top.report, place=item.place, required=required, optional=optional)
    for key in (*required, *optional):
        if fields.node(key) is not None:
            places[(path, key)] = fields.where(key)
    if API in item.entries:
        highest = PORT_MAX + 1 - len(PUBLIC_APIS)
        first = fields.integer(API, lowest=1, highest=highest, what="the first port")
        return PublishedApi(base_port=first, path=(path, API)) if first else None
    return _read_port(fields, path)


def _read_port(fields: Fields, path: str) -> PublishedPort | None:
    port = fields.integer("port", lowest=1, highest=PORT_MAX, what="port")
    protocol = fields.choice("protocol", PROTOCOLS)
    to = fields.scalar("to", "CONTAINER:PORT")
    found = _TO.fullmatch(to.text) if to else None
    if to and (found is None or not 1 <= int(found[2]) <= PORT_MAX):
        fields.wrong(
            "to", f"{to.text!r} is no CONTAINER:PORT", hint=f"as ubuntu011:8774, the port within 1..{PORT_MAX}"
        )
        return None
    if found is None or port is None:
        return None
    return PublishedPort(
        port=port, container=found[1], to_port=int(found[2]), protocol=protocol or PROTOCOLS[0], path=(path,)
    )


def read_limits(fields: Fields) -> Limits:
    """The limits of a network; what it does not say is 0, NATBox's own choice."""
    node = fields.node("limits")
    if node is None:
        return Limits()
    required, optional = LIMITS_KEYS
    path = f"{fields.path}.limits"
    limits = Fields(node, path, fields.report, place=fields.where("limits"), required=required, optional=optional)
    numbers: Mapping[str, int] = {
        key: limits.integer(key, lowest=1, highest=LIMIT_MAX, what=key) or 0 for key in optional
    }
    return Limits(**numbers)
