"""Files as the coordinator reads them: `localhost`, agents, names that are looked up, and the same again later."""

from __future__ import annotations

import asyncio
import json
import socket
from ipaddress import IPv4Address

import pytest

from coordinator.config import ConfigError, Settings, Surroundings, load_bytes
from coordinator.reading import read_request
from proto import coordinator_pb2 as pb
from proto.errors import CaasError

SITE = Settings(agents={"host1": IPv4Address("192.0.2.1"), "host2": IPv4Address("192.0.2.2")}, localhost="host1")


def _request(host: str, distribution: str = "ubuntu") -> pb.FileRequest:
    provider = {
        "type": "LxcProvider",
        "distribution": distribution,
        "container_name_prefix": "c",
        "containers_per_host": 1,
        "host_provider": {"type": "ExistingServers", "credentials": [{"user": "root", "host": host}]},
    }
    document = {"type": "DevstackEngine", "localrc": {"VIRT_DRIVER": "fake"}, "provider": provider}
    return pb.FileRequest(
        content=json.dumps(document).encode(), file_name="f.json", distributions={"ubuntu": "debian:bookworm"}
    )


async def test_localhost_is_the_coordinators_host() -> None:
    reading = await read_request(SITE, _request("localhost"))
    assert {name: str(host.address) for name, host in reading.file.hosts.items()} == {"host1": "192.0.2.1"}


async def test_hosts_are_agents_by_address_and_by_name() -> None:
    assert list((await read_request(SITE, _request("192.0.2.2"))).file.hosts) == ["host2"]
    assert list((await read_request(SITE, _request("host2"))).file.hosts) == ["host2"]


async def test_a_name_that_is_no_agents_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(name: str, port: None, **_: object) -> list[tuple[object, ...]]:
        if name != "two.example.net":
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.2", 0))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    assert list((await read_request(SITE, _request("two.example.net"))).file.hosts) == ["host2"]
    unknown = (await read_request(SITE, _request("three.example.net"))).file
    assert unknown.hosts["three.example.net"].address is None
    with pytest.raises(ConfigError, match=r"three\.example\.net is not known"):
        unknown.check_deployable()


async def test_an_address_without_an_agent_is_an_error_that_lists_the_agents() -> None:
    with pytest.raises(ConfigError) as caught:
        await read_request(SITE, _request("192.0.2.9"))
    (problem,) = caught.value.problems
    assert "no agent is known at 192.0.2.9" in problem.message
    assert "host1 (192.0.2.1)" in problem.hint


async def test_a_distribution_nobody_makes_is_refused() -> None:
    request = _request("localhost")
    request.distributions["ubuntu"] = "beos:5"
    with pytest.raises(CaasError, match="beos:5"):
        await read_request(SITE, request)


async def test_what_was_read_is_read_to_the_same_end_later() -> None:
    reading = await read_request(SITE, _request("localhost"))
    kept = Surroundings.from_dict(json.loads(reading.surroundings_json))
    assert load_bytes(reading.content, file=reading.file_name, surroundings=kept) == reading.file
