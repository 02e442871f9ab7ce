"""What inside/cloud.py asks of keystone: as little as makes the endpoints right."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.nova.inside.cloud import RefusedError, make_catalog, set_endpoints


class FakeKeystone:
    """inside.cloud.Cloud over objects in memory; `writes` are the requests that change something."""

    def __init__(self) -> None:
        self.objects: dict[str, list[dict[str, Any]]] = {
            "service": [{"id": "s0", "name": "keystone", "type": "identity"}],
            "endpoint": [self._endpoint(0, "public"), self._endpoint(1, "internal")],
            "project": [],
            "user": [],
            "role": [{"id": "r0", "name": "service"}],
        }
        self.writes: list[tuple[str, str]] = []

    @staticmethod
    def _endpoint(number: int, interface: str) -> dict[str, Any]:
        place = {"id": f"e{number}", "service_id": "s0", "interface": interface}
        return {**place, "region_id": "RegionOne", "url": "http://192.168.10.50:5000/v3"}

    def call(self, service: str, method: str, path: str, body: Any = None) -> Any:
        assert service == "identity"
        kind, _, name = path.strip("/").partition("/")
        kind = kind.removesuffix("s")
        if method == "GET":
            return {f"{kind}s": [dict(one) for one in self.objects[kind]]}
        self.writes.append((method, path))
        if method == "POST":
            made = {"id": f"{kind[0]}{len(self.objects[kind])}", **body[kind]}
            self.objects[kind].append(made)
            return {kind: dict(made)}
        if method == "PATCH":
            next(one for one in self.objects[kind] if one["id"] == name).update(body[kind])
        return None

    def urls(self, interface: str) -> dict[str, str]:
        types = {service["id"]: service["type"] for service in self.objects["service"]}
        return {
            types[one["service_id"]]: one["url"] for one in self.objects["endpoint"] if one["interface"] == interface
        }


CATALOG = {
    "project": "service",
    "region": "RegionOne",
    "interface": "internal",
    "users": [{"name": "glance", "password": "p", "roles": ["service"]}],
    "services": [{"name": "glance", "type": "image", "description": "Images", "url": "http://192.168.10.50:9292"}],
}
PUBLIC = {
    "interface": "public",
    "region": "RegionOne",
    "urls": {"identity": "http://203.0.113.1:5000/v3", "image": "http://203.0.113.1:9292"},
}


def test_the_catalog_is_made_and_corrected() -> None:
    cloud = FakeKeystone()
    make_catalog(cloud, CATALOG)  # type: ignore[arg-type]
    assert cloud.urls("internal")["image"] == "http://192.168.10.50:9292"
    assert "image" not in cloud.urls("public")
    services = [{**CATALOG["services"][0], "url": "http://192.168.10.51:9292"}]  # type: ignore[dict-item]
    cloud.writes.clear()
    make_catalog(cloud, {**CATALOG, "services": services})  # type: ignore[arg-type]
    assert cloud.urls("internal")["image"] == "http://192.168.10.51:9292"
    assert [write for write in cloud.writes if "endpoints" in write[1]] == [("PATCH", "/endpoints/e2")]


def test_public_endpoints_are_made_changed_and_otherwise_left_alone() -> None:
    cloud = FakeKeystone()
    make_catalog(cloud, CATALOG)  # type: ignore[arg-type]
    before = cloud.urls("internal")
    cloud.writes.clear()
    set_endpoints(cloud, PUBLIC)  # type: ignore[arg-type]
    assert cloud.urls("public") == PUBLIC["urls"]
    assert cloud.urls("internal") == before
    assert cloud.writes == [("PATCH", "/endpoints/e0"), ("POST", "/endpoints")]
    cloud.writes.clear()
    set_endpoints(cloud, PUBLIC)  # type: ignore[arg-type]
    assert cloud.writes == []


def test_a_service_that_is_not_there_is_named() -> None:
    with pytest.raises(RefusedError, match="no service of type image"):
        set_endpoints(FakeKeystone(), PUBLIC)  # type: ignore[arg-type]
