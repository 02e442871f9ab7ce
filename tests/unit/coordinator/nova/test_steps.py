"""Nova's steps against fake containers: their graph, their files, and what a second run does."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from coordinator.nova import (
    Role,
    Secrets,
    Site,
    clouds_yaml_text,
    make_secrets,
    make_site,
    make_steps,
    openrc_text,
)
from coordinator.nova.compute import ComputeStep
from coordinator.nova.goals import File, Goal
from coordinator.nova.keystone import ENDPOINTS_QUERY
from coordinator.nova.step import ServiceStep
from coordinator.preflight import Restarting
from coordinator.steps import Step, make_waves
from proto.errors import CaasError, Code
from tests.support.fake_nova import FakeCluster, FakeContainer

ALL_IN_ONE = {"ubuntu011": ("controller", "compute")}
TWO = {**ALL_IN_ONE, "ubuntu012": ("compute",)}
SPREAD = {f"h{number}": (str(role),) for number, role in enumerate(Role)}


def make_lab_site(roles: Mapping[str, tuple[str, ...]], **values: Any) -> Site:
    containers = [
        {"hostname": name, "address": f"192.168.10.{50 + number}", "roles": held}
        for number, (name, held) in enumerate(roles.items())
    ]
    return make_site(cluster="lab", containers=containers, **values)


class Lab:
    """A cluster of fake containers that can grow."""

    def __init__(self) -> None:
        self.cluster = FakeCluster()
        self.containers: dict[str, FakeContainer] = {}
        self.secrets = make_secrets()

    def steps(self, roles: Mapping[str, tuple[str, ...]], **values: Any) -> tuple[Step, ...]:
        for name in roles:
            self.containers.setdefault(name, FakeContainer(self.cluster, name))
        return make_steps(make_lab_site(roles, **values), self.containers, self.secrets)

    async def bring(self, steps: tuple[Step, ...]) -> list[str]:
        """Run what is not done, in waves; the ids of what ran."""
        by_id = {step.id: step for step in steps}
        ran = []
        for wave in make_waves(steps):
            for step_id in wave:
                if not await by_id[step_id].done():
                    await by_id[step_id].run()
                    assert await by_id[step_id].done(), step_id
                    ran.append(step_id)
        return ran


def all_files(steps: tuple[Step, ...]) -> Iterator[tuple[Step, File]]:
    for step in steps:
        for item in dataclasses.fields(step):  # type: ignore[arg-type]
            value = getattr(step, item.name)
            for goal in value if isinstance(value, tuple) else (value,):
                if isinstance(goal, Goal):
                    yield from ((step, file) for file in goal.all_files)


def secret_values(secrets: Secrets) -> list[str]:
    return [value for key, value in secrets.to_dict().items() if key != "cell_uuid"]


async def pending(steps: tuple[Step, ...]) -> set[str]:
    looks = await asyncio.gather(*(step.done() for step in steps))
    return {step.id for step, done in zip(steps, looks, strict=True) if not done}


@pytest.mark.parametrize("roles", [ALL_IN_ONE, TWO, SPREAD], ids=["one", "two", "spread"])
async def test_the_graph_is_sound_and_every_step_comes_to_be_done(roles: Mapping[str, tuple[str, ...]]) -> None:
    lab = Lab()
    steps = lab.steps(roles)
    assert len({step.id for step in steps}) == len(steps)
    ran = await lab.bring(steps)
    work = {step.id for step in steps} - {step.id for step in steps if step.id.startswith("verify/forget:")}
    assert sorted(ran) == sorted(work), "each step had something to do, but to forget computes that are gone"
    assert await pending(lab.steps(roles)) == set()


def test_order_of_one_container() -> None:
    waves = make_waves(Lab().steps(ALL_IN_ONE))
    place = {step: number for number, wave in enumerate(waves) for step in wave}
    host = ":ubuntu011"
    assert waves[0] == (f"database/server{host}", f"messaging/server{host}")
    for service in ("glance", "placement", "keystone"):
        assert place[f"{service}/server{host}"] == 1, f"{service} waits for nothing but the database"
    assert place[f"keystone/bootstrap{host}"] == 1
    assert (
        place[f"keystone/catalog{host}"]
        < place[f"compute/server{host}"]
        < place[f"verify/up{host}"]
        < place[f"verify/boot{host}"]
        == len(waves) - 1
    )


def test_computes_do_not_wait_for_each_other() -> None:
    for step in Lab().steps(TWO):
        assert not any(need.endswith(":ubuntu012") for need in step.needs) or step.id.endswith(":ubuntu012")


@pytest.mark.parametrize("roles", [ALL_IN_ONE, TWO, SPREAD], ids=["one", "two", "spread"])
def test_no_secret_in_a_file_that_others_read_nor_on_a_command_line(roles: Mapping[str, tuple[str, ...]]) -> None:
    lab = Lab()
    steps = lab.steps(roles)
    with_secrets = 0
    for step, file in all_files(steps):
        if any(value in file.content for value in secret_values(lab.secrets)):
            with_secrets += 1
            assert file.mode in ("0640", "0600", "0400"), f"{step.id} {file.path}"
            assert file.mode == "0640" or file.owner != "root" or file.path == "/root/openrc", file.path
            assert (file.mode == "0640") == (file.owner == "root" and file.group != "root"), file.path
    assert with_secrets >= 10
    for step in steps:
        if isinstance(step, ServiceStep):
            for command in (*step.before, *step.after):
                assert not any(value in " ".join(command.argv) for value in secret_values(lab.secrets))


async def test_no_secret_in_any_argv_or_repr() -> None:
    lab = Lab()
    steps = lab.steps(SPREAD)
    await lab.bring(steps)
    carried = 0
    for call in lab.cluster.calls:
        assert not any(value in " ".join(call.argv) for value in secret_values(lab.secrets))
        carried += any(value in call.stdin.decode() for value in secret_values(lab.secrets))
    assert carried >= 8, "secrets travel by standard input"
    for step in steps:
        assert not any(value in repr(step) for value in secret_values(lab.secrets)), step.id


def test_a_compute_has_no_database() -> None:
    lab = Lab()
    files = {(step.id, file.path): file for step, file in all_files(lab.steps(TWO))}
    compute = files["compute/server:ubuntu012", "/etc/nova/caas-compute.conf"].content
    assert "compute_driver = fake.FakeDriver" in compute
    assert "host = ubuntu012" in compute
    assert "my_ip = 192.168.10.51" in compute
    assert lab.secrets.database_nova not in compute
    assert "[database]" not in compute
    control = files["nova-conductor/server:ubuntu011", "/etc/nova/nova.conf"].content
    assert "compute_driver" not in control
    assert f"nova:{lab.secrets.database_nova}@192.168.10.50:3306/nova?charset=utf8" in control


def test_split_roles_find_each_other() -> None:
    lab = Lab()
    site = make_lab_site(SPREAD)
    files = {(step.id, file.path): file for step, file in all_files(lab.steps(SPREAD))}
    api = files[f"nova-api/server:{site.holder(Role.NOVA_API).hostname}", "/etc/nova/nova.conf"].content
    assert f"@{site.address(Role.DATABASE)}:3306/nova_api" in api
    assert f"@{site.address(Role.MESSAGING)}:5672/" in api
    assert f"auth_url = http://{site.address(Role.KEYSTONE)}:5000/v3" in api
    assert f"my_ip = {site.address(Role.NOVA_API)}" in api


async def test_adding_a_compute_touches_only_that_compute() -> None:
    lab = Lab()
    await lab.bring(lab.steps(ALL_IN_ONE))
    before = dict(lab.containers["ubuntu011"].files), dict(lab.containers["ubuntu011"].started)
    lab.cluster.calls.clear()
    steps = lab.steps(TWO)
    added = {"compute/server:ubuntu012", "verify/up:ubuntu012", "verify/boot:ubuntu012"}
    assert await pending(steps) == added
    assert set(await lab.bring(steps)) == added
    assert (lab.containers["ubuntu011"].files, lab.containers["ubuntu011"].started) == before
    assert {call.container for call in lab.cluster.programs("apply")} == {"ubuntu012"}
    assert [
        call.argument["action"] for call in lab.cluster.programs("cloud") if call.argument["action"] != "status"
    ] == [
        "up",
        "boot",
    ]


async def test_looking_takes_one_exec_for_each_container_and_changes_nothing() -> None:
    lab = Lab()
    await lab.bring(lab.steps(TWO))
    lab.cluster.calls.clear()
    assert await pending(lab.steps(TWO)) == set()
    assert sorted((call.container, call.program) for call in lab.cluster.calls) == [
        ("ubuntu011", "cloud"),
        ("ubuntu011", "probe"),
        ("ubuntu012", "probe"),
    ]
    assert [call.argument["action"] for call in lab.cluster.programs("cloud")] == ["status"]


@pytest.mark.parametrize("damage", ["file", "mode", "unit", "stale", "row", "public row"])
async def test_done_looks(damage: str) -> None:
    lab = Lab()
    await lab.bring(lab.steps(TWO))
    container = lab.containers["ubuntu011"]
    path = "/etc/nova/nova.conf"
    expected = {"nova-api/server:ubuntu011", "nova-conductor/server:ubuntu011", "nova-scheduler/server:ubuntu011"}
    match damage:
        case "file":
            container.files[path] = {**container.files[path], "content": "debug = true\n"}
        case "mode":
            container.files[path] = {**container.files[path], "mode": "0644"}
        case "unit":
            del container.started["nova-conductor"]
            expected = {"nova-conductor/server:ubuntu011"}
        case "stale":
            container.started["nova-conductor"] = "of another configuration"
            expected = {"nova-conductor/server:ubuntu011"}
        case "row":
            for rows in lab.cluster.rows.values():
                rows[:] = [row for row in rows if row[:2] != ("image", "internal")]
            expected = {"keystone/catalog:ubuntu011"}
        case "public row":
            for rows in lab.cluster.rows.values():
                rows[:] = [row for row in rows if row[:2] != ("image", "public")]
            expected = {"keystone/public:ubuntu011"}
    assert await pending(lab.steps(TWO)) == expected


async def test_a_changed_choice_restarts_only_those_it_concerns() -> None:
    lab = Lab()
    await lab.bring(lab.steps(TWO))
    steps = lab.steps(TWO, virt_driver="fake-small")
    assert await pending(steps) == {
        f"{step}:{host}" for step in ("compute/server", "verify/up") for host in ("ubuntu011", "ubuntu012")
    }
    restarts = {step.id: await step.restarts() for step in steps if isinstance(step, ServiceStep)}
    assert {step for step, units in restarts.items() if units} == {
        "compute/server:ubuntu011",
        "compute/server:ubuntu012",
    }


PUBLICS = {
    "keystone": "203.0.113.1:18000",
    "glance": "203.0.113.1:18001",
    "placement": "203.0.113.1:18002",
    "nova-api": "203.0.113.1:18003",
    "neutron": "203.0.113.1:18004",
}
PUBLIC_URLS = {
    ("identity", "http://203.0.113.1:18000/v3"),
    ("image", "http://203.0.113.1:18001"),
    ("placement", "http://203.0.113.1:18002"),
    ("compute", "http://203.0.113.1:18003/v2.1"),
    ("network", "http://203.0.113.1:18004"),
}


def endpoints(lab: Lab, interface: str) -> set[tuple[str, str]]:
    return {(row[0], row[3]) for row in lab.cluster.rows[ENDPOINTS_QUERY] if row[1] == interface}


async def test_a_published_api_has_public_endpoints_and_inside_nothing_differs() -> None:
    lab, plain = Lab(), Lab()
    await lab.bring(lab.steps(TWO, publics=PUBLICS))
    await plain.bring(plain.steps(TWO))
    assert endpoints(lab, "public") == PUBLIC_URLS
    assert endpoints(lab, "internal") == endpoints(plain, "internal") == endpoints(plain, "public")
    urls = {url for _, url in PUBLIC_URLS}
    files = [file for container in lab.containers.values() for file in container.files.values()]
    assert not [file["path"] for file in files if any(url in file["content"] for url in urls)]


async def test_publishing_and_taking_it_back_change_endpoints_and_restart_nothing() -> None:
    lab = Lab()
    await lab.bring(lab.steps(TWO))
    before = endpoints(lab, "public")
    started = {name: dict(container.started) for name, container in lab.containers.items()}
    choices: tuple[tuple[dict[str, str], set[tuple[str, str]]], ...] = ((PUBLICS, PUBLIC_URLS), ({}, before))
    for publics, wanted in choices:
        lab.cluster.calls.clear()
        steps = lab.steps(TWO, publics=publics)
        assert await pending(steps) == {"keystone/public:ubuntu011"}
        assert not [step for step in steps if step.id.startswith("keystone/public") and isinstance(step, Restarting)]
        assert await lab.bring(steps) == ["keystone/public:ubuntu011"]
        assert endpoints(lab, "public") == wanted
        assert lab.cluster.programs("apply") == []
        assert {name: container.started for name, container in lab.containers.items()} == started
        assert await pending(lab.steps(TWO, publics=publics)) == set()


def test_credentials_for_outside_differ_only_in_where_and_which_endpoints() -> None:
    site, secrets = make_lab_site(TWO, publics=PUBLICS), make_secrets()
    inside, outside = openrc_text(site, secrets).splitlines(), openrc_text(site, secrets, "public").splitlines()
    assert set(outside) - set(inside) == {
        "export OS_AUTH_URL='http://203.0.113.1:18000/v3'",
        "export OS_INTERFACE='public'",
    }
    assert "auth_url: http://203.0.113.1:18000/v3\n" in clouds_yaml_text(site, secrets, "public")


async def test_failures_show_what_but_no_secret_and_can_be_run_again() -> None:
    lab = Lab()
    steps = lab.steps(ALL_IN_ONE)
    lab.cluster.fail["apply"] = f"near '{lab.secrets.database_nova}'"
    with pytest.raises(
        CaasError, match=r"database/server:ubuntu011: ubuntu011: .* ended with 1: near '\*\*\*'"
    ) as caught:
        await lab.bring(steps)
    assert caught.value.code is Code.FAILED
    assert caught.value.__cause__ is None, "nor in what is shown with a traceback"
    await lab.bring(steps)
    assert await pending(steps) == set()


async def test_the_gate_limits_how_many_computes_start_at_once() -> None:
    roles: Mapping[str, tuple[str, ...]] = {**ALL_IN_ONE, **{f"c{number}": ("compute",) for number in range(6)}}
    cluster, secrets, inside, most = FakeCluster(), make_secrets(), 0, 0

    class Slow(FakeContainer):
        async def run(self, *args: Any, **named: Any) -> Any:
            nonlocal inside, most
            inside, most = inside + 1, max(most, inside + 1)
            await asyncio.sleep(0)
            try:
                return await super().run(*args, **named)
            finally:
                inside -= 1

    shells = {name: Slow(cluster, name) for name in roles}
    steps = make_steps(make_lab_site(roles), shells, secrets, compute_gate=asyncio.Semaphore(2))
    await asyncio.gather(*(step.run() for step in steps if isinstance(step, ComputeStep)))
    assert most == 2


async def test_undo_of_a_compute_stops_it_and_has_nova_forget_it() -> None:
    lab = Lab()
    steps = {step.id: step for step in lab.steps(TWO)}
    await lab.bring(tuple(steps.values()))
    await steps["compute/server:ubuntu012"].undo()
    assert "nova-compute" not in lab.containers["ubuntu012"].started
    assert "/etc/caas/ready/nova-compute" not in lab.containers["ubuntu012"].files
    assert lab.cluster.computes_up == {"ubuntu011"}
    await steps["compute/server:ubuntu012"].undo()


async def test_nova_forgets_a_compute_that_is_gone() -> None:
    lab = Lab()
    await lab.bring(lab.steps(TWO))
    assert lab.cluster.computes_up == {"ubuntu011", "ubuntu012"}
    assert await lab.bring(lab.steps(ALL_IN_ONE)) == ["verify/forget:ubuntu011"]
    assert lab.cluster.computes_up == {"ubuntu011"}
    assert await lab.bring(lab.steps(ALL_IN_ONE)) == []
