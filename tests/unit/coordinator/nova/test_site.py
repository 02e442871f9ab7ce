"""Sites: which splits of roles are possible, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.nova import Role, make_secrets, make_site, make_steps
from coordinator.nova.site import CONTROLLER_ROLES, expand_roles
from proto.errors import CaasError, Code


def member(name: str, number: int, *roles: str) -> dict[str, Any]:
    return {"hostname": name, "address": f"192.168.10.{number}", "roles": roles}


def test_controller_is_all_but_compute() -> None:
    assert expand_roles(["controller"]) == frozenset(Role) - {Role.COMPUTE} == CONTROLLER_ROLES
    assert expand_roles(["controller", "compute"]) == frozenset(Role)


def test_each_role_may_have_a_container_of_its_own() -> None:
    site = make_site(cluster="c", containers=[member(f"h{n}", 10 + n, str(role)) for n, role in enumerate(Role)])
    assert {site.holder(role).hostname for role in CONTROLLER_ROLES} == {f"h{n}" for n in range(len(CONTROLLER_ROLES))}
    assert [compute.hostname for compute in site.computes] == ["h8"]


@pytest.mark.parametrize(
    ("containers", "message"),
    [
        ([member("a", 1, "compute")], "no container has the roles database, messaging, keystone"),
        ([], "no container has the roles database"),
        ([member("a", 1, *(str(r) for r in Role if r is not Role.GLANCE))], "no container has the role glance$"),
        ([member("a", 1, "controller"), member("b", 2, "glance")], "role glance is given to a, b"),
        ([member("a", 1, "controller"), member("a", 2, "compute")], "a host name is given twice"),
        ([member("a", 1, "controler")], "role 'controler': known are controller, database"),
        ([member("A_", 1, "controller")], "host name 'A_'"),
        ([{"hostname": "a", "address": "fe80::1", "roles": ["controller"]}], "container a: address 'fe80::1'"),
    ],
)
def test_refused(containers: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(CaasError, match=message) as caught:
        make_site(cluster="c", containers=containers)
    assert caught.value.code is Code.INVALID


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"virt_driver": "libvrt"}, "virt_driver 'libvrt': known are fake"),
        ({"region": "Region One"}, "region 'Region One'"),
        ({"options": {"api_workers": 0}}, "api_workers 0: 1 to 64"),
        ({"options": {"api_worker": 1}}, "unknown option api_worker"),
    ],
)
def test_refused_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(CaasError, match=message):
        make_site(cluster="c", containers=[member("a", 1, "controller")], **values)


def test_every_container_needs_a_shell() -> None:
    site = make_site(cluster="c", containers=[member("a", 1, "controller")])
    with pytest.raises(CaasError, match="no shell for a"):
        make_steps(site, {}, make_secrets())
