"""Why a pair fails: from what its two ends saw, what their hosts saw pass, and what the hosts find about themselves.

A packet that gets no answer was lost on one of two legs, the question's or the answer's; the other end heard the
question or not. On that leg, what a host finds about itself and nothing can pass goes first; then what was sent and
not received tells on which side to look; what is only likely goes last. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from coordinator.reach.judge import Pair, Symptom, Verdict
from coordinator.reach.pairs import GATEWAY, Tunnel, find_tunnel, find_vlan
from coordinator.reach.report import HostReport, Report
from proto.model import KIND_IPIP, Cause, ClusterHost, Container, Finding

#: Where nothing passes, small or large; what comes first has what follows for its consequence.
_HARD = (
    Cause.NOT_RUNNING,
    Cause.LINK_DOWN,
    Cause.WRONG_VLAN,
    Cause.REVERSE_PATH,
    Cause.NO_ROUTE,
    Cause.TUNNEL,
)
_FILTERS = (Cause.FORWARD, Cause.PROTOCOL_4, Cause.FILTERED)
#: ICMP "unreachable" (RFC 792, RFC 1812 5.2.7.1): codes that say there is no way, and that somebody forbids it.
_NO_WAY, _TOO_BIG, _FORBIDDEN = frozenset({0, 6, 11}), 4, frozenset({3, 9, 10, 13})
_REFUSALS = {
    "ENETUNREACH": (Cause.NO_ROUTE, "there is no route to it in the container"),
    "ENETDOWN": (Cause.LINK_DOWN, "its eth0 is down"),
    "EPERM": (Cause.FILTERED, "a packet filter in the container forbids it"),
    "EACCES": (Cause.FILTERED, "a packet filter in the container forbids it"),
}


@dataclass(frozen=True, slots=True)
class _End:
    """One end of a leg. `container` is None for a gateway, which may be on no host that is known (`host` "")."""

    name: str
    host: str
    address: IPv4Address
    container: Container | None
    report: Report | None


@dataclass(frozen=True, slots=True)
class _Leg:
    """A way from one end to the other that questions, or answers, do not pass; `full`: only those that fill the MTU
    do not."""

    sender: _End
    receiver: _End
    full: bool = False
    answers: bool = False

    @property
    def crosses(self) -> bool:
        return self.sender.host != self.receiver.host or GATEWAY in (self.sender.name, self.receiver.name)

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(host for host in (self.sender.host, self.receiver.host) if host))


@dataclass(frozen=True, slots=True)
class _Place:
    """What passed says where a leg ends: on one of `hosts`, or with `verdict` between them."""

    hosts: tuple[str, ...]
    verdict: Verdict | None = None


class Causes:
    """The explanation of pairs of one cluster. *findings* has those hosts that could be asked."""

    def __init__(
        self,
        desired: Mapping[str, ClusterHost],
        reports: Mapping[str, HostReport],
        findings: Mapping[str, Sequence[Finding]],
    ) -> None:
        self._desired = desired
        self._reports = reports
        self._findings = findings
        self._containers = {
            one.hostname: (host, one) for host, state in desired.items() for one in state.state.containers
        }
        self._names = {
            str(address.address.ip): host for host, state in desired.items() for address in state.state.addresses
        }

    def explain(self, pair: Pair) -> Verdict:
        """Why *pair*, which is not well, is not."""
        source, target = self._end(pair.source, pair), self._end(pair.target, pair)
        match pair.symptom:
            case Symptom.UNASKED:
                return self._explain_unasked(source)
            case Symptom.DUPLICATE:
                twins = ", ".join(target.report.twins) if target.report else ""
                return Verdict(cause=Cause.DUPLICATE, text=f"{target.address} is also {twins}'s", at=target.host)
            case Symptom.WRONG_SOURCE:
                return self._explain_source(source, target)
            case Symptom.REFUSED:
                return self._explain_refusal(source, target)
            case Symptom.UNANSWERED:
                return self._explain_leg(_Leg(target, source, answers=True), Symptom.UNANSWERED.value)
            case Symptom.NARROW:
                heard = target.report.heard.get(str(source.address), {}) if target.report else {}
                is_heard = bool(heard.get("full"))
                leg = _Leg(*((target, source) if is_heard else (source, target)), full=True, answers=is_heard)
                return self._explain_leg(leg, Symptom.NARROW.value)
            case _:
                return self._explain_leg(_Leg(source, target), Symptom.SILENT.value)

    def _end(self, name: str, pair: Pair) -> _End:
        if name in self._containers:
            host, container = self._containers[name]
            report = self._reports[host].reports.get(name) if host in self._reports else None
            return _End(name, host, container.nic.address.ip, container, report)
        _, asker = self._containers[pair.source]
        assert asker.nic.gateway is not None
        return _End(name, self._names.get(str(asker.nic.gateway), ""), asker.nic.gateway, None, None)

    def _explain_unasked(self, source: _End) -> Verdict:
        if why := self._reports[source.host].failure:
            return self._unasked(source.host, f"{source.name} cannot be asked: {why}")
        assert source.report is not None
        return Verdict(cause=Cause.NOT_RUNNING, text=f"{source.name}: {source.report.failure}", at=source.host)

    def _unasked(self, host: str, text: str) -> Verdict:
        """An agent that is there and failed says why."""
        if not self._reports[host].is_away:
            return Verdict(cause=Cause.UNKNOWN, text=text, hint=f"see the log of caas-agent on {host}", at=host)
        hint = f"start caas-agent on {host}, and see its log"
        return Verdict(cause=Cause.AGENT_DOWN, text=text, hint=hint, at=host)

    def _explain_source(self, source: _End, target: _End) -> Verdict:
        assert target.report is not None
        seen = target.report.heard[str(source.address)]["source"]
        leg = _Leg(source, target)
        found = next(self._concerned(leg, (source.host,), (Cause.WRONG_SOURCE,)), None)
        why = f" ({found[1].text})" if found else ""
        hint = found[1].hint if found else "nft list ruleset: who translates what the overlay carries?"
        return Verdict(cause=Cause.WRONG_SOURCE, text=f"it arrives as {seen}{why}", hint=hint, at=source.host)

    def _explain_refusal(self, source: _End, target: _End) -> Verdict:
        assert source.report is not None
        word = source.report.refused[str(target.address)]
        cause, text = _REFUSALS.get(word, (Cause.UNKNOWN, f"it cannot be sent: {word}"))
        hint = f"in {source.name}: ip route get {target.address}" if cause is Cause.NO_ROUTE else ""
        return Verdict(cause=cause, text=text, hint=hint, at=source.host)

    def _explain_leg(self, leg: _Leg, symptom: str) -> Verdict:
        where = self._locate(leg)
        steps: tuple[Iterator[Verdict], ...] = (
            self._from_containers(leg),
            self._from_findings(leg, leg.hosts, (Cause.MTU,) if leg.full else _HARD, sure=True),
            iter((where.verdict,) if where.verdict else ()),
            self._from_messages(leg),
            self._from_neighbours(leg),
            self._from_reverse_path(leg, where.hosts),
            self._from_findings(leg, where.hosts, () if leg.full else _FILTERS, sure=True),
            self._from_drops(leg, where.hosts),
            self._from_findings(leg, where.hosts, () if leg.full else _FILTERS, sure=False),
            self._from_agents(leg),
        )
        for step in steps:
            for verdict in step:
                return verdict
        return self._unknown(leg, where, symptom)

    def _from_containers(self, leg: _Leg) -> Iterator[Verdict]:
        """What the two ends say of themselves."""
        for end in (leg.sender, leg.receiver):
            if end.report is None or self._reports[end.host].failure:
                continue
            facts = end.report.facts
            if end.report.failure:
                yield Verdict(cause=Cause.NOT_RUNNING, text=f"{end.name}: {end.report.failure}", at=end.host)
            elif not facts["up"]:
                yield Verdict(cause=Cause.LINK_DOWN, text=f"eth0 of {end.name} is down", at=end.host)
            elif leg.full and facts["mtu"] < end.report.target.mtu:
                text = f"eth0 of {end.name} has MTU {facts['mtu']}, and {end.report.target.mtu} is needed"
                hint = f"in {end.name}: ip link set eth0 mtu {end.report.target.mtu}"
                yield Verdict(cause=Cause.MTU, text=text, hint=hint, at=end.host)
        sender, facts = leg.sender, leg.sender.report.facts if leg.sender.report else {}
        if facts and not any(leg.receiver.address in IPv4Network(network) for network in facts["routes"]):
            text = f"{sender.name} has none to {leg.receiver.address}"
            hint = f"in {sender.name}: ip route get {leg.receiver.address}"
            yield Verdict(cause=Cause.NO_ROUTE, text=text, hint=hint, at=sender.host)

    def _from_messages(self, leg: _Leg) -> Iterator[Verdict]:
        """What somebody on the way told the sender of the question."""
        told = leg.sender.report.told.get(str(leg.receiver.address)) if leg.sender.report else None
        if leg.answers or told is None or told["by"] == str(leg.sender.address):
            return
        at = self._names.get(told["by"], "")
        by = at or told["by"]
        if leg.full and told["code"] == _TOO_BIG:
            hint = f"tracepath -n {leg.receiver.address}"
            yield Verdict(cause=Cause.MTU, text=f"{by} says that at most {told['mtu']} bytes pass", hint=hint, at=at)
        elif told["code"] in _NO_WAY:
            text = f"{by} has none to {leg.receiver.address}"
            yield Verdict(cause=Cause.NO_ROUTE, text=text, hint=f"ip route get {leg.receiver.address}", at=at)
        elif told["code"] in _FORBIDDEN and told["by"] != str(leg.receiver.address):
            hint = "nft list ruleset"
            yield Verdict(cause=Cause.FORWARD, text=f"{by} rejects packets to {leg.receiver.address}", hint=hint, at=at)

    def _from_findings(
        self, leg: _Leg, hosts: Sequence[str], causes: Sequence[Cause], *, sure: bool
    ) -> Iterator[Verdict]:
        found = sorted(self._concerned(leg, hosts, causes), key=lambda each: causes.index(each[1].cause))
        for host, finding in found:
            if finding.sure is sure:
                yield Verdict(cause=finding.cause, text=f"{host}: {finding.text}", hint=finding.hint, at=host)

    def _concerned(self, leg: _Leg, hosts: Sequence[str], causes: Sequence[Cause]) -> Iterator[tuple[str, Finding]]:
        """The findings of *hosts* that concern packets of *leg*, the sender's host first."""
        for host in hosts:
            for finding in self._findings.get(host, ()):
                near, far = (leg.sender, leg.receiver) if host == leg.sender.host else (leg.receiver, leg.sender)
                ends = ((near, far), (far, near)) if near.host == far.host else ((near, far),)
                if (
                    finding.cause in causes
                    and (leg.crosses or not finding.crossing)
                    and any(_is_about(finding, *both) for both in ends)
                ):
                    yield host, finding

    def _from_neighbours(self, leg: _Leg) -> Iterator[Verdict]:
        for host in leg.hosts:
            if host in self._reports and (count := self._reports[host].neighbour_overflows):
                text = f"{host} could not keep {count} neighbours: its table is full"
                hint = "sysctl -w net.ipv4.neigh.default.gc_thresh3=16384 (and gc_thresh2, gc_thresh1 below it)"
                yield Verdict(cause=Cause.NEIGHBOURS, text=text, hint=hint, at=host)

    def _from_reverse_path(self, leg: _Leg, hosts: Sequence[str]) -> Iterator[Verdict]:
        """Whose count of packets that would be answered by another way has grown."""
        if leg.full:
            return
        for end, other in ((leg.receiver, leg.sender), (leg.sender, leg.receiver)):
            if end.report is not None and end.report.reverse_path:
                text = f"{end.name} dropped {end.report.reverse_path} packets whose sources it would answer another way"
                hint = f"in {end.name}: ip route get {other.address}"
                yield Verdict(cause=Cause.REVERSE_PATH, text=text, hint=hint, at=end.host)
        for host in hosts:
            if host in self._reports and (count := self._reports[host].reverse_path):
                found = next(self._concerned(leg, (host,), (Cause.REVERSE_PATH,)), None)
                text = f"{host} dropped {count} packets whose sources it would answer another way"
                why, hint = (
                    (f": {found[1].text}", found[1].hint) if found else ("", f"ip route get {leg.sender.address}")
                )
                yield Verdict(cause=Cause.REVERSE_PATH, text=text + why, hint=hint, at=host)

    def _from_drops(self, leg: _Leg, hosts: Sequence[str]) -> Iterator[Verdict]:
        """What a tunnel did not take."""
        tunnel = self._tunnel(leg)
        host = leg.receiver.host
        if leg.full or tunnel is None or host not in hosts or host not in self._reports:
            return
        if drops := self._reports[host].tunnel_drops:
            text = ", ".join(f"{count} of {reason}" for reason, count in drops.items())
            yield Verdict(cause=Cause.TUNNEL, text=f"{host} did not take packets: {text}", at=host)

    def _from_agents(self, leg: _Leg) -> Iterator[Verdict]:
        """Nothing else explains it, and one host cannot be asked."""
        for host in leg.hosts:
            if why := self._reports[host].failure if host in self._reports else "":
                yield self._unasked(host, f"no answer, and {host} cannot be asked why: {why}")

    def _tunnel(self, leg: _Leg) -> Tunnel | None:
        if not leg.crosses or leg.sender.host not in self._desired:
            return None
        return find_tunnel(self._desired[leg.sender.host].state, leg.receiver.address)

    def _locate(self, leg: _Leg) -> _Place:
        """Where packets of *leg* are lost, from what was seen leaving one host and entering the other."""
        if leg.sender.host == leg.receiver.host or not leg.receiver.host:
            return _Place(leg.hosts)
        if leg.sender.container is None or leg.receiver.container is None:
            return _Place(leg.hosts)
        if tunnel := self._tunnel(leg):
            return self._locate_in_tunnel(leg, tunnel)
        if not leg.full:
            return self._locate_in_vlan(leg, leg.sender.container)
        return _Place(leg.hosts)

    def _locate_in_tunnel(self, leg: _Leg, tunnel: Tunnel) -> _Place:
        here, there = self._reports[leg.sender.host], self._reports[leg.receiver.host]
        local, remote = str(tunnel.local), str(tunnel.remote)
        key = (local, remote, str(leg.sender.address), str(leg.receiver.address), leg.answers)
        at_here, at_there = here.outer.get(key), there.outer.get(key)
        least = 0
        if leg.full:
            assert leg.sender.container is not None
            least = leg.sender.container.nic.mtu + tunnel.overhead
        sent = at_here is not None and at_here.sent > 0 and at_here.sent_size >= least
        received = at_there is not None and at_there.received > 0 and at_there.received_size >= least
        if here.failure or there.failure:
            return _Place(leg.hosts)
        if received:
            return _Place((leg.receiver.host,))
        if not sent:
            return _Place((leg.sender.host,))
        way = f"from {leg.sender.host} ({local}) to {leg.receiver.host} ({remote})"
        if leg.full:
            text = f"packets of {least} bytes do not pass {way}"
            hint = f"on {leg.sender.host}: tracepath -n {remote}"
            return _Place((), Verdict(cause=Cause.MTU, text=text, hint=hint))
        text = f"packets of the tunnel leave, and none arrives, {way}"
        if tunnel.kind != KIND_IPIP:
            hint = "something between the hosts drops UDP to port 4789: accept it there"
            return _Place((), Verdict(cause=Cause.TUNNEL, text=text, hint=hint))
        hint = "something between the hosts drops IP protocol 4: accept it there, or `overlay: vxlan` in the file"
        return _Place((), Verdict(cause=Cause.PROTOCOL_4, text=text, hint=hint))

    def _locate_in_vlan(self, leg: _Leg, sender: Container) -> _Place:
        here, there = self._reports[leg.sender.host], self._reports[leg.receiver.host]
        vlan = find_vlan(self._desired[leg.sender.host].state, sender.nic.bridge)
        if vlan is None or here.failure or there.failure:
            return _Place(leg.hosts)
        sent = {vid for (vid, mac), (count, _) in here.tagged.items() if mac == sender.nic.mac and count}
        seen = {vid for (vid, mac), (_, count) in there.tagged.items() if mac == sender.nic.mac and count}
        if vlan.vid in seen:  # its frames are not told one from another: where this one went is not known
            return _Place(leg.hosts)
        if sent and vlan.vid not in sent:
            text = f"frames of {leg.sender.name} leave {leg.sender.host} with VID {_list(sent)}, not {vlan.vid}"
        elif not sent:
            return _Place((leg.sender.host,))
        elif seen:
            text = f"frames of {leg.sender.name} come to {leg.receiver.host} with VID {_list(seen)}, not {vlan.vid}"
        else:
            text = (
                f"frames with VID {vlan.vid} leave {leg.sender.host} by {vlan.parent} and do not come to "
                f"{leg.receiver.host}"
            )
        hint = (
            f"the trunks of {leg.sender.host} and {leg.receiver.host}, and each switch between, must carry {vlan.vid}"
        )
        return _Place((), Verdict(cause=Cause.WRONG_VLAN, text=text, hint=hint))

    def _unknown(self, leg: _Leg, where: _Place, symptom: str) -> Verdict:
        at = where.hosts[0] if len(where.hosts) == 1 else ""
        lost = f", lost on {at}" if at and leg.crosses else ""
        if leg.full:
            way = f"from {leg.sender.name} to {leg.receiver.name}"
            return Verdict(cause=Cause.MTU, text=f"{symptom}, {way}{lost}", at=at)
        return Verdict(cause=Cause.UNKNOWN, text=f"{symptom}{lost}", at=at)


def _is_about(finding: Finding, near: _End, far: _End) -> bool:
    return (not finding.near or near.name in finding.near) and (
        not finding.far or any(far.address in network for network in finding.far)
    )


def _list(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))
