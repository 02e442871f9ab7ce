"""Runs inside the container of an API: talk to keystone, glance and nova as the administrator, over plain HTTP.

One process for many requests; no client library, whose import alone takes a second. The password is read from
root's openrc. Prints one JSON document.
"""

import http.client
import json
import sys
import time
import urllib.parse
from typing import Any

OPENRC = "/root/openrc"
PAUSE = 0.2
#: Beyond the time for booting: what was booted late is deleted all the same.
DELETE_SECONDS = 30.0
#: compute API 2.74 takes the host of a new server in `host`; 2.37 made `networks` a must.
MICROVERSION = "2.74"


class RefusedError(Exception):
    """A request that was answered with an error: the message shows it."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Cloud:
    """A session with keystone: a token, the catalog, one connection for each service."""

    def __init__(self) -> None:
        with open(OPENRC) as file:
            lines = [line.strip().removeprefix("export ") for line in file if "=" in line]
        self.settings = {key: value.strip("'\"") for key, _, value in (line.partition("=") for line in lines)}
        self._token = ""
        self._urls: dict[str, str] = {"identity": self.settings["OS_AUTH_URL"]}
        self._connections: dict[str, http.client.HTTPConnection] = {}
        self._log_in()

    def _log_in(self) -> None:
        user = {
            "name": self.settings["OS_USERNAME"],
            "password": self.settings["OS_PASSWORD"],
            "domain": {"name": self.settings["OS_USER_DOMAIN_NAME"]},
        }
        scope = {
            "project": {
                "name": self.settings["OS_PROJECT_NAME"],
                "domain": {"name": self.settings["OS_PROJECT_DOMAIN_NAME"]},
            }
        }
        body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
        answer = self._send("identity", "POST", "/auth/tokens", json.dumps(body).encode(), {})
        self._token = str(answer["headers"]["X-Subject-Token"])
        for service in json.loads(answer["body"])["token"]["catalog"]:
            for endpoint in service["endpoints"]:
                if endpoint["interface"] == "internal":
                    self._urls[service["type"]] = endpoint["url"].rstrip("/")
        self._urls["identity"] = self.settings["OS_AUTH_URL"]

    def _send(self, service: str, method: str, path: str, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
        if service not in self._urls:
            raise RefusedError(f"keystone's catalog has no service of type {service}", 0)
        url = urllib.parse.urlsplit(self._urls[service])
        # A connection for each request: uwsgi here closes them anyway.
        connection = http.client.HTTPConnection(url.netloc, timeout=60)
        try:
            connection.request(method, url.path + path, body or None, {"Content-Type": "application/json"} | headers)
            response = connection.getresponse()
            content = response.read()
        except OSError as exc:
            raise RefusedError(f"{service} at {url.netloc} does not answer: {exc}", 0) from exc
        finally:
            connection.close()
        if response.status >= 400:
            text = content.decode(errors="replace")[:400]
            raise RefusedError(f"{method} {service} {path} was answered {response.status}: {text}", response.status)
        return {"headers": response.headers, "body": content}

    def call(self, service: str, method: str, path: str, body: object = None, **headers: str) -> Any:
        """The decoded answer of one request, or None where it is empty. RefusedError for a status from 400 on."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        all_headers = {"X-Auth-Token": self._token, "Accept": "application/json"}
        all_headers |= {"OpenStack-API-Version": f"compute {MICROVERSION}"} if service == "compute" else {}
        all_headers |= {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self._send(service, method, path, data, all_headers)
        return json.loads(answer["body"]) if answer["body"] else None


class Catalog:
    """Keystone's objects by kind, read once and completed: what is there already is kept."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._found: dict[str, list[dict[str, Any]]] = {}

    def found(self, kind: str) -> list[dict[str, Any]]:
        """All objects of *kind*."""
        if kind not in self._found:
            self._found[kind] = self._cloud.call("identity", "GET", f"/{kind}s")[f"{kind}s"]
        return self._found[kind]

    def ensure(self, kind: str, body: dict[str, Any], *, same: tuple[str, ...]) -> tuple[str, bool]:
        """The id of the object that agrees with *body* in the keys *same*, and whether it had to be made."""
        for there in self.found(kind):
            if all(there.get(key) == body[key] for key in same):
                return str(there["id"]), False
        made = self._cloud.call("identity", "POST", f"/{kind}s", {kind: body})[kind]
        self.found(kind).append(made)
        return str(made["id"]), True


def make_catalog(cloud: Cloud, job: dict[str, Any]) -> dict[str, Any]:
    """Project, users with their roles, services, endpoints; passwords and addresses are corrected."""
    catalog, domain = Catalog(cloud), {"domain_id": "default"}
    about = {"description": "Accounts of the services"}
    project, _ = catalog.ensure("project", {"name": job["project"], **domain, **about}, same=("name", "domain_id"))
    for user in job["users"]:
        body = {"name": user["name"], "password": user["password"], **domain}
        identity, made = catalog.ensure("user", body, same=("name", "domain_id"))
        if not made:
            cloud.call("identity", "PATCH", f"/users/{identity}", {"user": {"password": user["password"]}})
        for name in user["roles"]:
            role, _ = catalog.ensure("role", {"name": name}, same=("name",))
            cloud.call("identity", "PUT", f"/projects/{project}/users/{identity}/roles/{role}")
    for wanted in job["services"]:
        body = {key: wanted[key] for key in ("name", "type", "description")}
        service, _ = catalog.ensure("service", body, same=("name", "type"))
        set_endpoint(cloud, catalog, service, job["interface"], {"region_id": job["region"], "url": wanted["url"]})
    return {}


def set_endpoint(cloud: Cloud, catalog: Catalog, service: str, interface: str, goal: dict[str, str]) -> None:
    """The endpoint of the service of that id, as *goal* says: left alone where it is so."""
    place = {"interface": interface, "service_id": service}
    endpoint, _ = catalog.ensure("endpoint", place | goal, same=tuple(place))
    (there,) = (one for one in catalog.found("endpoint") if one["id"] == endpoint)
    if any(there.get(key) != value for key, value in goal.items()):
        cloud.call("identity", "PATCH", f"/endpoints/{endpoint}", {"endpoint": goal})


def set_endpoints(cloud: Cloud, job: dict[str, Any]) -> dict[str, Any]:
    """The endpoints of one *interface*, by the type of their service (*urls*), in *region*."""
    catalog = Catalog(cloud)
    for kind, url in job["urls"].items():
        services = [service for service in catalog.found("service") if service["type"] == kind]
        if not services:
            raise RefusedError(f"keystone's catalog has no service of type {kind}", 0)
        goal = {"region_id": job["region"], "url": url}
        set_endpoint(cloud, catalog, services[0]["id"], job["interface"], goal)
    return {}


def list_services(cloud: Cloud, job: dict[str, Any]) -> dict[str, Any]:
    """What nova's API says of its services: [{binary, host, state, status}]."""
    found = cloud.call("compute", "GET", "/os-services")["services"]
    services = [{key: str(entry[key]) for key in ("binary", "host", "state", "status")} for entry in found]
    services.sort(key=lambda entry: (entry["binary"], entry["host"]))
    up = sum(entry["binary"] == "nova-compute" and entry["state"] == "up" for entry in services)
    return {"services": services, "computes_up": up}


def wait_for_computes(cloud: Cloud, job: dict[str, Any]) -> dict[str, Any]:
    """Wait until nova calls every host of *hosts* up and lists its hypervisor, which needs the host's mapping.

    {"late": those that it does not after *seconds*}.
    """
    deadline = time.monotonic() + job["seconds"]
    wanted = set(job["hosts"])
    while True:
        services = list_services(cloud, job)["services"]
        up = {entry["host"] for entry in services if entry["state"] == "up" and entry["binary"] == "nova-compute"}
        if wanted <= up:
            found = cloud.call("compute", "GET", "/os-hypervisors/detail")["hypervisors"]
            up &= {entry["service"]["host"] for entry in found}
        if wanted <= up or time.monotonic() > deadline:
            return {"late": sorted(wanted - up)}
        time.sleep(PAUSE)


def make_test_things(cloud: Cloud, job: dict[str, Any]) -> dict[str, Any]:
    """The image and the flavor that test servers are made from, both called *name*."""
    name = job["name"]
    images = cloud.call("image", "GET", f"/v2/images?name={name}")["images"]
    for image in images:
        if image["status"] != "active":  # a run() before this one died between the two requests
            cloud.call("image", "DELETE", f"/v2/images/{image['id']}")
    if not any(image["status"] == "active" for image in images):
        body = {"name": name, "disk_format": "raw", "container_format": "bare", "visibility": "public", "min_disk": 0}
        image = cloud.call("image", "POST", "/v2/images", body)
        data = job["text"].encode().ljust(512, b"\0")
        cloud.call("image", "PUT", f"/v2/images/{image['id']}/file", data, Content_Type="application/octet-stream")
    flavors = cloud.call("compute", "GET", "/flavors?is_public=None")["flavors"]
    if name not in {flavor["name"] for flavor in flavors}:
        flavor = {"name": name, "vcpus": 1, "ram": 64, "disk": 1}
        cloud.call("compute", "POST", "/flavors", {"flavor": flavor | {"description": "For the test servers of caas"}})
    return {}


def boot_and_delete(cloud: Cloud, job: dict[str, Any]) -> dict[str, Any]:
    """Boot a server on each of *hosts* without a network, see it there, delete it, see it gone.

    {HOST: {"boot", "delete"}, in seconds, or {"error"}}.
    """
    deadline = time.monotonic() + job["seconds"]
    servers = Servers(cloud, job["name"], job["hosts"])
    servers.delete(deadline)  # what is left of a run that died
    begun = time.monotonic()
    try:
        servers.boot(deadline)
        booted = time.monotonic()
    finally:
        servers.delete(deadline + DELETE_SECONDS)
    seconds = {"boot": round(booted - begun, 2), "delete": round(time.monotonic() - booted, 2)}
    return {host: {"error": servers.failed[host]} if host in servers.failed else seconds for host in job["hosts"]}


class Servers:
    """The test servers NAME-HOST of *hosts*; `failed` says why there is none, by host."""

    def __init__(self, cloud: Cloud, name: str, hosts: list[str]) -> None:
        self._cloud, self._name, self._hosts = cloud, name, hosts
        self.failed: dict[str, str] = {}

    def _seen(self) -> dict[str, list[dict[str, Any]]]:
        """What nova lists of them, by host; a run that died may have left several."""
        path = f"/servers/detail?all_tenants=1&limit=1000&name=^{self._name}-"
        found: dict[str, list[dict[str, Any]]] = {}
        for server in self._cloud.call("compute", "GET", path)["servers"]:
            host = server["name"].removeprefix(f"{self._name}-")
            if host in self._hosts:
                found.setdefault(host, []).append(server)
        return found

    def boot(self, deadline: float) -> None:
        """Make one on each host, and wait until each is there or will not be."""
        image = self._cloud.call("image", "GET", f"/v2/images?name={self._name}&status=active")["images"][0]["id"]
        flavors = self._cloud.call("compute", "GET", "/flavors?is_public=None")["flavors"]
        flavor = next(entry["id"] for entry in flavors if entry["name"] == self._name)
        for host in self._hosts:
            name = f"{self._name}-{host}"
            body = {"name": name, "imageRef": image, "flavorRef": flavor, "networks": "none", "host": host}
            try:
                self._cloud.call("compute", "POST", "/servers", {"server": body})
            except RefusedError as exc:
                self.failed[host] = str(exc)
        waiting = set(self._hosts) - self.failed.keys()
        while waiting:
            time.sleep(PAUSE)
            is_late = time.monotonic() > deadline
            seen = self._seen()
            for host in sorted(waiting):
                if self._is_decided(host, seen.get(host, []), is_late=is_late):
                    waiting.discard(host)

    def _is_decided(self, host: str, servers: list[dict[str, Any]], *, is_late: bool) -> bool:
        if not servers:
            if is_late:
                self.failed[host] = f"the test server on {host} is not listed"
            return is_late
        (server, *_) = servers
        state, where = server["status"], server.get("OS-EXT-SRV-ATTR:host")
        if state == "ACTIVE":
            if where != host:
                self.failed[host] = f"the test server was to boot on {host} and is on {where}"
            return True
        if state == "ERROR" or is_late:
            why = server.get("fault", {}).get("message", "too late")
            self.failed[host] = f"the test server on {host} is {state}: {why}"
            return True
        return False

    def delete(self, deadline: float) -> None:
        """Remove all of them, and wait until nova lists none."""
        asked: set[str] = set()
        while seen := self._seen():
            for host, servers in seen.items():
                for server in servers:
                    self._delete(host, server, asked)
            if not set(seen) - self.failed.keys():
                return
            if time.monotonic() > deadline:
                for host in seen:
                    self.failed.setdefault(host, f"the test server on {host} cannot be deleted: it is still there")
                return
            time.sleep(PAUSE)

    def _delete(self, host: str, server: dict[str, Any], asked: set[str]) -> None:
        if server["id"] in asked:
            if server["status"] == "ERROR" and server["OS-EXT-STS:task_state"] != "deleting":
                self.failed.setdefault(host, f"the test server on {host} cannot be deleted: it is ERROR")
            return
        asked.add(server["id"])
        try:
            self._cloud.call("compute", "DELETE", f"/servers/{server['id']}")
        except RefusedError as exc:
            if exc.status != 404:
                self.failed.setdefault(host, str(exc))


def forget_compute(cloud: Cloud, job: dict[str, Any]) -> dict[str, Any]:
    """Delete the compute service of *host*, with its provider in placement and its mapping. Gone is success."""
    found = cloud.call("compute", "GET", f"/os-services?binary=nova-compute&host={job['host']}")["services"]
    for entry in found:
        cloud.call("compute", "DELETE", f"/os-services/{entry['id']}")
    return {}


ACTIONS = {
    "catalog": make_catalog,
    "endpoints": set_endpoints,
    "status": list_services,
    "up": wait_for_computes,
    "prepare": make_test_things,
    "boot": boot_and_delete,
    "forget": forget_compute,
}


def main(job: dict[str, Any]) -> None:
    """*job*: `action`, one of ACTIONS, and what that takes."""
    try:
        json.dump(ACTIONS[job["action"]](Cloud(), job), sys.stdout)
    except RefusedError as exc:
        sys.exit(str(exc))
