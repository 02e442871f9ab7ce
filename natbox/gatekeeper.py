"""NATBox itself: its door, the tables in force, and the operations on them, one at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from natbox.alarms import ALARM_SHARE, make_alarms
from natbox.apply import apply
from natbox.doors import GatewayDoor, LeftoverLook, SeenGateway, SeenPath, Surroundings
from natbox.explain import Explanation, Facts, Packet, explain
from natbox.plan import make_plan
from natbox.saved import SavedTables
from natbox.table import check_table, make_sorted, needs_surroundings
from natbox.tables import Tables
from proto.errors import CaasError
from proto.model import Action, Cost, Gateway, GatewayCounters, GatewayPath, GatewayTable, GatewayTotals, Plan
from proto.removals import Removals, check_removal

log = logging.getLogger(__name__)


class Gatekeeper:
    """The operations behind the RPCs. Blocking; call from worker threads. Changes exclude each other."""

    def __init__(self, door: GatewayDoor, saved: SavedTables, leftovers: LeftoverLook | None = None) -> None:
        self.door = door
        self._leftovers = leftovers
        self._saved = saved
        self._tables = Tables(make_sorted(table) for table in saved.load().values())
        self._removals = Removals(saved)
        self._lock = threading.Lock()

    def generations(self) -> dict[str, int]:
        """The generation in force of each cluster."""
        return {name: table.generation for name, table in list(self._tables.items())}

    def removed(self) -> dict[str, int]:
        """The generation of each cluster's last removal."""
        return self._removals.all()

    def observe(self, cluster: str = "") -> Sequence[GatewayTable]:
        """What the kernel has, by cluster ("" is all), with the generation in force."""
        by_cluster: dict[str, list[Gateway]] = {}
        for _, found in sorted(self.door.observe_all().items()):
            if found.intact and cluster in ("", found.gateway.cluster):
                by_cluster.setdefault(found.gateway.cluster, []).append(found.gateway)
        generations = self.generations()
        return [
            GatewayTable(cluster=name, generation=generations.get(name, 1), gateways=tuple(gateways))
            for name, gateways in sorted(by_cluster.items())
        ]

    def check(self, desired: GatewayTable) -> None:
        """Raise what would keep *desired* from being put into force."""
        surroundings = self.door.surroundings() if needs_surroundings(desired) else Surroundings()
        check_table(desired, self._tables, surroundings)
        self._removals.check_apply(desired.cluster, desired.generation, is_empty=not desired.gateways)

    def plan(self, desired: GatewayTable) -> Plan:
        """What Apply would do; changes nothing."""
        with self._lock:
            self.check(desired)
            return self._look(make_sorted(desired))

    def apply(
        self, desired: GatewayTable, *, on_plan: Callable[[Plan], None], on_done: Callable[[Action], None]
    ) -> Cost:
        """Save *desired*, then make the kernel so. After a failure the table before it is in force again."""
        desired = make_sorted(desired)
        with self._lock:
            self.check(desired)
            before = self._tables.get(desired.cluster)
            # Also where it is in force: after a removal that failed something else is saved.
            self._saved.save(desired)
            writes = self.door.writes
            try:
                result = self._apply(desired, on_plan, on_done)
            except BaseException:
                if before is None:
                    self._saved.forget(desired.cluster)
                elif before != desired:
                    self._saved.save(before)
                raise
            self._tables.put(desired)
            if any(isinstance(action.thing, GatewayPath) for action in result):
                # What was laid again may have lost what the other clusters had in it.
                self._restore_all(self.door.observe_path())
            return Cost(generation=desired.generation, kernel_writes=self.door.writes - writes)

    def destroy(
        self,
        cluster: str,
        *,
        generation: int = 0,
        dry_run: bool,
        on_plan: Callable[[Plan], None],
        on_done: Callable[[Action], None],
    ) -> Cost:
        """Remove everything that carries *cluster*'s mark, then forget it, but for the *generation*. Nothing there is
        success. STALE where *generation* is not above the one in force; 0 is above all.
        """
        with self._lock:
            before = self._tables.get(cluster)
            is_empty = before is None or not before.gateways
            in_force = before.generation if before else 0
            check_removal(cluster, generation, in_force, is_empty=is_empty)
            # A generation of its own: the one in force has other contents.
            generation = generation or in_force + (not is_empty)
            nothing = GatewayTable(cluster=cluster, generation=max(generation, 1))
            if dry_run:
                on_plan(self._look(nothing))
                return Cost(generation=0)
            if before is not None:
                # Saved first: a crash half-way goes on removing at the next start.
                self._saved.save(nothing)
            writes = self.door.writes
            self._apply(nothing, on_plan, on_done)
            self._end_removal(cluster, generation)
            left = self._leftovers.find(cluster, is_last=not self._is_in_use()) if self._leftovers else ()
            for each in left:
                log.error("%s: left after its removal: %s", cluster, each)
            return Cost(generation=nothing.generation, kernel_writes=self.door.writes - writes, left=left)

    def counters(self, cluster: str = "") -> tuple[list[tuple[Gateway, GatewayCounters]], GatewayTotals]:
        """Those of each network of *cluster* ("" is all), and NATBox's as a whole where all are asked for."""
        gateways = {gateway.vid: gateway for gateway in self._tables.gateways()}
        vids = [vid for vid, gateway in gateways.items() if cluster in ("", gateway.cluster)]
        found = [(gateways[counters.vid], counters) for counters in self.door.counters(vids)]
        return found, GatewayTotals() if cluster else self.door.totals(gateways)

    def list_alarms(self) -> list[str]:
        """What is near a limit. Walks the kernel's connections only where there are so many that one may be."""
        limits = [each.limits.connections or self.door.shares.connections for each in self._tables.gateways()]
        totals = self.door.totals(())
        if not limits or totals.connections < ALARM_SHARE * min(*limits, totals.connections_max or limits[0]):
            return []
        return make_alarms(*self.counters())

    def explain(self, packet: Packet) -> Explanation:
        """What would happen to *packet*, by the tables in force."""
        listen = self.door.listen
        facts = Facts(
            surroundings=self.door.surroundings(),
            uplink=self.door.path.uplink,
            uplink_addresses=tuple(address.ip for address in self.door.uplink_addresses()),
            service=None if listen is None else (listen.address, listen.port),
            way=self.door.find_way(packet.destination),
            connections=self.door.shares.connections,
        )
        return explain(packet, self._tables, facts)

    def restore(self) -> None:
        """After a start: adopt what the kernel has, and make the rest as saved. Nothing that is right is written.

        A cluster that the kernel has and no file is adopted as generation 1. What fails is logged; mend() tries again.
        """
        with self._lock:
            try:
                self._adopt(self.door.observe_all().values())
                writes = self.door.writes
                self._restore_all(self.door.observe_path())
                log.info("%d clusters in force, %d kernel writes", len(self._tables), self.door.writes - writes)
            except CaasError as exc:
                log.error("not restored: %s (%s)", exc, exc.hint)
            except Exception:
                log.exception("not restored")  # packets flow; a daemon that answers is better than none

    def mend(self) -> None:
        """Put back what somebody else took of the path (`nft flush ruleset`, a link that went down and up)."""
        with self._lock:
            if not self._is_in_use():
                return
            seen_path = self.door.observe_path()
            if seen_path.missing:
                log.warning("missing of the datapath: %s", ", ".join(seen_path.missing))
                self._restore_all(seen_path)

    def mend_all(self) -> None:
        """The same for what each VLAN has (`nft flush map`, a route that somebody deleted)."""
        with self._lock:
            if self._is_in_use():
                writes = self.door.writes
                self._restore_all(self.door.observe_path())
                if self.door.writes != writes:
                    log.warning("something of the VLANs was missing: %d kernel writes", self.door.writes - writes)

    def _restore_all(self, seen_path: SeenPath) -> None:
        """Every cluster as saved: the path first and once, since looking at it costs more than at a cluster."""
        if self._is_in_use():
            if seen_path.missing:
                self.door.lay_path()
                seen_path = self.door.observe_path()
        elif seen_path.there:
            self.door.lift_path()
            seen_path = self.door.observe_path()
        seen: dict[str, dict[int, SeenGateway]] = {}
        for vid, each in self.door.observe_all().items():
            seen.setdefault(each.gateway.cluster, {})[vid] = each
        for cluster in sorted(self._tables):
            self._restore(cluster, seen.get(cluster, {}), seen_path)

    def _is_in_use(self) -> bool:
        return any(table.gateways for table in self._tables.values())

    def _adopt(self, seen: Iterable[SeenGateway]) -> None:
        found: dict[str, list[Gateway]] = {}
        for each in seen:
            if each.gateway.cluster not in self._tables:
                found.setdefault(each.gateway.cluster, []).append(each.gateway)
        for cluster, gateways in found.items():
            log.warning("%s: its table was not saved; adopted from the kernel as generation 1", cluster)
            table = make_sorted(GatewayTable(cluster=cluster, generation=1, gateways=tuple(gateways)))
            self._saved.save(table)
            self._tables.put(table)

    def _restore(self, cluster: str, mine: Mapping[int, SeenGateway], seen_path: SeenPath) -> None:
        table = self._tables[cluster]
        try:
            if self._plan_from(table, mine, seen_path):
                found = [each.gateway for each in mine.values()]
                apply(self.door, lambda: self._look(table, found), on_plan=_ignore, on_done=_ignore)
            if not table.gateways:
                self._end_removal(cluster, table.generation)
        except CaasError as exc:
            log.error("%s: not restored: %s (%s)", cluster, exc, exc.hint)

    def _apply(self, desired: GatewayTable, on_plan: Callable[[Plan], None], on_done: Callable[[Action], None]) -> Plan:
        return apply(self.door, lambda: self._look(desired), on_plan=on_plan, on_done=on_done)

    def _look(self, desired: GatewayTable, found: Sequence[Gateway] = ()) -> Plan:
        """What is pending, looking only where *desired*, the table before it or *found* have something."""
        before = self._tables.get(desired.cluster)
        known = before.gateways if before is not None else ()
        seen = self.door.observe([*desired.gateways, *known, *found])
        # A VID that another cluster has is not this one's to change: the door refuses to create it.
        mine = {vid: each for vid, each in seen.vlans.items() if each.gateway.cluster == desired.cluster}
        return self._plan_from(desired, mine, seen.path)

    def _plan_from(self, desired: GatewayTable, seen: Mapping[int, SeenGateway], seen_path: SeenPath) -> Plan:
        others = (table for table in self._tables.values() if table.cluster != desired.cluster)
        return make_plan(
            desired.gateways,
            seen,
            path=self.door.path,
            seen_path=seen_path,
            path_is_wanted=bool(desired.gateways) or any(table.gateways for table in others),
        )

    def _end_removal(self, cluster: str, generation: int) -> None:
        """Remembered before it is forgotten: a crash between the two goes on at the next start."""
        self._removals.remember(cluster, generation, self.generations())
        self._forget(cluster)

    def _forget(self, cluster: str) -> None:
        self._saved.forget(cluster)
        self._tables.remove(cluster)


def _ignore(_: object) -> None:
    return None
