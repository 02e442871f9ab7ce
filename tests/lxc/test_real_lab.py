"""A whole lab with real netlink and real LXC: a plan is what happens, and kill -9 loses nothing and leaves nothing.

Containers are small, so that a round takes seconds; `make soak` plays every kill, and nova's steps. The tests of this
file go on with one cluster, in their order.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fingerprint import difference
from tests.support.killing import judge
from tests.support.killing.campaign import CLUSTER, Campaign
from tests.support.killing.lab import HOSTS, KillLab
from tests.support.killing.table import write_table
from tests.support.told import Told, containers_of

#: Kinds of links that a plan may say.
LINKS = ("bridge", "vlan", "ipip", "vxlan")


@pytest.fixture(scope="module")
def lab(images: Path) -> Iterator[KillLab]:
    with KillLab(f"real{os.getpid()}", images=images) as lab:
        yield lab


@pytest.fixture(scope="module")
def campaign(lab: KillLab, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    return Campaign(lab, tmp_path_factory.mktemp("campaign"))


def planned(actions: list[dict[str, Any]], verb: str, *kinds: str) -> set[str]:
    return {one["name"] for one in actions if (one["verb"], one["kind"]) in {(verb, kind) for kind in kinds}}


def peers_and_ports(lab: KillLab, host: str, names: set[str]) -> set[str]:
    """Links that come with others: the far ends of *names* where these are veth pairs, and containers' ports."""
    argv = ["ip", "-json", "-n", lab.places.namespace(host), "link"]
    links = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    ends = {link["link"] for link in links if link["ifname"] in names and link.get("link")}
    marked = [link for link in links if link.get("ifalias", "").startswith(f"caas:{CLUSTER}:")]
    ports = {link["ifname"] for link in marked if "link_netnsid" in link}
    return (ends - {"eth1"}) | ports


def test_what_is_planned_is_what_the_kernel_tells_of(lab: KillLab, campaign: Campaign) -> None:
    plan = lab.user.document("plan", str(campaign.file), "--json")
    told = {host: Told(lab.places.namespace(host)) for host in HOSTS}
    campaign.give("up")
    for host, heard in told.items():
        heard.end()
        actions = plan["hosts"][host]["actions"]
        assert {one["verb"] for one in actions} == {"create", "start"}
        links = planned(actions, "create", *LINKS)
        made = heard.made_links()
        assert set(made.values()) == {1}, f"{host}: made more than once: {made}"
        assert links <= set(made), host
        assert set(made) - links == peers_and_ports(lab, host, links), host
        assert heard.made_addresses() == dict.fromkeys(planned(actions, "create", "address"), 1)
        assert heard.made_routes() == dict.fromkeys(planned(actions, "create", "route"), 1)
        assert heard.made_rules() == dict.fromkeys(planned(actions, "create", "rule"), 1)
        assert heard.made_masquerades() == planned(actions, "create", "masquerade")
        containers = planned(actions, "create", "container")
        assert containers == planned(actions, "start", "container") == set(judge.running(lab, host))
        assert containers == containers_of(lab.places.machine(host) / "state")
        assert heard.removed() == [], host


def test_a_second_up_is_not_heard(lab: KillLab, campaign: Campaign) -> None:
    told = {host: Told(lab.places.namespace(host)) for host in HOSTS}
    campaign.give("up")
    for heard in told.values():
        heard.end()
        assert heard.text == ""


def test_logs_after_a_step_that_failed_for_real(lab: KillLab, campaign: Campaign) -> None:
    """Its container's program cannot write where the secrets are to be kept."""
    spoil = "rm -r /etc/caas && touch /etc/caas && mkdir -p /var/log && echo the disk says no > /var/log/disk.log"
    lab.user.inside(CLUSTER, "v1", ["sh", "-c", spoil])
    lab.user.caas("up", str(campaign.file), status=1)
    said = lab.user.caas("logs", CLUSTER).stdout.decode()
    assert "\nfailed: cluster/secrets:v1: keep the cluster's secrets beside its API\n  error: v1: sh ended with" in said
    assert "  hint: `caas logs" in said
    assert "\nv1, its last lines\n  -- /var/log/disk.log\n  the disk says no\n" in said
    assert "\nthe agent of host1, its last lines\n" in said
    lab.user.inside(CLUSTER, "v1", ["rm", "/etc/caas"])
    campaign.give("up")
    assert "failed:" not in lab.user.caas("logs", CLUSTER).stdout.decode()


def test_what_is_left_is_seen_named_and_a_failure(lab: KillLab, campaign: Campaign) -> None:
    """Somebody leaves a link with the cluster's mark: the campaign's judge sees it, and `caas down` names it."""
    host = ["ip", "-n", lab.places.namespace("host1"), "link"]
    # Not a kind of link that the agent would know for one of its own, and remove.
    subprocess.run([*host, "add", "stray", "type", "veth", "peer", "name", "stray2"], check=True)
    subprocess.run([*host, "set", "stray", "alias", f"caas:{CLUSTER}:stray"], check=True)
    failed = lab.user.caas("down", CLUSTER, status=1)
    assert f"host1: {CLUSTER} is removed, and this is left: link stray (caas:{CLUSTER}:stray)" in failed.stderr.decode()
    left = judge.take(lab)
    subprocess.run([*host, "del", "stray"], check=True)
    assert b"gone, nothing is left" in lab.user.caas("down", CLUSTER).stdout
    assert "links: + host1: " in difference(judge.take(lab), left)


def test_daemons_and_hosts_are_killed_and_nothing_is_lost_or_left(campaign: Campaign) -> None:
    campaign.count()
    rows = list(campaign.play(campaign.sample()))
    table = write_table(rows)
    print(table)
    assert rows
    assert all(row.is_well for row in rows), table
