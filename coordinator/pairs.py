"""`overlay: auto`: which way packets take between each two hosts, found by trying before anything is touched.

`direct` where each host has the other on one of its links, else `ipip` where protocol 4 passes in both directions, else
`vxlan` where its UDP port does. A cluster's pair keeps the way it has for as long as that passes, also where a better
one has become possible: another would change what is running. Only `direct` of a file's own is tried, too. With a host
that is away nothing can be tried: its pairs keep what they have, and a new pair of it is refused.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from coordinator.compiling import Pair, Way, pair_of
from coordinator.compiling.ways import AUTO, DIRECT, IPIP, VXLAN, Ways
from coordinator.config import ClusterFile
from coordinator.journal import Record
from coordinator.survey import Survey, gather_all
from proto import agent_pb2 as pb
from proto.errors import CaasError, Code

#: How long it is tried whether packets pass, in seconds. Where all pass it takes less.
SECONDS = 2.0
NONCE = 16
WHYS = {
    DIRECT: "each has the other on its link",
    IPIP: "a router is between them, and protocol 4 passes",
    VXLAN: "protocol 4 does not pass, UDP port 4789 does",
}
BY_FILE = "the file says so"
TUNNELLED = "tunnel_to is always ipip"


async def find_ways(found: Survey, file: ClusterFile, record: Record | None) -> Survey:
    """*found* with the way of each pair that `auto` decides. UNSUPPORTED names the pairs that have none."""
    overlay = overlay_of(file)
    if overlay not in (AUTO, DIRECT):
        return found
    present = found.present
    every = [pair_of(*pair) for pair in ways_of(file).open_pairs()]
    pairs = [pair for pair in every if all(host in present for host in pair)]
    if overlay == DIRECT:
        tried = await _try(found, file, dict.fromkeys(pairs, ()))
        _check({pair: tried[pair].on_link for pair in pairs}, file, "not on one link, as overlay: direct needs it")
        return found
    known = {pair: way for pair, way in remembered_ways(record).items() if pair in every}
    if untold := [pair for pair in every if pair not in pairs and pair not in known]:
        raise _cannot_be_tried(untold, file, present)
    ways = await _decide(found, file, {pair: known.get(pair) for pair in pairs})
    if lost := [pair for pair in known if pair in pairs and pair not in ways]:
        ways |= await _decide(found, file, dict.fromkeys(lost))
    text = "not on one link, and neither protocol 4 nor UDP port 4789 passes between them"
    _check({pair: pair in ways for pair in pairs}, file, text)
    return replace(found, ways={pair: (ways if pair in pairs else known)[pair] for pair in every})


def overlay_of(file: ClusterFile) -> str:
    """That of the routed networks; "" where there are none."""
    return next((network.overlay for network in file.routed.values()), "")


def ways_of(file: ClusterFile) -> Ways:
    """The ways between the file's hosts as far as the file decides them."""
    homes = {spec.host: None for spec in file.containers.values() if spec.network in file.routed}
    ends = {host.address: host.name for host in file.hosts.values()}
    peers: dict[str, set[str]] = {home: set() for home in homes}
    for spec in file.containers.values():
        if network := file.routed.get(spec.network):
            peers[spec.host] |= {ends[peer] for peer in network.tunnel_to if ends[peer] != spec.host}
    involved = [host for host in file.hosts if host in homes or any(host in found for found in peers.values())]
    return Ways(overlay_of(file), None, involved=involved, homes=homes, peers=peers)


def describe(file: ClusterFile, record: Record | None) -> list[dict[str, str]]:
    """Each joined pair of hosts, the way it has and why so: for `caas status`."""
    overlay = overlay_of(file)
    if not overlay:
        return []
    ways, known = ways_of(file), remembered_ways(record)
    undecided = {pair_of(*pair) for pair in ways.open_pairs()}
    found = []
    for one, other in ways.pairs():
        pair = pair_of(one, other)
        way = Way(method=ways.method(one, other), why=BY_FILE if overlay != AUTO else TUNNELLED)
        if pair in undecided and overlay == AUTO:
            way = known.get(pair) or Way(method=IPIP, why="nobody tried")
        elif pair not in undecided:
            way = replace(way, why=TUNNELLED)
        found.append({"a": one, "b": other, "method": way.method, "why": way.why})
    return found


def ways_to_json(ways: Mapping[Pair, Way]) -> list[list[str]]:
    """For the journal; `remembered_ways` reads it."""
    return [[*pair, way.method, way.why] for pair, way in sorted(ways.items())]


def remembered_ways(record: Record | None) -> dict[Pair, Way]:
    """What was chosen when the cluster of *record* was last brought up."""
    listed = json.loads(record.remembered).get("ways", ()) if record and record.remembered else ()
    return {(one, other): Way(method=method, why=why) for one, other, method, why in listed}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    """What was found out of a pair: both ends agree."""

    on_link: bool
    passes: frozenset[str]


async def _decide(found: Survey, file: ClusterFile, pairs: Mapping[Pair, Way | None]) -> dict[Pair, Way]:
    """The way of each of *pairs* that has one. With one given, only that is tried."""
    wanted: dict[Pair, tuple[str, ...]] = {}
    for pair, way in pairs.items():
        able = [method for method in (IPIP, VXLAN) if all(_can(found, host, method) for host in pair)]
        wanted[pair] = tuple(method for method in able if way is None or way.method == method)
    decided = {}
    for pair, tried in (await _try(found, file, wanted)).items():
        way = pairs[pair]
        passing = [DIRECT] * tried.on_link + [method for method in (IPIP, VXLAN) if method in tried.passes]
        if way is not None and way.method in passing:
            decided[pair] = way
        elif way is None and passing:
            decided[pair] = Way(method=passing[0], why=WHYS[passing[0]])
    return decided


def _can(found: Survey, host: str, method: str) -> bool:
    probe = found.hosts[host].probe
    return bool(probe.datapath_ipip if method == IPIP else probe.datapath_vxlan)


async def _try(found: Survey, file: ClusterFile, wanted: Mapping[Pair, tuple[str, ...]]) -> dict[Pair, _Tried]:
    """Ask both hosts of every pair, all at once."""
    nonce = secrets.token_bytes(NONCE)
    ends = {name: str(host.address) for name, host in file.hosts.items()}
    requests: dict[str, pb.FindPassagesRequest] = {}
    for pair, methods in wanted.items():
        for host, far in (pair, pair[::-1]):
            request = requests.setdefault(host, pb.FindPassagesRequest(local=ends[host], nonce=nonce, seconds=SECONDS))
            request.fars.add(address=ends[far], methods=methods)
    replies = await gather_all([found.hosts[host].agent.find_passages(request) for host, request in requests.items()])
    seen: dict[tuple[str, str], pb.FindPassagesReply.Far] = {}
    for host, reply in zip(requests, replies, strict=True):
        assert isinstance(reply, pb.FindPassagesReply)
        seen |= {(host, far.address): far for far in reply.fars}
    tried = {}
    for one, other in wanted:
        there, back = seen[one, ends[other]], seen[other, ends[one]]
        passes = frozenset(there.heard) & frozenset(back.heard)
        tried[one, other] = _Tried(on_link=there.on_link and back.on_link, passes=passes)
    return tried


def _cannot_be_tried(pairs: Sequence[Pair], file: ClusterFile, present: Collection[str]) -> CaasError:
    lines = []
    for one, other in pairs:
        away = " and ".join(_name(file, host) for host in (one, other) if host not in present)
        lines.append(
            f"{_name(file, one)} and {_name(file, other)}: {away} is away, so no way between them can be tried"
        )
    hint = "mend it, or leave out of the file for now what is new on the other one"
    return CaasError(Code.UNREACHABLE, "\n".join(lines), hint=hint)


def _check(right: Mapping[Pair, bool], file: ClusterFile, text: str) -> None:
    """UNSUPPORTED with a line for each pair that is not *right*."""
    wrong = [pair for pair, is_right in right.items() if not is_right]
    if wrong:
        raise CaasError(
            Code.UNSUPPORTED,
            "\n".join(f"{_name(file, one)} and {_name(file, other)}: {text}" for one, other in wrong),
            hint="see `ip route get` and `nft list ruleset` on both and on what is between them, or choose another "
            "overlay",
        )


def _name(file: ClusterFile, host: str) -> str:
    address: IPv4Address | None = file.hosts[host].address
    return host if host == str(address) else f"{host} ({address})"
